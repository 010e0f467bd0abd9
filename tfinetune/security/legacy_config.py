"""Translate model configs written by Keras 2 (and by Keras 3 into `.h5`) to Keras 3's own form.

Pure JSON in, pure JSON out: no TensorFlow, nothing is built here. Each rule names the dialect it
serves. Arguments that Keras 3 dropped are removed only while they hold the value that means
"not used"; anything else is an error, since the layer would compute something different.
"""

import copy
from typing import Any

from tfinetune.errors import BackboneError, UnsafeModelError

Config = dict[str, Any]

_MODEL_CLASSES = {"Model", "Functional"}

# Keyword -> the values under which Keras 3 computes the same without it.
_DROPPED_WHEN_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "batch_size": (None,),
    "implementation": (0, 1, 2),
    "noise_shape": (None, [None]),
    "renorm": (False,),
    "fused": (None, True, False),
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "time_major": (False,),
    "experimental_autocast": (True, False),
}
_ONE_GROUP = ("DepthwiseConv", "SeparableConv", "Conv1DTranspose", "Conv2DTranspose")
_KERNEL_ARGUMENTS = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")


def translate(config: Config, *, major_version: int) -> Config:
    """Return `config` as Keras 3 would have written it into a `.keras` file.

    Args:
        config: `{"class_name", "config"}` of a model, any Keras 2.x or Keras 3 `.h5` dialect.
        major_version: of the Keras that wrote it.

    Raises:
        BackboneError: where the model uses something that Keras 3 computes differently.
        UnsafeModelError: where it is nested too deeply to be walked through.
    """
    try:
        translated = copy.deepcopy(config)
        if major_version < 3:
            _refuse_hard_sigmoid(translated)
            _renumber_calls(translated)
        return _translate_layer(translated)
    except BackboneError:
        raise
    except RecursionError as error:
        raise UnsafeModelError(
            "The model's config is nested too deeply; it was refused."
        ) from error
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise BackboneError(
            f"The model's config is damaged or of an unknown dialect ({type(error).__name__}: "
            f"{error})."
        ) from error


def _translate_layer(layer: Config) -> Config:
    if layer["class_name"] == "Sequential":
        return _translate_sequential(layer)
    if layer["class_name"] in _MODEL_CLASSES:
        return _translate_functional(layer)
    return _translate_plain(layer)


def _translate_sequential(layer: Config) -> Config:
    config = layer["config"]
    if isinstance(config, list):  # Keras before 2.2.3 wrote the bare list of layers.
        config = {"layers": config}
    layers = config["layers"]
    first = layers[0]["config"] if layers else {}
    shape = first.get("batch_input_shape") if isinstance(first, dict) else None
    translated = [_translate_layer(item) for item in layers]
    if shape is not None and layers[0]["class_name"] != "InputLayer":
        translated.insert(0, _plain("InputLayer", {"batch_shape": shape}))
    kept = {"layers": translated}
    if "name" in config:
        kept["name"] = config["name"]
    return _model("Sequential", kept, layer)


def _translate_functional(layer: Config) -> Config:
    config = layer["config"]
    translated = []
    for item in config["layers"]:
        new = _translate_layer(item)
        new["name"] = item.get("name", item["config"].get("name"))
        new["inbound_nodes"] = item["inbound_nodes"]
        translated.append(new)
    kept = {
        "layers": translated,
        "input_layers": _unwrap_single(config["input_layers"]),
        "output_layers": _unwrap_single(config["output_layers"]),
    }
    if "name" in config:
        kept["name"] = config["name"]
    return _model("Model", kept, layer)


def _unwrap_single(ends: Any) -> Any:
    """Return `["name", 0, 0]` for `[["name", 0, 0]]`: one tensor, where the other is a list."""
    return ends[0] if isinstance(ends, list) and len(ends) == 1 else ends


