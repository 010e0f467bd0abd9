"""Gradual unfreezing: the head first, then one more layer group in each phase."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from tfinetune.data import DataSpec
from tfinetune.training.phase import Phase, Views
from tfinetune.training.strategies.strategy import Strategy


class GradualUnfreezing(Strategy):
    """Train the head, then unfreeze group after group from the head towards the input.

    Howard & Ruder 2018, "Universal Language Model Fine-tuning for Text Classification": layers
    near the head hold the least general knowledge and may move first. Each phase runs what is
    still frozen once and starts from what the phase before learned; the best by validation ships.

    Attributes:
        groups: of the backbone that unfreeze, counted from the head; None unfreezes all.
        epochs: of each phase.
        head_learning_rate: peak rate while the head trains alone.
        learning_rate: peak rate at the head afterwards.
        layer_decay: factor on the rate for each group further from the head.
        weight_decay: of AdamW.
        views: see `Phase`.

    Example:
        >>> import tfinetune as ft
        >>> groups = ["stem", "stage_1", "stage_2", "head"]
        >>> strategy = ft.strategies.GradualUnfreezing(groups=2)
        >>> [phase.trainable for phase in strategy.phases(groups, None)]
        ['head', 'stage_2:', 'stage_1:']
    """

    groups: Annotated[int, Field(ge=1)] | None = 3
    epochs: Annotated[int, Field(ge=1)] = 4
    head_learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    views: Views = "auto"

    def phases(self, groups: Sequence[str], spec: DataSpec) -> list[Phase]:
        """List the head's phase and one for each group that unfreezes."""
        *backbone, _ = groups
        unfreezing = backbone[::-1][: self.groups]
        rules = {"head": "head", **{f"from_{name}": f"{name}:" for name in unfreezing}}
        return [
            Phase(
                name=name,
                trainable=rule,
                epochs=self.epochs,
                learning_rate=self.head_learning_rate if rule == "head" else self.learning_rate,
                layer_decay=self.layer_decay,
                weight_decay=self.weight_decay,
                views=self.views,
            )
            for name, rule in rules.items()
        ]
