"""Open a folder as a Keras model: a SavedModel, a run of tfinetune, or a KerasHub preset."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfinetune.backbones.presets import is_preset_folder, open_preset
from tfinetune.backbones.saved_model import open_saved_model
from tfinetune.runs import RunFolder
from tfinetune.security.loading import load_keras
from tfinetune.security.saved_model import find_saved_model
from tfinetune.storage import sha256_file


@dataclass(frozen=True)
class OpenedFolder:
    """What was found in a folder; the fields mean what they do in `Provenance`."""

    model: keras.Model
    kind: str
    era: str
    sha256: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def open_folder(
    path: str | Path, *, custom_objects: Mapping[str, Any] | None = None, **saved_model: Any
) -> OpenedFolder | None:
    """Open the model in the folder `path`; None if it is no folder, or of no known kind.

    Args:
        path: of a run, a SavedModel, a folder of its numbered versions, or a KerasHub preset.
        custom_objects: name -> class that the model may use beside Keras's own.
        **saved_model: other arguments of `open_saved_model`.

    Raises:
        RunError: if the run is not finished, or was changed.
        UnsafeModelError: if opening it would run code or exhaust memory.
        BackboneError: if it cannot be opened, or a choice is to be made: the options are listed.
    """
    path = Path(path)
    if (path / "recipe.yaml").is_file():
        run = RunFolder.open(path)
        return OpenedFolder(
            load_keras(run.model_path, custom_objects=custom_objects),
            "run",
            f"Keras {keras.__version__}",
            sha256_file(run.model_path),
            ("fine-tuned by tfinetune",),
        )
    if is_preset_folder(path):
        model, warnings = open_preset(str(path))
        return OpenedFolder(model, "hub", "KerasHub", _digest(path), warnings=warnings)
    folder = find_saved_model(path)
    if folder is None:
        return None
    opened = open_saved_model(folder, custom_objects=custom_objects, **saved_model)
    return OpenedFolder(
        opened.model, "saved_model", opened.era, _digest(folder), opened.notes, opened.warnings
    )


def _digest(folder: Path) -> str:
    """Return one SHA-256 over the names and contents of all files."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
