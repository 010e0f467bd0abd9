"""The one door for foreign Keras models: audit the config, bound the memory, then build.

Nothing in a file is executed. Classes are looked up among Keras's own layers, initializers and the
like, and among what the caller passes as `custom_objects` or registered with Keras; everything
else is refused by name before a single layer is made.
"""

import contextlib
import math
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.security.architecture import read_architecture
from tfinetune.security.config_audit import audit, under_registered_names
from tfinetune.security.legacy_archive import load_archived_weights
from tfinetune.security.legacy_config import translate
from tfinetune.security.legacy_weights import (
    Match,
    load_legacy_weights,
    load_matching_weights,
)
from tfinetune.security.preflight import ModelFile, check_weights_file, read_model_file
from tfinetune.security.saved_model import check_embedded

# Of a model that is built without a weights file: two gigabytes of float32.
MAX_RANDOM_ELEMENTS = 2**29
# One float32 map of a gigabyte for a single image: no backbone comes near.
MAX_ACTIVATION_ELEMENTS = 2**28


def load_keras(
    source: str | Path | ModelFile, *, custom_objects: Mapping[str, Any] | None = None
) -> keras.Model:
    """Open a `.keras` or `.h5` model file, whatever its name and age, without trusting it.

    Args:
        source: the file, or what `read_model_file` made of it.
        custom_objects: name -> class or function that the model may use beside Keras's own.

    Returns:
        The model, uncompiled, with its weights.

    Raises:
        UnsafeModelError: if it holds a Lambda or a class that is not known (all are named), or
            would take more memory than its weights account for.
        BackboneError: if it is damaged, holds no model, or is of an unsupported kind.
    """
    file = source if isinstance(source, ModelFile) else read_model_file(source)
    custom = dict(custom_objects or {})
    config = file.config
    if file.container == "hdf5" or file.major_version < 3:
        config = translate(config, major_version=file.major_version)
    else:
        config = {**config, "compile_config": None}
    custom |= under_registered_names(config, custom)
    audit(config, file.path, custom)
    if file.container == "zip":
        check_embedded(file.path)
    with _guarded(file.path, file.keras_version, file.stored_elements):
        if file.container == "zip" and file.major_version >= 3:
            model = _load_zip(file, custom)
        else:
            model = _build(config, file.path, custom)
            _load_weights_of(file, model)
    check_activations(model, source=file.path)
    _check_vocabularies(model, file.path)
    return model


