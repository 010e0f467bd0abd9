"""Random views of training photos, as a stateless function of seed, epoch and example."""

from tfinetune.data.augmentation.operation import Operation
from tfinetune.data.augmentation.policy import OPERATIONS, POLICIES, Policy, get_policy
from tfinetune.data.augmentation.views import augment_batch, draw_parameters, flip, mix_batch

__all__ = [
    "OPERATIONS",
    "POLICIES",
    "Operation",
    "Policy",
    "augment_batch",
    "draw_parameters",
    "flip",
    "get_policy",
    "mix_batch",
]
