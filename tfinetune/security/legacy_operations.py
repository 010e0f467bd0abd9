"""Translate TensorFlow operations between layers to operations of `keras.ops`. JSON in, JSON out.

Keras 2.4 and later save them as `TFOpLambda` and `SlicingOpLambda` (a function's public name),
TensorFlow 2.0 to 2.3 as `TensorFlowOpLayer` (a node of the graph). Both name what they do, so a
table of pure functions suffices; whatever is not in it is refused by name.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

from tfinetune.errors import BackboneError

Config = dict[str, Any]

OPERATION_CLASSES = frozenset({"TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer"})


class UnknownOperationError(Exception):
    """An operation is not in the table; `translate` names all of them at once."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class _Rule:
    """How one TensorFlow function is called.

    Attributes:
        operation: module and class below `keras.src.ops`.
        tensors: TensorFlow's names of what the operation is called with, in order.
        settings: TensorFlow's name -> name in the operation's constructor.
        neutral: argument -> the values that mean the same as leaving it out.
        defaults: what the constructor is told unless the call says otherwise, where Keras has
            another default than TensorFlow.
    """

    operation: str
    tensors: tuple[str, ...]
    settings: dict[str, str] = field(default_factory=dict)
    neutral: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    defaults: Config = field(default_factory=dict)


def _elementwise(operation: str, *tensors: str) -> _Rule:
    return _Rule(operation, tensors or ("x",))


def _reduction(operation: str) -> _Rule:
    return _Rule(operation, ("input_tensor",), {"axis": "axis", "keepdims": "keepdims"})


def _comparison(operation: str) -> _Rule:
    return _Rule(operation, ("x", "y"), neutral={"incompatible_shape_error": (True,)})


