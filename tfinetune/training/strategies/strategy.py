"""What every strategy is: parameters that serialize, and phases."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from tfinetune.data import DataSpec
from tfinetune.training.phase import Phase


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
