"""Translate TensorFlow operations between layers to operations of `keras.ops`. JSON in, JSON out.

Keras 2.4 and later save them as `TFOpLambda` and `SlicingOpLambda` (a function's public name),
TensorFlow 2.0 to 2.3 as `TensorFlowOpLayer` (a node of the graph). Both name what they do, so a
table of pure functions suffices; whatever is not in it is refused by name.
"""

import itertools
from typing import Any

from tfinetune.errors import BackboneError
from tfinetune.security.legacy_functions import FUNCTIONS, NODES, SAME_FUNCTION, Rule

Config = dict[str, Any]

OPERATION_CLASSES = frozenset({"TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer"})


class UnknownOperationError(Exception):
    """An operation is not in the table; `translate` names all of them at once."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def translate_operation(layer: Config) -> Config:
    """Return the Keras operation for a TensorFlow one, with its calls in `inbound_nodes`.

    References to tensors stay as they are: `[layer name, call index, tensor index]`.

    Raises:
        UnknownOperationError: if it is not in the table.
        BackboneError: if it is called in a way that Keras has not.
    """
    calls = [_call(layer, node) for node in layer["inbound_nodes"]]
    if not calls:
        raise BackboneError(f"The operation {layer['name']!r} has no input.")
    built = [_build(layer["name"], function, arguments) for function, arguments in calls]
    operation, settings, _ = built[0]
    if any(other[:2] != (operation, settings) for other in built):
        raise BackboneError(
            f"The operation {layer['name']!r} is called several times in different ways, which one "
            "operation of keras.ops cannot do."
        )
    module, _, class_name = operation.rpartition(".")
    return {
        "module": f"keras.src.ops.{module}",
        "class_name": class_name,
        "config": {"name": layer["name"], **settings},
        "registered_name": class_name,
        "name": layer["name"],
        "inbound_nodes": [{"args": args, "kwargs": {}} for _, _, args in built],
    }


def _call(layer: Config, node: Any) -> tuple[str, Config]:
    """Return the name of the TensorFlow function and its arguments by name."""
    if layer["class_name"] == "TensorFlowOpLayer":
        return _call_of_node(layer["config"], node)
    function = layer["config"]["function"]
    if isinstance(node[0], list):  # A list of tensors is the first argument.
        first, keywords = [reference[:3] for reference in node], node[0][3]
    elif node[0] == "_CONSTANT_VALUE":
        first, keywords = node[2], node[3]
    else:
        first, keywords = node[:3], node[3]
    if function == "__operators__.getitem":
        return function, {"tensor": first, "key": _slices(keywords["slice_spec"])}
    function = SAME_FUNCTION.get(function, function)
    rule = _rule(function)
    return function, {rule.tensors[0]: first, **keywords}


def _call_of_node(config: Config, references: list[Any]) -> tuple[str, Config]:
    definition = config["node_def"]
    raw, attributes = definition["op"], definition.get("attr", {})
    constants = {int(index): value for index, value in config["constants"].items()}
    tensors = [reference[:3] for reference in references]
    count = len(tensors) + len(constants)
    inputs = [constants[i] if i in constants else tensors.pop(0) for i in range(count)]
    if raw == "StridedSlice":
        return "__operators__.getitem", {
            "tensor": inputs[0],
            "key": _strided(*inputs[1:], attributes),
        }
    if raw == "ConcatV2":
        return "concat", {"values": inputs[:-1], "axis": inputs[-1]}
    if raw == "Pack":
        return "stack", {"values": inputs, "axis": int(attributes["axis"]["i"])}
    if raw not in NODES:
        raise UnknownOperationError(raw)
    rule = NODES[raw]
    names = rule.inputs or _rule(rule.function).tensors
    arguments = dict(zip(names, inputs, strict=True))
    for attribute, argument in rule.attributes.items():
        if attribute in attributes:
            arguments[argument] = _attribute(attributes[attribute])
    return rule.function, arguments


def _attribute(value: Config) -> Any:
    """Return what a protocol buffer attribute holds. 64-bit integers are text in JSON."""
    ((kind, content),) = value.items()
    if kind == "i":
        return int(content)
    if kind == "type":
        name = content.removeprefix("DT_").lower()
        return {"float": "float32", "half": "float16", "double": "float64"}.get(name, name)
    if kind == "list":
        return [int(item) for item in content.get("i", ())]
    return content


def _build(layer: str, function: str, arguments: Config) -> tuple[str, Config, list[Any]]:
    """Return the operation's class, the arguments of its constructor and those of its call."""
    if function == "__operators__.getitem":
        return "numpy.GetItem", {}, [arguments["tensor"], arguments["key"]]
    rule = _rule(function)
    transposed = tuple(arguments.pop(key, False) for key in ("transpose_a", "transpose_b"))
    settings = dict(rule.defaults)
    for name, value in arguments.items():
        if name in rule.settings:
            if value is not None:
                settings[rule.settings[name]] = value
        elif value not in rule.neutral.get(name, ()) and name not in (*rule.tensors, "name"):
            raise BackboneError(
                f"The operation {layer!r} calls tf.{function} with {name}={value!r}, for which "
                "keras.ops has nothing. Replace it with layers and save the model again."
            )
    call = [_operand(arguments.get(name)) for name in rule.tensors]
    if function == "linalg.matmul" and any(transposed):
        left = "...ji" if transposed[0] else "...ij"
        right = "...kj" if transposed[1] else "...jk"
        return "numpy.Einsum", {"subscripts": f"{left},{right}->...ik"}, call
    return rule.operation, _as_keras_says(function, settings), call