_CHANNELS_LAST = {"data_format": (None, "NHWC", "channels_last")}
_FUNCTIONS = {
    "__operators__.add": _elementwise("numpy.Add", "x", "y"),
    "__operators__.eq": _elementwise("numpy.Equal", "self", "other"),
    "__operators__.ne": _elementwise("numpy.NotEqual", "self", "other"),
    "broadcast_to": _Rule("numpy.BroadcastTo", ("input",), {"shape": "shape"}),
    "cast": _Rule("core.Cast", ("x",), {"dtype": "dtype"}),
    "clip_by_value": _Rule(
        "numpy.Clip", ("t",), {"clip_value_min": "x_min", "clip_value_max": "x_max"}
    ),
    "concat": _Rule("numpy.Concatenate", ("values",), {"axis": "axis"}),
    "expand_dims": _Rule("numpy.ExpandDims", ("input",), {"axis": "axis"}),
    "gather": _Rule(
        "numpy.Take",
        ("params", "indices"),
        {"axis": "axis"},
        {"validate_indices": (None,), "batch_dims": (0,)},
        {"axis": 0},
    ),
    "identity": _elementwise("numpy.Copy", "input"),
    "image.resize": _Rule(
        "image.Resize",
        ("images",),
        {"size": "size", "method": "interpolation"},
        {"preserve_aspect_ratio": (False,), "antialias": (False,)},
    ),
    "image.rgb_to_grayscale": _Rule("image.RGBToGrayscale", ("images",)),
    "linalg.matmul": _Rule(
        "numpy.Matmul",
        ("a", "b"),
        neutral=dict.fromkeys(
            ("adjoint_a", "adjoint_b", "a_is_sparse", "b_is_sparse"), (False, None)
        ),
    ),
    "math.argmax": _Rule("numpy.Argmax", ("input",), {"axis": "axis"}, defaults={"axis": 0}),
    "math.argmin": _Rule("numpy.Argmin", ("input",), {"axis": "axis"}, defaults={"axis": 0}),
    "math.cumsum": _Rule(
        "numpy.Cumsum",
        ("x",),
        {"axis": "axis"},
        {"exclusive": (False,), "reverse": (False,)},
        {"axis": 0},
    ),
    "math.divide_no_nan": _elementwise("numpy.DivideNoNan", "x", "y"),
    "math.equal": _comparison("numpy.Equal"),
    "math.l2_normalize": _Rule("nn.Normalize", ("x",), {"axis": "axis"}, {"epsilon": (1e-12,)}),
    "math.not_equal": _comparison("numpy.NotEqual"),
    "math.reduce_all": _reduction("numpy.All"),
    "math.reduce_any": _reduction("numpy.Any"),
    "math.reduce_logsumexp": _reduction("math.Logsumexp"),
    "math.reduce_max": _reduction("numpy.Max"),
    "math.reduce_mean": _reduction("numpy.Mean"),
    "math.reduce_min": _reduction("numpy.Min"),
    "math.reduce_prod": _reduction("numpy.Prod"),
    "math.reduce_std": _reduction("numpy.Std"),
    "math.reduce_sum": _reduction("numpy.Sum"),
    "math.reduce_variance": _reduction("numpy.Var"),
    "nn.bias_add": _Rule("numpy.Add", ("value", "bias"), neutral=_CHANNELS_LAST),
    "nn.depth_to_space": _Rule(
        "nn.DepthToSpace", ("input",), {"block_size": "block_size"}, _CHANNELS_LAST
    ),
    "nn.gelu": _Rule(
        "nn.Gelu",
        ("features",),
        {"approximate": "approximate"},
        defaults={"approximate": False},
    ),
    "nn.leaky_relu": _Rule("nn.LeakyRelu", ("features",), {"alpha": "negative_slope"}),
    "nn.log_softmax": _Rule("nn.LogSoftmax", ("logits",), {"axis": "axis"}),
    "nn.silu": _Rule("nn.Silu", ("features",), neutral={"beta": (1.0,)}),
    "nn.softmax": _Rule("nn.Softmax", ("logits",), {"axis": "axis"}),
    "nn.space_to_depth": _Rule(
        "nn.SpaceToDepth", ("input",), {"block_size": "block_size"}, _CHANNELS_LAST
    ),
    "one_hot": _Rule(
        "nn.OneHot",
        ("indices",),
        {"depth": "num_classes", "axis": "axis", "dtype": "dtype"},
        {"on_value": (None, 1.0), "off_value": (None, 0.0)},
    ),
    "ones_like": _Rule("numpy.OnesLike", ("input",), neutral={"dtype": (None,)}),
    "pad": _Rule(
        "numpy.Pad",
        ("tensor",),
        {"paddings": "pad_width", "mode": "mode"},
        {"constant_values": (0,)},
    ),
    "repeat": _Rule("numpy.Repeat", ("input",), {"repeats": "repeats", "axis": "axis"}),
    "reshape": _Rule("numpy.Reshape", ("tensor",), {"shape": "newshape"}),
    "reverse": _Rule("numpy.Flip", ("tensor",), {"axis": "axis"}),
    "roll": _Rule("numpy.Roll", ("input",), {"shift": "shift", "axis": "axis"}),
    "split": _Rule(
        "numpy.Split",
        ("value",),
        {"num_or_size_splits": "indices_or_sections", "axis": "axis"},
        {"num": (None,)},
    ),
    "squeeze": _Rule("numpy.Squeeze", ("input",), {"axis": "axis"}),
    "stack": _Rule("numpy.Stack", ("values",), {"axis": "axis"}),
    "stop_gradient": _elementwise("core.StopGradient", "input"),
    "tile": _Rule("numpy.Tile", ("input",), {"multiples": "repeats"}),
    "transpose": _Rule("numpy.Transpose", ("a",), {"perm": "axes"}, {"conjugate": (False,)}),
    "unstack": _Rule("core.Unstack", ("value",), {"num": "num", "axis": "axis"}),
    "where": _elementwise("numpy.Where", "condition", "x", "y"),
    "zeros_like": _Rule("numpy.ZerosLike", ("input",), neutral={"dtype": (None,)}),
    **{
        f"math.{name}": _elementwise(f"numpy.{operation}")
        for name, operation in {
            "abs": "Absolute",
            "ceil": "Ceil",
            "cos": "Cos",
            "exp": "Exp",
            "expm1": "Expm1",
            "floor": "Floor",
            "log": "Log",
            "log1p": "Log1p",
            "logical_not": "LogicalNot",
            "negative": "Negative",
            "reciprocal": "Reciprocal",
            "round": "Round",
            "sign": "Sign",
            "sin": "Sin",
            "sqrt": "Sqrt",
            "square": "Square",
            "tanh": "Tanh",
        }.items()
    },
    **{
        f"math.{name}": _elementwise(f"numpy.{operation}", "x", "y")
        for name, operation in {
            "add": "Add",
            "divide": "TrueDivide",
            "floordiv": "FloorDivide",
            "floormod": "Mod",
            "greater": "Greater",
            "greater_equal": "GreaterEqual",
            "less": "Less",
            "less_equal": "LessEqual",
            "logical_and": "LogicalAnd",
            "logical_or": "LogicalOr",
            "maximum": "Maximum",
            "minimum": "Minimum",
            "multiply": "Multiply",
            "pow": "Power",
            "subtract": "Subtract",
            "truediv": "TrueDivide",
        }.items()
    },
    "math.erf": _elementwise("math.Erf"),
    "math.rsqrt": _elementwise("math.Rsqrt"),
    "math.sigmoid": _elementwise("nn.Sigmoid"),
    "math.softplus": _elementwise("nn.Softplus", "features"),
    **{
        f"nn.{name}": _elementwise(f"nn.{operation}", "features")
        for name, operation in {
            "elu": "Elu",
            "relu": "Relu",
            "relu6": "Relu6",
            "selu": "Selu",
            "softsign": "Softsign",
        }.items()
    },
}
_SAME = {
    "compat.v1.argmax": "math.argmax",
    "compat.v1.gather": "gather",
    "compat.v1.pad": "pad",
    "compat.v1.squeeze": "squeeze",
    "compat.v1.transpose": "transpose",
    "nn.sigmoid": "math.sigmoid",
    "nn.swish": "nn.silu",
    "nn.tanh": "math.tanh",
}


