"""Find out what a source is, and open it as a Keras model."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from tfinetune.backbones.applications import (
    application_scaling,
    build_application,
    default_image_size,
    find_application,
    unknown_source,
)
from tfinetune.backbones.folders import open_folder
from tfinetune.backbones.graph import is_functional
from tfinetune.backbones.input_scaling import InputScaling
from tfinetune.backbones.presets import is_preset_name, open_preset
from tfinetune.errors import BackboneError
from tfinetune.security.architecture import SUFFIXES as ARCHITECTURE_SUFFIXES
from tfinetune.security.architecture import read_architecture
from tfinetune.security.loading import load_architecture, load_keras, load_weights
from tfinetune.security.preflight import read_model_file
from tfinetune.storage import sha256_file

DEFAULT_IMAGE_SIZE = 224


@dataclass(frozen=True)
class Weights:
    """What the caller said about weights."""

    given: str | Path
    partial: bool

    @property
    def path(self) -> str | Path | None:
        """The weights file, if one was given."""
        return None if str(self.given).lower() in ("imagenet", "none") else self.given


@dataclass(frozen=True)
class Opened:
    """A model as it was found, before anything is cut."""

    model: keras.Model
    source: str
    kind: str
    era: str
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    scaling: InputScaling | None = None


def open_source(
    source: str | Path | keras.Model | Callable[[], keras.Model],
    *,
    weights: Weights,
    size: tuple[int, int] | None,
    custom_objects: Mapping[str, Any] | None,
    saved_model: Mapping[str, Any],
) -> Opened:
    """Open what a backbone may be made of.

    Args:
        source, custom_objects: see `load_backbone`.
        weights: what the caller said about them.
        size: (height, width) that was asked for.
        saved_model: tags, endpoint and features to choose of a SavedModel.

    Raises:
        BackboneError: if it is of no known kind, or damaged.
        UnsafeModelError: if it would run code or exhaust memory.
    """
    if isinstance(source, keras.Model):
        return _open_model(source, weights)
    if callable(source):
        return _open_model(_built(source), weights)
    if not isinstance(source, str | Path):
        raise BackboneError(
            "A backbone is a path, a name, a keras.Model or a function that builds one; received "
            f"{type(source).__name__}."
        )
    name = find_application(str(source))
    if name is not None and not os.path.isfile(source):
        return _open_application(name, weights, size)
    if is_preset_name(str(source)):
        _refuse_weights(source, weights)
        model, warnings = open_preset(str(source))
        return Opened(model, str(source), "hub", "KerasHub", warnings=warnings)
    looks_like_a_name = Path(source).name == str(source) and not Path(source).suffix
    if looks_like_a_name and not os.path.exists(source):
        raise unknown_source(str(source))
    any_size = size or (DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE)
    folder = open_folder(source, image_size=any_size, custom_objects=custom_objects, **saved_model)
    if folder is not None:
        _refuse_weights(source, weights)
        opened = Opened(source=str(source), **vars(folder))
    elif Path(source).suffix in ARCHITECTURE_SUFFIXES:
        opened = _open_architecture(source, weights, custom_objects)
    else:
        opened = _open_file(source, weights, custom_objects)
    if custom_objects:
        warning = f"uses custom objects: {', '.join(custom_objects)}; loading needs them too"
        opened = replace(opened, warnings=(*opened.warnings, warning))
    return opened


def _open_model(model: keras.Model, weights: Weights) -> Opened:
    opened = Opened(model, model.name, "object", f"Keras {keras.__version__}")
    if weights.path is None:
        return opened
    check_graph(opened)
    model = keras.models.clone_model(model)  # The caller's own keeps its weights.
    match = load_weights(model, weights.path, partial=weights.partial)
    return replace(
        opened,
        model=model,
        sha256=sha256_file(Path(weights.path)),
        notes=(f"{match.describe()}, from {weights.path}",),
    )


def _built(build: Callable[[], keras.Model]) -> keras.Model:
    model = build()
    if not isinstance(model, keras.Model):
        raise BackboneError(
            f"{getattr(build, '__name__', build)}() returned a {type(model).__name__}. Allowed: a "
            "function without arguments that returns a keras.Model."
        )
    return model


def _open_application(name: str, weights: Weights, size: tuple[int, int] | None) -> Opened:
    side = default_image_size(name)
    model, notes = build_application(
        name, image_size=size or (side, side), weights=weights.given, partial=weights.partial
    )
    era = f"Keras {keras.__version__}"
    scaling = application_scaling(name)
    return Opened(model, name, "application", era, notes=notes, scaling=scaling)


def _open_architecture(
    source: str | Path, weights: Weights, custom_objects: Mapping[str, Any] | None
) -> Opened:
    _, version = read_architecture(source)
    if str(weights.given).lower() == "imagenet":
        raise BackboneError(
            f"{source} holds an architecture without weights. Pass the file that its weights were "
            "saved to (weights=PATH, --weights PATH), or weights='none' for random ones."
        )
    model, match = load_architecture(
        source, weights=weights.path, partial=weights.partial, custom_objects=custom_objects
    )
    return Opened(
        model,
        str(source),
        "architecture",
        f"Keras {version}",
        sha256=sha256_file(Path(weights.path or source)),
        notes=(f"{match.describe()}, from {weights.path}",) if match else (),
    )


def _open_file(
    source: str | Path, weights: Weights, custom_objects: Mapping[str, Any] | None
) -> Opened:
    file = read_model_file(source)
    _refuse_weights(source, weights)
    return Opened(
        load_keras(file, custom_objects=custom_objects),
        str(source),
        {"zip": "keras", "hdf5": "hdf5"}[file.container],
        f"Keras {file.keras_version}",
        sha256=sha256_file(file.path),
    )


def _refuse_weights(source: str | Path, weights: Weights) -> None:
    if weights.path is not None:
        raise BackboneError(
            f"weights={str(weights.path)!r} goes with an architecture; {source} brings its own "
            "weights. Leave it out, or pass weights='none' to start the same architecture from "
            "scratch."
        )


def check_graph(opened: Opened) -> None:
    """Refuse models whose layers cannot be followed."""
    model, source = opened.model, opened.source
    if not is_functional(model):
        raise BackboneError(
            f"{source} is a subclassed model ({type(model).__name__}), whose layers cannot be "
            "followed. Build it with the functional API: keras.Model(inputs, outputs)."
        )
    if not getattr(model, "inputs", None):  # An unbuilt Sequential raises AttributeError here.
        raise BackboneError(
            f"{source} is a model that was never built. Call it once on an example, or give it an "
            "Input layer."
        )
    if stateful := _stateful_layers(model):
        raise BackboneError(
            f"{source} keeps its state from batch to batch (stateful=True in {', '.join(stateful)})"
            ": what it says of an example depends on those before. Pass a function that builds the "
            "same model with stateful=False, and weights= with what model.save_weights() wrote."
        )


def _stateful_layers(model: keras.Model) -> list[str]:
    return [layer.name for layer in model._flatten_layers() if getattr(layer, "stateful", False)]
