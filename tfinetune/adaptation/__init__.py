"""Which variables train, and how fast."""

from tfinetune.adaptation.layerwise import (
    OPTIMIZERS,
    SGD,
    AdamW,
    Lion,
    OptimizerName,
    group_multipliers,
)
from tfinetune.adaptation.rules import Plan, PlanRow, resolve, trainable_plan

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "AdamW",
    "Lion",
    "OptimizerName",
    "Plan",
    "PlanRow",
    "group_multipliers",
    "resolve",
    "trainable_plan",
]
