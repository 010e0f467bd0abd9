"""Features of a frozen backbone, computed once and kept in memory."""

import numpy as np

from tfinetune.assembly import Assembly
from tfinetune.data import Split, flip, get_policy
from tfinetune.inference import constant_function, predict
from tfinetune.reporting import Reporter


def cached_views(augment: str) -> tuple[str, ...]:
    """Return the views to cache under an augmentation policy: mirrored too where it mirrors."""
    return ("clean", "flip") if get_policy(augment).flip else ("clean",)


class FeatureCache:
    """Pooled features of each split and view, as the backbone is when the cache is made.

    Args:
        assembly: its backbone and pooling are frozen into the cache; later training of the
            backbone does not reach it, so make a new cache then.
        batch_size: photos a forward pass.
        reporter: shows a bar for long passes.
    """

    def __init__(
        self, assembly: Assembly, *, batch_size: int = 64, reporter: Reporter | None = None
    ) -> None:
        self._function = constant_function(assembly.features_model)
        self._batch_size = batch_size
        self._reporter = reporter or Reporter()
        self._features: dict[tuple[str, str], np.ndarray] = {}

    def features(self, split: Split, *, view: str = "clean") -> np.ndarray:
        """Return features `[n, d]` in the split's own order.

        Args:
            split: photos to run.
            view: `clean`, or `flip` for the mirror image.
        """
        key = (split.fingerprint, view)
        if key not in self._features:
            batches = split.dataset(self._batch_size, epoch=0)
            if view == "flip":
                batches = batches.map(lambda images, _: flip(images))
            with self._reporter.bar(f"features of {split.name} ({view})") as advance:
                self._features[key] = predict(
                    self._function, batches, total=len(split), advance=advance
                )
        return self._features[key]
