"""Translate model configs written by Keras 1, 2 and (into `.h5`) 3 to Keras 3's own form.

Pure JSON in, pure JSON out: no TensorFlow, nothing is built here. This module walks through the
model and rewrites how its layers are connected; what one layer becomes is in `legacy_layers`,
`legacy_keras1` and `legacy_operations`.
"""

import copy
from typing import Any

from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.security.legacy_keras1 import modernize
from tfinetune.security.legacy_layers import translate_activation, translate_layer
from tfinetune.security.legacy_operations import (
    OPERATION_CLASSES,
    UnknownOperationError,
    translate_operation,
)

Config = dict[str, Any]

_FUNCTIONAL = {"Model", "Functional"}
_MODELS = _FUNCTIONAL | {"Sequential"}
# Layers of keras.applications that are not among keras.layers.
_MODULES = dict.fromkeys(("LayerScale", "StochasticDepth"), "keras.src.applications.convnext")
_ACTIVATIONS = ("activation", "recurrent_activation")


def translate(config: Config, *, major_version: int) -> Config:
    """Return `config` as Keras 3 would have written it into a `.keras` file.

    Args:
        config: `{"class_name", "config"}` of a model: any dialect of Keras 1 and 2, or of a Keras 3
            `.h5`.
        major_version: of the Keras that wrote it.

    Raises:
        BackboneError: where the model uses something that Keras 3 computes differently.
        UnsafeModelError: where it is nested too deeply to be walked through.
    """
    try:
        translated = copy.deepcopy(config)
        if major_version < 2:
            modernize(translated)
        if major_version < 3:
            _rename_slashes(translated)
            _renumber_calls(translated)
        translator = _Translator(legacy=major_version < 3)
        translated = translator.model(translated)
    except BackboneError:
        raise
    except RecursionError as error:
        raise UnsafeModelError(
            "The model's config is nested too deeply; it was refused."
        ) from error
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise BackboneError(
            f"The model's config is damaged or of an unknown dialect ({type(error).__name__}: "
            f"{error})."
        ) from error
    if translator.unknown_operations:
        raise UnsafeModelError(
            f"The model applies TensorFlow operations between its layers that are not among the "
            f"pure ones of keras.ops: {', '.join(translator.unknown_operations)}. Where it was "
            "made, replace them with layers and save it again."
        )
    return translated


class _Translator:
    """Walks through one model.

    Attributes:
        legacy: whether Keras 1 or 2 wrote it, so that nodes and activations change too.
        unknown_operations: names of the TensorFlow operations that were met and not translated.
    """

    def __init__(self, *, legacy: bool) -> None:
        self.legacy = legacy
        self.unknown_operations: dict[str, None] = {}

    def model(self, layer: Config) -> Config:
        """Translate anything with a class: a layer, or a model of layers."""
        if layer["class_name"] == "Sequential":
            return self._sequential(layer)
        if layer["class_name"] in _FUNCTIONAL:
            return self._functional(layer)
        return self._plain(layer)

    def _sequential(self, layer: Config) -> Config:
        config = layer["config"]
        if isinstance(config, list):  # Keras before 2.2.3 wrote the bare list of layers.
            config = {"layers": config}
        layers = config["layers"]
        first = layers[0]["config"] if layers else {}
        shape = first.get("batch_input_shape") if isinstance(first, dict) else None
        if shape is None and layers and layers[0]["class_name"] not in _MODELS | {"InputLayer"}:
            shape = config.get("build_input_shape")  # Of one that was built when first called.
        translated = [self.model(item) for item in layers]
        if shape is not None and layers[0]["class_name"] != "InputLayer":
            entry = {"batch_shape": shape}
            if layers[0]["class_name"] == "Embedding":
                entry["dtype"] = first.get("input_dtype", "float32")
            translated.insert(0, _plain("InputLayer", entry))
        name = layer.get("name", config.get("name", "sequential"))
        return _model("Sequential", {"name": name, "layers": translated}, layer)

    def _functional(self, layer: Config) -> Config:
        config = layer["config"]
        names = {_name(item) for item in config["layers"]}
        kept = {
            "layers": [self._connected(item, names) for item in config["layers"]],
            "input_layers": _unwrap_single(config["input_layers"]),
            "output_layers": _unwrap_single(config["output_layers"]),
        }
        if "name" in config:
            kept["name"] = config["name"]
        return _model("Model", kept, layer)

    def _connected(self, item: Config, names: set[str]) -> Config:
        """Translate a layer of a functional model together with its calls."""
        if item["class_name"] in OPERATION_CLASSES:
            try:
                translated = translate_operation(item)
            except UnknownOperationError as error:
                self.unknown_operations[str(error.name)] = None
                return item
        else:
            translated = self.model(item)
            translated["name"] = _name(item)
            nodes = item["inbound_nodes"]
            if self.legacy:
                nodes = [_call(node, translated["class_name"]) for node in nodes]
            translated["inbound_nodes"] = nodes
        if self.legacy:
            translated["inbound_nodes"] = _with_tensors(translated["inbound_nodes"], names)
        return translated

    def _plain(self, layer: Config) -> Config:
        name, config = layer["class_name"], layer["config"]
        if self.legacy:
            name, config = translate_layer(name, config)
        new = _plain(name, {key: self._value(value) for key, value in config.items()})
        if self.legacy:
            for key in _ACTIVATIONS:
                if isinstance(value := new["config"].get(key), str):
                    new["config"][key] = translate_activation(value)
        for key in ("module", "registered_name"):  # Keras 3 says where a custom class comes from.
            if layer.get(key):
                new[key] = layer[key]
        return new

    def _value(self, value: Any) -> Any:
        """Translate the objects inside a layer's config: policies, initializers, wrapped layers."""
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.get("class_name") in ("Policy", "PolicyV1") and "config" in value:
            return value["config"]["name"]
        if "class_name" in value and isinstance(inner := value.get("config"), dict):
            if value["class_name"] in _MODELS or "trainable" in inner:
                return self.model(value)
            kept = {key: self._value(item) for key, item in inner.items()}
            kept.pop("dtype", None)  # Initializers carried one.
            return {**value, "config": kept}
        return {key: self._value(item) for key, item in value.items()}