def build_model(
    config: dict[str, Any],
    *,
    source: str | Path,
    stored_elements: int,
    custom_objects: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Build the model of a config that Keras 2 wrote, with initial weights.

    Args:
        config: as it was written.
        source: where it was found, for messages.
        stored_elements: how many numbers there are for its weights.
        custom_objects: as for `load_keras`.

    Raises:
        UnsafeModelError: as `load_keras`.
        BackboneError: if Keras cannot build it.
    """
    custom = dict(custom_objects or {})
    config = translate(config, major_version=2)
    custom |= under_registered_names(config, custom)
    audit(config, source, custom)
    with _guarded(source, "2", stored_elements):
        model = _build(config, source, custom)
    check_activations(model, source=source)
    return model


def load_architecture(
    path: str | Path,
    *,
    weights: str | Path | None = None,
    partial: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
) -> tuple[keras.Model, Match | None]:
    """Build the model in a JSON or YAML file and fill it from a weights file.

    Args:
        path: of what `to_json()` or `to_yaml()` returned, in any version of Keras.
        weights: an `.h5` file with the weights of exactly this model. None leaves them random.
        partial: as for `load_weights`.
        custom_objects: as for `load_keras`.

    Returns:
        The model, and what was matched, if anything.

    Raises:
        UnsafeModelError: as `load_keras`.
        BackboneError: if the files are damaged or do not belong together.
    """
    custom = dict(custom_objects or {})
    config, version = read_architecture(path)
    major = version.partition(".")[0]
    config = translate(config, major_version=int(major) if major.isdecimal() else 1)
    custom |= under_registered_names(config, custom)
    audit(config, path, custom)
    bounded = MAX_RANDOM_ELEMENTS if weights is None or partial else check_weights_file(weights)
    with _guarded(path, version, bounded):
        model = _build(config, path, custom)
    check_activations(model, source=path)
    if weights is None:
        return model, None
    match = load_weights(model, weights, partial=partial)
    if match.unused and not partial:
        raise BackboneError(
            f"{weights} has weights for layers that {path} does not have: "
            f"{', '.join(match.unused[:5])}. They do not belong together."
        )
    return model, match


def load_weights(model: keras.Model, path: str | Path, *, partial: bool = False) -> Match:
    """Load an `.h5` weights file of any Keras version into `model`.

    Args:
        model: gets the weights.
        path: the file, which may hold a classification top as well.
        partial: fill the layers of the model whose names the file has and leave the others.

    Returns:
        What was matched.

    Raises:
        BackboneError: unless every weight of the model finds its value and nothing but a top is
            left over; with `partial`, if nothing matches.
    """
    check_weights_file(path)
    try:
        with h5py.File(path, "r") as file:
            if {"layer_names", "layer_names0"} & set(file.attrs) or "model_weights" in file:
                return load_matching_weights(model, file, partial=partial)
        if partial:
            raise BackboneError(
                f"{path} files weights by position, as Keras 3 does, so it cannot be matched in "
                "part. Pass a weights file of Keras 1 or 2, or a model that it fits."
            )
        with _strict_loading(), tempfile.TemporaryDirectory() as folder:
            # Keras chooses the format by the file's name.
            named = Path(folder) / "model.weights.h5"
            named.symlink_to(Path(path).resolve())
            model.load_weights(named)
            return Match(len(model.weights), len(model.weights))
    except (BackboneError, MemoryError):
        raise
    except Exception as error:
        raise BackboneError(
            f"{path} does not fit {model.name}: {_first_sentence(error)}"
        ) from error


def check_activations(model: keras.Model, *, source: str | Path) -> None:
    """Bound the tensors inside `model`. Sizes that it leaves open count as 1.

    Raises:
        UnsafeModelError: naming the layer (of the model from `source`) that makes too large a one.
    """
    for layer in model._flatten_layers():
        for operation in (layer, *getattr(layer, "operations", ())):
            for tensor in (tensor for node in operation._inbound_nodes for tensor in node.outputs):
                size = math.prod(d for d in tensor.shape[1:] if d)
                if size > MAX_ACTIVATION_ELEMENTS:
                    raise UnsafeModelError(
                        f"{source}: the layer {operation.name!r} makes {size:,} numbers per image "
                        f"(at most {MAX_ACTIVATION_ELEMENTS:,} are allowed); it was refused."
                    )


def _check_vocabularies(model: keras.Model, path: str | Path) -> None:
    """Refuse lookup layers without a vocabulary, which fail only when they are called.

    Raises:
        BackboneError: naming them. Some formats never stored what a layer was adapted to.
    """
    kinds = (keras.layers.StringLookup, keras.layers.IntegerLookup, keras.layers.TextVectorization)
    empty = [
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, kinds) and not layer.get_vocabulary(include_special_tokens=False)
    ]
    if empty:
        raise BackboneError(
            f"{path} holds no vocabulary for {', '.join(empty)}, which cannot work without. Save "
            "the model again as `.keras`, or build the layer with vocabulary=[…] and save it then."
        )


@contextlib.contextmanager
def _strict_loading() -> Iterator[None]:
    """Turn a warning of Keras into an error: it leaves layers with random weights behind it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Skipping nested container")
        yield


@contextlib.contextmanager
def _guarded(path: str | Path, version: str, stored_elements: int) -> Iterator[None]:
    """Bound the weights that are created inside, and name the file in whatever goes wrong."""
    budget = _MemoryBudget(path, stored_elements)
    try:
        with tf.variable_creator_scope(budget.check):
            yield
    except (BackboneError, MemoryError):
        raise
    except Exception as error:
        if budget.exceeded:  # Keras may have wrapped the refusal in an error of its own.
            raise budget.exceeded from error
        # Keras reports an unusable config through many exceptions; each means the same here.
        raise BackboneError(
            f"{path} could not be opened as a Keras model (written by Keras {version}): "
            f"{_first_sentence(error)}"
        ) from error


class _MemoryBudget:
    """Refuses to create more weights than the file stores values for.

    A config may declare `units=10**9` in a few bytes. Shapes follow from several layers together,
    so they are known only while Keras builds: this looks at each variable just before it is made.
    """

    def __init__(self, path: str | Path, stored_elements: int) -> None:
        self._path = path
        self._stored = stored_elements
        # Seeds and counters are created but not stored by every format.
        self._left = stored_elements + stored_elements // 10 + 65_536
        self._scratch = tf.Graph()
        self.exceeded: UnsafeModelError | None = None

    def check(self, next_creator: Any, **kwargs: Any) -> tf.Variable:
        shape = self._shape(kwargs["initial_value"])
        self._left -= math.prod(shape)
        if self._left < 0:
            self.exceeded = UnsafeModelError(
                f"{self._path} declares more parameters than the "
                f"{self._stored:,} values it stores (refused at a weight of shape "
                f"{list(shape)}). It is damaged, or made to exhaust memory."
            )
            raise self.exceeded
        return next_creator(**kwargs)

    def _shape(self, initial_value: Any) -> tuple[int, ...]:
        if not callable(initial_value):
            return np.shape(initial_value)
        for cell in getattr(initial_value, "__closure__", None) or ():
            if isinstance(cell.cell_contents, keras.Variable):  # Keras's own: it knows its shape.
                return tuple(cell.cell_contents.shape)
        with self._scratch.as_default():  # Symbolic: gives the shape and allocates nothing.
            return tuple(initial_value().shape)


def _load_zip(file: ModelFile, custom_objects: dict[str, Any]) -> keras.Model:
    with _strict_loading(), tempfile.TemporaryDirectory() as folder:
        # Keras chooses the format by the file's name.
        named = Path(folder) / "model.keras"
        named.symlink_to(file.path.resolve())
        return keras.saving.load_model(
            named, custom_objects=custom_objects, compile=False, safe_mode=True
        )


def _build(config: dict[str, Any], path: str | Path, custom_objects: dict[str, Any]) -> keras.Model:
    model = keras.saving.deserialize_keras_object(
        config, custom_objects=custom_objects, safe_mode=True
    )
    if not isinstance(model, keras.Model):
        raise BackboneError(f"{path} holds a {type(model).__name__}, not a model.")
    return model


def _load_weights_of(file: ModelFile, model: keras.Model) -> None:
    if file.container == "zip":
        with zipfile.ZipFile(file.path) as archive, tempfile.TemporaryDirectory() as folder:
            load_archived_weights(model, file.config, archive, Path(folder))
    else:
        with h5py.File(file.path, "r") as stored:
            load_legacy_weights(model, stored)


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    _, _, cause = text.rpartition("Exception encountered: ")  # Keras puts the whole config before.
    text = cause.strip("\"'") or text
    return text[:300] + ("…" if len(text) > 300 else "")