def _as_keras_says(function: str, settings: Config) -> Config:
    """Return the settings with values in Keras's own convention."""
    if function == "pad" and "mode" in settings:
        settings["mode"] = settings["mode"].lower()
    if function == "split" and isinstance(sizes := settings["indices_or_sections"], list):
        settings["indices_or_sections"] = list(itertools.accumulate(sizes))[:-1]
    if function == "squeeze" and settings.get("axis") == []:
        settings["axis"] = None
    return settings


def _operand(value: Any) -> Any:
    """Return an argument of the call: a list of numbers is a constant tensor."""
    if isinstance(value, list) and value and not _holds_references(value):
        return {"class_name": "__numpy__", "config": {"value": value, "dtype": "float32"}}
    return value


def _holds_references(value: list[Any]) -> bool:
    return any(
        isinstance(item, str) or (isinstance(item, list) and _holds_references(item))
        for item in value
    )


def _slices(spec: Any) -> list[Any]:
    items = spec if isinstance(spec, list) else [spec]
    return [
        _slice(item["start"], item["stop"], item["step"])
        if isinstance(item, dict) and "start" in item
        else {"class_name": "__ellipsis__", "config": {}}
        if isinstance(item, dict)
        else item
        for item in items
    ]


def _strided(begin: list[int], end: list[int], strides: list[int], attributes: Config) -> list[Any]:
    """Return the key of `x[key]` for a StridedSlice node, whose masks are bit fields."""

    def masked(name: str, position: int) -> bool:
        return bool(int(attributes.get(name, {}).get("i", 0)) >> position & 1)

    key: list[Any] = []
    for i, (start, stop, step) in enumerate(zip(begin, end, strides, strict=True)):
        if masked("ellipsis_mask", i):
            key.append({"class_name": "__ellipsis__", "config": {}})
        elif masked("new_axis_mask", i):
            key.append(None)
        elif masked("shrink_axis_mask", i):
            key.append(start)
        else:
            key.append(
                _slice(
                    None if masked("begin_mask", i) else start,
                    None if masked("end_mask", i) else stop,
                    step,
                )
            )
    return key


def _slice(start: Any, stop: Any, step: Any) -> Config:
    return {"class_name": "__slice__", "config": {"start": start, "stop": stop, "step": step}}


def _rule(function: str) -> Rule:
    if function not in FUNCTIONS:
        raise UnknownOperationError(function)
    return FUNCTIONS[function]
