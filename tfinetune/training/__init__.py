"""Phases, the strategies that list them, and the one runner that executes them."""

from tfinetune.training.checkpoint import Checkpoint
from tfinetune.training.class_weights import class_weights
from tfinetune.training.feature_cache import FeatureCache, Segment, View
from tfinetune.training.frozen_work import FrozenWork
from tfinetune.training.phase import Phase
from tfinetune.training.runner import Candidate, Outcome, run_phases

__all__ = [
    "Candidate",
    "Checkpoint",
    "FeatureCache",
    "FrozenWork",
    "Outcome",
    "Phase",
    "Segment",
    "View",
    "class_weights",
    "run_phases",
]