@dataclass(frozen=True)
class _Node:
    """How one node of a TensorFlow graph corresponds to a function: its inputs, its attributes."""

    function: str
    inputs: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)


_KEEP = {"keep_dims": "keepdims"}
_NODES = {
    **{
        raw: _Node(function)
        for raw, function in {
            "Abs": "math.abs",
            "Add": "math.add",
            "AddV2": "math.add",
            "BiasAdd": "nn.bias_add",
            "Ceil": "math.ceil",
            "Cos": "math.cos",
            "Elu": "nn.elu",
            "Equal": "math.equal",
            "Erf": "math.erf",
            "Exp": "math.exp",
            "Floor": "math.floor",
            "Greater": "math.greater",
            "GreaterEqual": "math.greater_equal",
            "Identity": "identity",
            "Less": "math.less",
            "LessEqual": "math.less_equal",
            "Log": "math.log",
            "Maximum": "math.maximum",
            "Minimum": "math.minimum",
            "Mul": "math.multiply",
            "Neg": "math.negative",
            "Pow": "math.pow",
            "RealDiv": "math.truediv",
            "Relu": "nn.relu",
            "Relu6": "nn.relu6",
            "Round": "math.round",
            "Rsqrt": "math.rsqrt",
            "SelectV2": "where",
            "Selu": "nn.selu",
            "Sigmoid": "math.sigmoid",
            "Sign": "math.sign",
            "Sin": "math.sin",
            "Softmax": "nn.softmax",
            "Softplus": "math.softplus",
            "Sqrt": "math.sqrt",
            "Square": "math.square",
            "StopGradient": "stop_gradient",
            "Sub": "math.subtract",
            "Tanh": "math.tanh",
        }.items()
    },
    "ArgMax": _Node("math.argmax", ("input", "axis")),
    "BatchMatMulV2": _Node(
        "linalg.matmul", ("a", "b"), {"adj_x": "transpose_a", "adj_y": "transpose_b"}
    ),
    "Cast": _Node("cast", ("x",), {"DstT": "dtype"}),
    "ExpandDims": _Node("expand_dims", ("input", "axis")),
    "GatherV2": _Node("gather", ("params", "indices", "axis")),
    "LeakyRelu": _Node("nn.leaky_relu", ("features",), {"alpha": "alpha"}),
    "MatMul": _Node(
        "linalg.matmul", ("a", "b"), {"transpose_a": "transpose_a", "transpose_b": "transpose_b"}
    ),
    "Max": _Node("math.reduce_max", ("input_tensor", "axis"), _KEEP),
    "Mean": _Node("math.reduce_mean", ("input_tensor", "axis"), _KEEP),
    "Min": _Node("math.reduce_min", ("input_tensor", "axis"), _KEEP),
    "Pad": _Node("pad", ("tensor", "paddings")),
    "Prod": _Node("math.reduce_prod", ("input_tensor", "axis"), _KEEP),
    "Reshape": _Node("reshape", ("tensor", "shape")),
    "ResizeBilinear": _Node("image.resize", ("images", "size")),
    "ReverseV2": _Node("reverse", ("tensor", "axis")),
    "Split": _Node("split", ("axis", "value"), {"num_split": "num_or_size_splits"}),
    "Squeeze": _Node("squeeze", ("input",), {"squeeze_dims": "axis"}),
    "Sum": _Node("math.reduce_sum", ("input_tensor", "axis"), _KEEP),
    "Tile": _Node("tile", ("input", "multiples")),
    "Transpose": _Node("transpose", ("a", "perm")),
}


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
    function = _SAME.get(function, function)
    rule = _rule(function)
    return function, {rule.tensors[0]: first, **keywords}


def _call_of_node(config: Config, references: list[Any]) -> tuple[str, Config]:
    definition = config["node_def"]
    raw, attributes = definition["op"], definition.get("attr", {})
    constants = {int(index): value for index, value in config["constants"].items()}
    tensors = iter([reference[:3] for reference in references])
    count = len(references) + len(constants)
    inputs = [constants[i] if i in constants else next(tensors) for i in range(count)]
    if raw == "StridedSlice":
        return "__operators__.getitem", {
            "tensor": inputs[0],
            "key": _strided(*inputs[1:], attributes),
        }
    if raw == "ConcatV2":
        return "concat", {"values": inputs[:-1], "axis": inputs[-1]}
    if raw == "Pack":
        return "stack", {"values": inputs, "axis": int(attributes["axis"]["i"])}
    if raw not in _NODES:
        raise UnknownOperationError(raw)
    rule = _NODES[raw]
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


def _rule(function: str) -> _Rule:
    if function not in _FUNCTIONS:
        raise UnknownOperationError(function)
    return _FUNCTIONS[function]
