"""Linear probe: a logistic head on the features of the frozen backbone."""

from collections.abc import Sequence

from tfinetune.data import DataSpec
from tfinetune.training.phase import Phase
from tfinetune.training.strategies.strategy import Strategy


class LinearProbe(Strategy):
    """Fit only the head, in one convex problem, on features of the clean and the flipped photos.

    Kornblith et al. 2019, "Do Better ImageNet Models Transfer Better?". The backbone stays exactly
    as it was and runs twice over the photos (once where the augmentation policy does not flip).

    Example:
        >>> import tfinetune as ft
        >>> [phase.solver for phase in ft.strategies.LinearProbe().phases(["stem", "head"], None)]
        ['logistic']
    """

    def phases(self, groups: Sequence[str], spec: DataSpec) -> list[Phase]:
        """List the one phase."""
        return [Phase(name="probe", trainable="head", solver="logistic")]