def _renumber_calls(layer: Config) -> None:
    """Rewrite references to the calls of nested models the way Keras 3 counts them, in place.

    Keras 2 counts the calls of a nested model from 1, its own construction being call 0 (a few
    dialects count from 0). Keras 3 counts from 0, except that a model's `output_layers` count the
    calls of a nested Functional from 1.
    """
    config = layer["config"]
    layers = config if isinstance(config, list) else config.get("layers", ())
    for item in layers:
        if item["class_name"] in _MODEL_CLASSES | {"Sequential"}:
            _renumber_calls(item)
    if layer["class_name"] not in _MODEL_CLASSES:
        return
    nested = {
        item["name"]: item["class_name"]
        for item in layers
        if item["class_name"] in _MODEL_CLASSES | {"Sequential"}
    }
    inbound = [ref for item in layers for ref in _references(item["inbound_nodes"])]
    outputs = _references(config["output_layers"])
    first: dict[str, int] = {}
    for reference in inbound + outputs:
        first[reference[0]] = min(reference[1], first.get(reference[0], 1))
    for reference in inbound + outputs:
        if reference[0] in nested:
            reference[1] -= first[reference[0]]
    for reference in outputs:
        if nested.get(reference[0]) in _MODEL_CLASSES:
            reference[1] += 1


def _references(value: Any) -> list[list[Any]]:
    """Return every `[layer name, call index, tensor index, ...]` inside `value`, not copied."""
    if not isinstance(value, list):
        return []
    if len(value) in (3, 4) and isinstance(value[0], str) and isinstance(value[1], int):
        return [value]
    return [reference for item in value for reference in _references(item)]


def _translate_plain(layer: Config) -> Config:
    name, config = layer["class_name"], layer["config"]
    shape = config.pop("batch_input_shape", None)
    if name == "InputLayer" and shape is not None:
        config["batch_shape"] = shape
    config.pop("input_dtype", None)
    for key, neutral in _DROPPED_WHEN_NEUTRAL.items():
        if key in config and not (name == "InputLayer" and key == "batch_size"):
            _drop(config, key, neutral, name)
    if name.startswith(_ONE_GROUP):
        _drop(config, "groups", (1,), name)
    if name.startswith(("DepthwiseConv", "SeparableConv")):
        # The base class's unused arguments; depthwise_* and pointwise_* are the real ones.
        for key in _KERNEL_ARGUMENTS:
            if f"depthwise_{key.removeprefix('kernel_')}" in config:
                config.pop(key, None)
    if name.startswith("DepthwiseConv"):
        config.pop("filters", None)
    if name in ("BatchNormalization", "LayerNormalization") and isinstance(
        config.get("axis"), list
    ):
        config["axis"] = config["axis"][0] if len(config["axis"]) == 1 else config["axis"]
    new = _plain(name, {key: _translate_value(value) for key, value in config.items()})
    for key in ("module", "registered_name"):  # Keras 3 says where a custom class comes from.
        if layer.get(key):
            new[key] = layer[key]
    return new


def _translate_value(value: Any) -> Any:
    """Translate the objects inside a layer's config: policies, initializers, wrapped layers."""
    if isinstance(value, list):
        return [_translate_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") in ("Policy", "PolicyV1") and "config" in value:
        return value["config"]["name"]
    if "class_name" in value and isinstance(value.get("config"), dict):
        inner = value["config"]
        if "layers" in inner or value["class_name"] in _MODEL_CLASSES | {"Sequential"}:
            return _translate_layer(value)
        kept = {key: _translate_value(item) for key, item in inner.items()}
        if "name" not in inner:  # Initializers carried a dtype; layers and policies have a name.
            kept.pop("dtype", None)
        return {**value, "config": kept}
    return {key: _translate_value(item) for key, item in value.items()}


def _drop(config: Config, key: str, neutral: tuple[Any, ...], layer: str) -> None:
    value = config.pop(key, neutral[0])
    if value not in neutral:
        raise BackboneError(
            f"A {layer} layer was saved with {key}={value!r}, which Keras 3 no longer has. "
            f"Allowed: {', '.join(map(repr, neutral))}. Rebuild the model in Keras 3 and save "
            "it again."
        )


def _refuse_hard_sigmoid(value: Any) -> None:
    if isinstance(value, dict):
        if "hard_sigmoid" in (value.get("activation"), value.get("recurrent_activation")):
            raise BackboneError(
                f"The layer {value.get('name')!r} uses hard_sigmoid, whose formula changed between "
                "Keras 2 (0.2x + 0.5) and Keras 3 (x/6 + 0.5); it would compute something else. "
                "Rebuild the model in Keras 3 and save it again."
            )
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _refuse_hard_sigmoid(item)


def _plain(class_name: str, config: Config) -> Config:
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": config,
        "registered_name": class_name,  # Found among the caller's custom objects by this.
    }


def _model(class_name: str, config: Config, original: Config) -> Config:
    translated = {
        "module": "keras",
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }
    if "name" in original:
        translated["name"] = original["name"]
    return translated
