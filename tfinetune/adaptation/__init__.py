"""Which variables train, and how fast."""

from tfinetune.adaptation.layerwise import AdamW, group_multipliers
from tfinetune.adaptation.rules import Plan, PlanRow, resolve, trainable_plan

__all__ = ["AdamW", "Plan", "PlanRow", "group_multipliers", "resolve", "trainable_plan"]
