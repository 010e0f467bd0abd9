"""Check a model file before anything in it is built.

What is no file at all is said at once; the content is looked into by a child process with limits on
memory and time, see `examiner`.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tfinetune.errors import BackboneError
from tfinetune.security.containers import NATIVE_HINT
from tfinetune.security.examiner import EXAMINER


@dataclass(frozen=True)
class ModelFile:
    """What a checked file holds.

    Attributes:
        path: where it lies.
        container: "zip" (Keras 3 `.keras`) or "hdf5" (`.h5`, whatever its name).
        config: the model's JSON config.
        keras_version: the writer's version, such as "2.2.4-tf"; "1" where the file does not say.
        stored_elements: how many numbers its weight data sets hold.
    """

    path: Path
    container: Literal["zip", "hdf5"]
    config: dict[str, Any]
    keras_version: str
    stored_elements: int

    @property
    def major_version(self) -> int:
        """The first number of the writer's version; 1 where it cannot be read."""
        digits = self.keras_version.partition(".")[0]
        return int(digits) if digits.isdecimal() else 1


def read_model_file(path: str | Path) -> ModelFile:
    """Check the file at `path` and read its config.

    The content decides what it is; the name does not matter.

    Raises:
        UnsafeModelError: for a bomb, a path or link out of the file, an encrypted member, or a
            file that the zip or HDF5 library cannot read in bounded time and memory.
        BackboneError: for anything else that is not a readable Keras model file.
        StorageError: if the temporary folder has no room for the weights in a zip.
    """
    path = Path(path)
    _refuse_what_is_no_file(path)
    return ModelFile(path, **EXAMINER.examine("examine_model", path))


def check_weights_file(path: str | Path) -> int:
    """Check a weights-only HDF5 file and return how many numbers it stores.

    Raises:
        UnsafeModelError: as `read_model_file`.
        BackboneError: where the file is missing, damaged or not HDF5.
    """
    path = Path(path)
    _refuse_what_is_no_file(path)
    return EXAMINER.examine("examine_weights", path)["stored_elements"]


def _refuse_what_is_no_file(path: Path) -> None:
    if os.path.isdir(path):
        raise BackboneError(_describe_folder(path))
    if not os.path.exists(path):  # Unlike Path.exists, it never raises.
        raise BackboneError(
            f"There is no model at {path}. Allowed: a .keras or .h5 file, the name of a "
            "keras.applications model, or a keras.Model."
        )
    if not os.path.isfile(path):
        raise BackboneError(f"{path} is not a regular file. Copy the model to a file first.")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise BackboneError(f"{path} is empty. Download or save it again.")
    except OSError as error:
        raise BackboneError(f"{path} cannot be read: {error.strerror or error}.") from error


def _describe_folder(path: Path) -> str:
    if (path / "saved_model.pbtxt").exists():
        return f"{path} is a SavedModel written as text. Save it again in the usual binary form."
    if (path / "saved_model.pb").exists():
        return f"{path} is a SavedModel folder, not a model file. `load_backbone` opens it."
    nested = next(iter(sorted(path.glob("*/saved_model.pb"))), None)
    if nested is not None:
        return f"{path} holds a SavedModel: pass {nested.parent} as the backbone."
    if (path / "model.json").exists():
        return (
            f"{path} is a TensorFlow.js model folder, which Keras cannot open. Export it again as "
            "Keras: in Teachable Machine choose Export Model > Tensorflow > Keras, or save it "
            "with `model.save('model.keras')`."
        )
    found = sorted(p.name for p in path.glob("*") if p.suffix in {".keras", ".h5", ".hdf5"})
    hint = f"It holds {', '.join(found[:3])}: pass one of these." if found else NATIVE_HINT
    return f"{path} is a folder, not a model file. {hint}"