def _name(item: Config) -> str:
    return item["name"] if "name" in item else item["config"]["name"]


def _unwrap_single(ends: Any) -> Any:
    """Return `["name", 0, 0]` for `[["name", 0, 0]]`: one tensor, where the other is a list."""
    return ends[0] if isinstance(ends, list) and len(ends) == 1 else ends


# --- names and calls ----------------------------------------------------------------------------


def _layers(layer: Config) -> list[Config]:
    """Return the layers inside a model or a wrapper, not copied."""
    config = layer["config"]
    if isinstance(config, list):
        return config
    if isinstance(wrapped := config.get("layer"), dict):
        return [wrapped]
    return config.get("layers", [])


def _rename_slashes(layer: Config) -> None:
    """Replace `/` in the names of layers, which Keras 3 does not allow, in place."""
    config, layers = layer["config"], _layers(layer)
    for item in layers:
        _rename_slashes(item)
    holders = [*layers, *(item["config"] for item in layers if isinstance(item["config"], dict))]
    names = {name for holder in holders if isinstance(name := holder.get("name"), str)}
    renamed: dict[str, str] = {}
    for name in sorted(name for name in names if "/" in name):
        new = name.replace("/", "_")
        while new in names or new in renamed.values():
            new += "_"
        renamed[name] = new
    for holder in holders:
        if holder.get("name") in renamed:
            holder["name"] = renamed[holder["name"]]
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            config["name"] = config["name"].replace("/", "_")
        if renamed:
            connected = [item.get("inbound_nodes", ()) for item in layers]
            for part in (*connected, config.get("input_layers"), config.get("output_layers")):
                for reference in _references(part):
                    reference[0] = renamed.get(reference[0], reference[0])


def _renumber_calls(layer: Config) -> None:
    """Rewrite references to the calls of nested models the way Keras 3 counts them, in place.

    Keras 2 counts the calls of a nested model from 1, its own construction being call 0 (a few
    dialects count from 0). Keras 3 counts from 0, except that a model's `output_layers` count the
    calls of a nested Functional from 1.
    """
    config, layers = layer["config"], _layers(layer)
    for item in layers:
        _renumber_calls(item)
    if layer["class_name"] not in _FUNCTIONAL:
        return
    nested = {item["name"]: item["class_name"] for item in layers if item["class_name"] in _MODELS}
    inbound = [ref for item in layers for ref in _references(item["inbound_nodes"])]
    outputs = _references(config["output_layers"])
    first: dict[str, int] = {}
    for reference in inbound + outputs:
        first[reference[0]] = min(reference[1], first.get(reference[0], 1))
    for reference in inbound + outputs:
        if reference[0] in nested:
            reference[1] -= first[reference[0]]
    for reference in outputs:
        if nested.get(reference[0]) in _FUNCTIONAL:
            reference[1] += 1


def _references(value: Any) -> list[list[Any]]:
    """Return every `[layer name, call index, tensor index, ...]` inside `value`, not copied."""
    if isinstance(value, dict):
        return [reference for item in value.values() for reference in _references(item)]
    if not isinstance(value, list):
        return []
    if _is_reference(value):
        return [value, *_references(value[3:])]
    return [reference for item in value for reference in _references(item)]


def _is_reference(value: list[Any]) -> bool:
    return len(value) in (3, 4) and isinstance(value[0], str) and isinstance(value[1], int)


def _call(node: Any, class_name: str) -> Config:
    """Return the arguments of one call of a layer, from the list of its inputs in Keras 2."""
    if isinstance(node, dict):  # A model called with a dictionary.
        return {"args": [{key: value[:3] for key, value in node.items()}], "kwargs": {}}
    if node and not isinstance(node[0], list):
        node = [node]
    keywords = dict(node[0][3]) if len(node[0]) > 3 else {}
    tensors = [reference[:3] for reference in node]
    if len(tensors) == 1:
        return {"args": tensors, "kwargs": keywords}
    if class_name in ("Bidirectional", "ConvLSTM2D", "GRU", "LSTM", "RNN", "SimpleRNN"):
        return {"args": tensors[:1], "kwargs": {"initial_state": tensors[1:], **keywords}}
    return {"args": [tensors], "kwargs": keywords}


def _with_tensors(value: Any, names: set[str]) -> Any:
    """Replace references to the layers `names` by Keras 3's form of a tensor."""
    if isinstance(value, dict):
        return {key: _with_tensors(item, names) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if _is_reference(value) and value[0] in names:
        # Shape and type are looked up in the layer.
        tensor = {"shape": [], "dtype": "float32", "keras_history": value[:3]}
        return {"class_name": "__keras_tensor__", "config": tensor}
    return [_with_tensors(item, names) for item in value]


def _plain(class_name: str, config: Config) -> Config:
    return {
        "module": _MODULES.get(class_name, "keras.layers"),
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
