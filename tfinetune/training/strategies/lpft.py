"""LP-FT: probe first, then fine-tune from there."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from tfinetune.data import DataSpec
from tfinetune.training.phase import Phase, Views
from tfinetune.training.strategies.linear_probe import LinearProbe
from tfinetune.training.strategies.strategy import Strategy


class LPFT(Strategy):
    """Fit the head on the frozen backbone, then fine-tune the whole model gently.

    Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution": a head that already fits leaves the backbone little reason to distort its
    features. BatchNorm stays frozen and the better of the two phases by validation ships.

    Attributes:
        epochs: of fine-tuning.
        learning_rate: peak rate at the head.
        layer_decay: factor on the rate for each group further from the head.
        weight_decay: of AdamW.
        trainable: layer rules for fine-tuning; `"stage_5:"` trains that group and all after it,
            and what lies before runs once.
        views: see `Phase`.

    Example:
        >>> import tfinetune as ft
        >>> phases = ft.strategies.LPFT(epochs=5).phases(["stem", "head"], None)
        >>> [(phase.name, phase.epochs) for phase in phases]
        [('probe', 0), ('finetune', 5)]
    """

    epochs: Annotated[int, Field(ge=1)] = 10
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    trainable: str | tuple[str, ...] = "all"
    views: Views = "auto"

    def phases(self, groups: Sequence[str], spec: DataSpec) -> list[Phase]:
        """List the probe and the fine-tuning."""
        finetune = Phase(name="finetune", **self.model_dump())
        return [*LinearProbe().phases(groups, spec), finetune]
