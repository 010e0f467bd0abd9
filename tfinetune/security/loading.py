"""The one door for foreign Keras models: audit the config, bound the memory, then build.

Nothing in a file is executed. Classes are looked up among Keras's own layers, initializers and the
like, and among what the caller passes as `custom_objects` or registered with Keras; everything
else is refused by name before a single layer is made.
"""

import contextlib
import math
import sys
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
from tfinetune.security.legacy_archive import load_archived_weights
from tfinetune.security.legacy_config import translate
from tfinetune.security.legacy_weights import load_legacy_weights, load_matching_weights
from tfinetune.security.preflight import ModelFile, check_weights_file, read_model_file
from tfinetune.security.saved_model import check_embedded

# These hold code, or read a path that the config names.
UNSAFE_CLASSES = frozenset(
    {
        "Lambda",
        "__lambda__",
        "__typespec__",
        "TFSMLayer",
        "TorchModuleWrapper",
        "JaxLayer",
        "FlaxLayer",
        "PyMetric",
    }
)
_INLINE_VALUES = frozenset(
    {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"}
)
_BUILTIN_KINDS = (
    keras.Operation,
    keras.Initializer,
    keras.Regularizer,
    keras.constraints.Constraint,
    keras.DTypePolicy,
    keras.Quantizer,
    keras.random.SeedGenerator,
)
_NAMESPACES = (
    keras.layers,
    keras.models,
    keras.initializers,
    keras.regularizers,
    keras.constraints,
    keras.dtype_policies,
)
# Operations that a functional model of Keras 2 applied to its tensors outside of any layer.
_TENSORFLOW_OPERATIONS = frozenset({"TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer"})
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
    audit(config, file.path, custom)
    if file.container == "zip":
        check_embedded(file.path)
    budget = _MemoryBudget(file)
    try:
        with tf.variable_creator_scope(budget.check):
            if file.container == "zip" and file.major_version >= 3:
                model = _load_zip(file, custom)
            else:
                model = _build(file, config, custom)
                _load_weights_of(file, model)
    except (BackboneError, MemoryError):
        raise
    except Exception as error:
        if budget.exceeded:  # Keras may have wrapped the refusal in an error of its own.
            raise budget.exceeded from error
        # Keras reports an unusable config through many exceptions; each means the same here.
        raise BackboneError(
            f"{file.path} could not be opened as a Keras model (written by Keras "
            f"{file.keras_version}): {_first_sentence(error)}"
        ) from error
    check_activations(model, source=file.path)
    return model


def build_model(config: dict[str, Any], *, source: Path, stored_elements: int) -> keras.Model:
    """Build the model of a translated config; its weights are not loaded yet.

    Args:
        config: what `translate` returned.
        source: where it was found, for messages.
        stored_elements: how many numbers there are for its weights.

    Raises:
        UnsafeModelError: as `load_keras`.
        BackboneError: if Keras cannot build it.
    """
    audit(config, source, {})
    budget = _MemoryBudget(ModelFile(source, "hdf5", config, "2", stored_elements))
    try:
        with tf.variable_creator_scope(budget.check):
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    except (BackboneError, MemoryError):
        raise
    except Exception as error:
        if budget.exceeded:
            raise budget.exceeded from error
        raise BackboneError(f"Keras cannot build it: {_first_sentence(error)}") from error
    check_activations(model, source=source)
    return model


def load_weights(model: keras.Model, path: str | Path) -> None:
    """Load an `.h5` weights file (of Keras 2 or 3, with or without a top) into `model`.

    Raises:
        BackboneError: unless every weight of the model finds its value, and everything else in
            the file belongs to a top.
    """
    check_weights_file(path)
    try:
        with h5py.File(path, "r") as file:
            if {"layer_names", "layer_names0"} & set(file.attrs) or "model_weights" in file:
                load_matching_weights(model, file)
                return
        with _strict_loading(), tempfile.TemporaryDirectory() as folder:
            # Keras chooses the format by the file's name.
            named = Path(folder) / "model.weights.h5"
            named.symlink_to(Path(path).resolve())
            model.load_weights(named)
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


@contextlib.contextmanager
def _strict_loading() -> Iterator[None]:
    """Turn a warning of Keras into an error: it leaves layers with random weights behind it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Skipping nested container")
        yield


def audit(config: dict[str, Any], path: str | Path, custom_objects: Mapping[str, Any]) -> None:
    """Refuse a config that names code outside Keras.

    Raises:
        UnsafeModelError: naming every such class at once.
    """
    unsafe: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for item in _objects(config):
        name = item["class_name"]
        if not isinstance(name, str):
            raise BackboneError(f"{path} is damaged: a class_name in its config is not text.")
        inner = item.get("config")
        if name in UNSAFE_CLASSES:
            unsafe["Lambda" if name == "__lambda__" else name] = None
        elif isinstance(inner, dict) and isinstance(inner.get("vocabulary"), str):
            unsafe[f"{name} (reads the vocabulary file {inner['vocabulary']!r})"] = None
        elif not _is_known(item, custom_objects):
            unknown[inner if name == "function" and isinstance(inner, str) else name] = None
    if unsafe:
        raise UnsafeModelError(
            f"{path} uses {', '.join(unsafe)}, which can run code or read files when the model is "
            "opened; it was refused. Rebuild the model with stock Keras layers."
        )
    if operations := ", ".join(name for name in unknown if name in _TENSORFLOW_OPERATIONS):
        raise UnsafeModelError(
            f"{path} uses {operations}: TensorFlow operations between its layers, which Keras 3 "
            "cannot open. Where it was made, replace them with layers (Rescaling for the scaling "
            "of pixels) and save it again, or save the model nested below them and pass that."
        )
    if unknown:
        example = ", ".join(f"{name!r}: {name}" for name in unknown)
        raise UnsafeModelError(
            f"{path} needs {'classes' if len(unknown) > 1 else 'a class'} that Keras does not "
            f"have: {', '.join(unknown)}. Pass your own as custom_objects={{{example}}} if you "
            "trust them."
        )


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every serialized object in `config`, outermost first."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            pending.extend(reversed(value.values()))
        elif isinstance(value, list):
            pending.extend(reversed(value))


def _is_known(item: dict[str, Any], custom_objects: Mapping[str, Any]) -> bool:
    name, module = item["class_name"], item.get("module")
    if name in _INLINE_VALUES:
        return True
    for key in (item.get("registered_name"), name):
        if isinstance(key, str) and (
            key in custom_objects or keras.saving.get_registered_object(key) is not None
        ):
            return True
    if name == "function":
        function = item.get("config")
        return isinstance(function, str) and (
            function in custom_objects
            or keras.saving.get_registered_object(function) is not None
            or callable(getattr(keras.activations, function, None))
        )
    if module is None:
        return any(isinstance(getattr(space, name, None), type) for space in _NAMESPACES)
    if not isinstance(module, str) or module.partition(".")[0] != "keras":
        return False
    if name in ("Functional", "Sequential", "Model"):
        return True
    # Only modules that Keras itself has loaded: a config cannot make one be imported.
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and issubclass(found, _BUILTIN_KINDS)


class _MemoryBudget:
    """Refuses to create more weights than the file stores values for.

    A config may declare `units=10**9` in a few bytes. Shapes follow from several layers together,
    so they are known only while Keras builds: this looks at each variable just before it is made.
    """

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        # Seeds and counters are created but not stored by every format.
        self._left = file.stored_elements + file.stored_elements // 10 + 65_536
        self._scratch = tf.Graph()
        self.exceeded: UnsafeModelError | None = None

    def check(self, next_creator: Any, **kwargs: Any) -> tf.Variable:
        value = kwargs["initial_value"]
        if callable(value):
            with self._scratch.as_default():  # Symbolic: gives the shape and allocates nothing.
                shape = tuple(value().shape)
        else:
            shape = np.shape(value)
        self._left -= math.prod(shape)
        if self._left < 0:
            self.exceeded = UnsafeModelError(
                f"{self._file.path} declares more parameters than the "
                f"{self._file.stored_elements:,} values it stores (refused at a weight of shape "
                f"{list(shape)}). It is damaged, or made to exhaust memory."
            )
            raise self.exceeded
        return next_creator(**kwargs)


def _load_zip(file: ModelFile, custom_objects: dict[str, Any]) -> keras.Model:
    with _strict_loading(), tempfile.TemporaryDirectory() as folder:
        # Keras chooses the format by the file's name.
        named = Path(folder) / "model.keras"
        named.symlink_to(file.path.resolve())
        return keras.saving.load_model(
            named, custom_objects=custom_objects, compile=False, safe_mode=True
        )


def _build(file: ModelFile, config: dict[str, Any], custom_objects: dict[str, Any]) -> keras.Model:
    model = keras.saving.deserialize_keras_object(
        config, custom_objects=custom_objects, safe_mode=True
    )
    if not isinstance(model, keras.Model):
        raise BackboneError(f"{file.path} holds a {type(model).__name__}, not a model.")
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
