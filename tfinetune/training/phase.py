"""A phase: one stretch of training as plain data, listed by a strategy, executed by the runner."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tfinetune.adaptation import OptimizerName, Plan, group_multipliers, resolve
from tfinetune.assembly import Assembly
from tfinetune.errors import RecipeError

Views = Annotated[int, Field(ge=1)] | Literal["auto", "fresh"]

ENOUGH_VIEWS = 20_000
"""Training examples, each view counted, past which `auto` keeps no more than two views of each."""


class Phase(BaseModel):
    """What trains, how, and for how long.

    Attributes:
        name: shown in plans, curves and tables; unique within a strategy.
        trainable: layer rules, see `tfinetune.adaptation.rules`.
        solver: `sgd` trains with the optimizer; `logistic` fits the head on cached features of the
            frozen backbone in one convex problem, and needs neither epochs nor rate.
        epochs: passes over the training split.
        learning_rate: peak rate for the group nearest the head.
        layer_decay: each group further from the head trains at the rate times this, in (0, 1].
        weight_decay: decoupled from the gradient, as in AdamW.
        warmup: share of the steps over which the rate rises from zero, before it falls to zero
            along a cosine (Loshchilov & Hutter 2017, "SGDR").
        clip_norm: largest norm of all gradients together; None leaves them.
        optimizer: a name in `tfinetune.adaptation.OPTIMIZERS`.
        label_smoothing: share of each label that is spread over all classes, in [0, 1) (Szegedy et
            al. 2016, "Rethinking the Inception Architecture"); validation losses are without it.
        batch_norm: `frozen` keeps pretrained statistics and scale, `adapt` trains them.
        augment: whether the run's augmentation policy applies; with `logistic`, whether mirrored
            views are cached where the policy mirrors.
        views: how many augmented views of each example the epochs cycle through. `fresh` draws new
            ones in every epoch; `auto` does so too, except where the layers before the first that
            trains are worth running once (see `view_count`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    trainable: str | tuple[str, ...] = "all"
    solver: Literal["sgd", "logistic"] = "sgd"
    epochs: Annotated[int, Field(ge=0)] = 0
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    optimizer: OptimizerName = "adamw"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_norm: Literal["frozen", "adapt"] = "frozen"
    augment: bool = True
    views: Views = "auto"

    def plan(self, assembly: Assembly) -> Plan:
        """Resolve which layers train on a model; `apply` the result to set the flags."""
        return resolve(self.trainable, assembly, batch_norm=self.batch_norm)

    def policy(self, augment: str) -> str:
        """Return the augmentation policy that applies, given the run's."""
        return augment if self.augment else "none"

    def view_count(self, examples: int) -> int:
        """Return `views`; where it is `auto`, one for four epochs, and fewer of many examples."""
        if isinstance(self.views, int):
            return self.views
        return max(2, min(math.ceil(self.epochs / 4), math.ceil(ENOUGH_VIEWS / examples)))

    def rates(self, groups: Sequence[str]) -> dict[str, float]:
        """Return the peak learning rate of each group, input to head; none for a convex solver."""
        if self.solver != "sgd":
            return {}
        multipliers = group_multipliers(list(groups), self.layer_decay)
        return {name: self.learning_rate * multiplier for name, multiplier in multipliers.items()}


def check_head(phases: Sequence[Phase], *, hidden: bool) -> None:
    """Refuse to solve for a head that has a hidden layer.

    Raises:
        RecipeError: if a phase is convex and the head is not linear.
    """
    convex = [phase.name for phase in phases if phase.solver == "logistic"]
    if hidden and convex:
        raise RecipeError(
            f"The phase {convex[0]} solves for a linear head; this one has a hidden layer. "
            "Leave out --head-units, or choose --strategy head or full."
        )
