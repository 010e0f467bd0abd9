"""Head: train the head alone by gradient descent."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from tfinetune.data import DataSpec
from tfinetune.training.phase import Phase
from tfinetune.training.strategies.strategy import GradientStrategy


class Head(GradientStrategy):
    """Train a fresh head on the frozen backbone, whose work is done once.

    Where the head is one linear layer, `LinearProbe` reaches its optimum sooner; a head with a
    hidden layer, dropout and label smoothing need gradients.

    Example:
        >>> import tfinetune as ft
        >>> [phase.trainable for phase in ft.strategies.Head().phases(["stem", "head"], None)]
        ['head']
    """

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3

    def phases(self, groups: Sequence[str], spec: DataSpec) -> list[Phase]:
        """List the one phase."""
        return [Phase(name="head", trainable="head", **self.model_dump())]
