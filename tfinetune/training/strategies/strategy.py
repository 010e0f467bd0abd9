"""What strategies are: parameters that serialize, and phases."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tfinetune.adaptation import OptimizerName
from tfinetune.data import DataSpec
from tfinetune.training.phase import Phase, Views


class Strategy(BaseModel, ABC):
    """Base of strategies. Subclass it with parameters as fields and implement `phases`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def phases(self, groups: Sequence[str], spec: DataSpec) -> list[Phase]:
        """List the phases for a backbone and a data set.

        Args:
            groups: names of the layer groups from input to head.
            spec: what the data set is like.
        """

    def parameters(self) -> dict[str, Any]:
        """Return the constructor's arguments, ready for YAML."""
        return self.model_dump(mode="json")


class GradientStrategy(Strategy):
    """Base of strategies that train by gradient descent.

    Attributes:
        epochs: passes over the training split.
        learning_rate: peak rate at the head.
        weight_decay: of the optimizer.
        optimizer: `adamw`, `lion` or `sgd`.
        label_smoothing: share of each label that is spread over all classes.
        views: see `Phase`.
    """

    epochs: Annotated[int, Field(ge=1)] = 10
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    optimizer: OptimizerName = "adamw"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    views: Views = "auto"


class BackboneStrategy(GradientStrategy):
    """Base of strategies that train layers of the backbone.

    Attributes:
        trainable: layer rules; `"stage_5:"` trains that group and all after it, `"-2:"` the last
            two, and what lies before runs once.
        layer_decay: factor on the rate for each group further from the head.
        batch_norm: `frozen` for a pretrained backbone; a random one needs `adapt`.
    """

    trainable: str | tuple[str, ...] = "all"
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch_norm: Literal["frozen", "adapt"] = "frozen"
