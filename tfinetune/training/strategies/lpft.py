"""LP-FT: probe first, then fine-tune from there."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from tfinetune.data import DataSpec
from tfinetune.training.phase import Phase
from tfinetune.training.strategies.linear_probe import LinearProbe
from tfinetune.training.strategies.strategy import BackboneStrategy


class LPFT(BackboneStrategy):
    """Fit the head on the frozen backbone, then fine-tune the whole model gently.

    Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution": a head that already fits leaves the backbone little reason to distort its
    features. BatchNorm stays frozen and the better of the two phases by validation ships.

    Example:
        >>> import tfinetune as ft
        >>> phases = ft.strategies.LPFT(epochs=5).phases(["stem", "head"], None)
        >>> [(phase.name, phase.epochs) for phase in phases]
        [('probe', 0), ('finetune', 5)]
    """

    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9

    def phases(self, groups: Sequence[str], spec: DataSpec) -> list[Phase]:
        """List the probe and the fine-tuning."""
        finetune = Phase(name="finetune", **self.model_dump())
        return [*LinearProbe().phases(groups, spec), finetune]
