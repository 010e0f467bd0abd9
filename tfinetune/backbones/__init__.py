"""Backbones: open a pretrained model of any supported kind and give it the same handles."""

import contextlib

from tfinetune.security.examiner import EXAMINER

with contextlib.suppress(OSError):  # It is ready when TensorFlow, which comes next, is.
    EXAMINER.start()

from tfinetune.backbones.applications import application_names
from tfinetune.backbones.backbone import Backbone, Provenance
from tfinetune.backbones.describe import describe
from tfinetune.backbones.groups import LayerGroup
from tfinetune.backbones.input_scaling import InputScaling
from tfinetune.backbones.loader import load_backbone

__all__ = [
    "Backbone",
    "InputScaling",
    "LayerGroup",
    "Provenance",
    "application_names",
    "describe",
    "load_backbone",
]
