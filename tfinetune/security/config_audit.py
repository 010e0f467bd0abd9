"""Audit a model's config before anything is built from it: which classes and functions it names."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from tfinetune.errors import BackboneError, UnsafeModelError

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
# Layers that Keras 3 dropped, because they have a weight for each position or take feature columns.
_REMOVED = frozenset({"DenseFeatures", "LocallyConnected1D", "LocallyConnected2D"})


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
    if unknown:
        shown = [f"{name} (dropped by Keras 3)" if name in _REMOVED else name for name in unknown]
        example = ", ".join(f"{name!r}: {name.rpartition('>')[2]}" for name in unknown)
        raise UnsafeModelError(
            f"{path} needs {'classes' if len(unknown) > 1 else 'a class'} that Keras does not "
            f"have: {', '.join(shown)}. Pass your own as custom_objects={{{example}}} if you "
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


def under_registered_names(
    config: dict[str, Any], custom_objects: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the custom objects under the names of the packages that they were registered in.

    A class that was registered as `my_package>Scale` may be passed as `Scale`.
    """
    names = (item["class_name"] for item in _objects(config))
    return {
        name: custom_objects[short]
        for name in names
        if isinstance(name, str) and (short := name.rpartition(">")[2]) in custom_objects
    }


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
