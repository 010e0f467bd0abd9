"""Full training: every layer from the first step, with a fresh head."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from tfinetune.data import DataSpec
from tfinetune.training.phase import Phase
from tfinetune.training.strategies.strategy import Strategy


class Full(Strategy):
    """Train the whole model at once, from a pretrained or (with `weights="none"`) random backbone.

    Attributes:
        epochs: passes over the training split.
        learning_rate: peak rate at the head.
        layer_decay: factor on the rate for each group further from the head.
        weight_decay: of AdamW.
        batch_norm: `frozen` for a pretrained backbone; a random one needs `adapt`.

    Example:
        >>> import tfinetune as ft
        >>> [phase.name for phase in ft.strategies.Full(epochs=3).phases(["stem", "head"], None)]
        ['full']
    """

    epochs: Annotated[int, Field(ge=1)] = 10
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    batch_norm: Literal["frozen", "adapt"] = "frozen"

    def phases(self, groups: Sequence[str], spec: DataSpec) -> list[Phase]:
        """List the one phase."""
        return [Phase(name="full", trainable="all", **self.model_dump())]
