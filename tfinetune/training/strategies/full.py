"""Full training: every layer from the first step, with a fresh head."""

from collections.abc import Sequence

from tfinetune.data import DataSpec
from tfinetune.training.phase import Phase
from tfinetune.training.strategies.strategy import BackboneStrategy


class Full(BackboneStrategy):
    """Train the whole model at once, from a pretrained or (with `weights="none"`) random backbone.

    `trainable="-2:"` trains the last layer groups only, in the same way.

    Example:
        >>> import tfinetune as ft
        >>> [phase.name for phase in ft.strategies.Full(epochs=3).phases(["stem", "head"], None)]
        ['full']
    """

    def phases(self, groups: Sequence[str], spec: DataSpec) -> list[Phase]:
        """List the one phase."""
        return [Phase(name="full", **self.model_dump())]
