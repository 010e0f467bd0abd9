"""Turn a fine-tuned model into a SavedModel that serves, and prove that it predicts the same."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import keras

from tfinetune.errors import RunError
from tfinetune.export.parity import ParityRow, check_parity
from tfinetune.export.saved_model import export_saved_model
from tfinetune.storage import atomic_path

__all__ = ["ParityRow", "check_parity", "export_checked", "export_saved_model", "sample_photos"]


def export_checked(
    model: keras.Model,
    path: str | Path,
    *,
    class_names: Sequence[str],
    aspect: str,
    photos: Sequence[str | Path],
) -> list[ParityRow]:
    """Write a SavedModel that passed the parity gate, or nothing.

    Args:
        model: image -> probabilities.
        path: folder to write, such as `serving/1`; it appears complete or not at all.
        class_names: in the order of the model's outputs.
        aspect: how photos are brought to the model's size.
        photos: real files for the gate.

    Raises:
        ParityError: if the SavedModel predicts otherwise; nothing is kept then.
        RunError: if `path` holds something else than a SavedModel.
    """
    path = Path(path)
    if path.exists() and not (path / "saved_model.pb").is_file() and _is_taken(path):
        raise RunError(
            f"{path} holds something else than a SavedModel and was left alone. Export into a new "
            f"folder, such as {path / '1'}."
        )
    with atomic_path(path) as new:
        export_saved_model(model, new, class_names=class_names, aspect=aspect)
        return check_parity(model, new, photos=photos, aspect=aspect)


def _is_taken(path: Path) -> bool:
    return not path.is_dir() or any(path.iterdir())


def sample_photos() -> list[str]:
    """Return the two photos that ship with scikit-learn, for when there are no others."""
    folder = resources.files("sklearn.datasets.images")
    return [str(folder / name) for name in ("china.jpg", "flower.jpg")]
