"""The TensorFlow functions and graph nodes that `keras.ops` has too, and their arguments.

Two tables, read by `legacy_operations`. They hold pure functions only: nothing in them reads,
writes or runs anything.
"""

from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Rule:
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


def _elementwise(operation: str, *tensors: str) -> Rule:
    return Rule(operation, tensors or ("x",))


def _reduction(operation: str) -> Rule:
    return Rule(operation, ("input_tensor",), {"axis": "axis", "keepdims": "keepdims"})


def _comparison(operation: str) -> Rule:
    return Rule(operation, ("x", "y"), neutral={"incompatible_shape_error": (True,)})


_CHANNELS_LAST = {"data_format": (None, "NHWC", "channels_last")}
FUNCTIONS = {
    "__operators__.add": _elementwise("numpy.Add", "x", "y"),
    "__operators__.eq": _elementwise("numpy.Equal", "self", "other"),
    "__operators__.ne": _elementwise("numpy.NotEqual", "self", "other"),
    "broadcast_to": Rule("numpy.BroadcastTo", ("input",), {"shape": "shape"}),
    "cast": Rule("core.Cast", ("x",), {"dtype": "dtype"}),
    "clip_by_value": Rule(
        "numpy.Clip", ("t",), {"clip_value_min": "x_min", "clip_value_max": "x_max"}
    ),
    "concat": Rule("numpy.Concatenate", ("values",), {"axis": "axis"}),
    "expand_dims": Rule("numpy.ExpandDims", ("input",), {"axis": "axis"}),
    "gather": Rule(
        "numpy.Take",
        ("params", "indices"),
        {"axis": "axis"},
        {"validate_indices": (None,), "batch_dims": (0,)},
        {"axis": 0},
    ),
    "identity": _elementwise("numpy.Copy", "input"),
    "image.resize": Rule(
        "image.Resize",
        ("images",),
        {"size": "size", "method": "interpolation"},
        {"preserve_aspect_ratio": (False,), "antialias": (False,)},
    ),
    "image.rgb_to_grayscale": Rule("image.RGBToGrayscale", ("images",)),
    "linalg.matmul": Rule(
        "numpy.Matmul",
        ("a", "b"),
        neutral=dict.fromkeys(
            ("adjoint_a", "adjoint_b", "a_is_sparse", "b_is_sparse"), (False, None)
        ),
    ),
    "math.argmax": Rule("numpy.Argmax", ("input",), {"axis": "axis"}, defaults={"axis": 0}),
    "math.argmin": Rule("numpy.Argmin", ("input",), {"axis": "axis"}, defaults={"axis": 0}),
    "math.cumsum": Rule(
        "numpy.Cumsum",
        ("x",),
        {"axis": "axis"},
        {"exclusive": (False,), "reverse": (False,)},
        {"axis": 0},
    ),
    "math.divide_no_nan": _elementwise("numpy.DivideNoNan", "x", "y"),
    "math.equal": _comparison("numpy.Equal"),
    "math.l2_normalize": Rule("nn.Normalize", ("x",), {"axis": "axis"}, {"epsilon": (1e-12,)}),
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
    "nn.bias_add": Rule("numpy.Add", ("value", "bias"), neutral=_CHANNELS_LAST),
    "nn.depth_to_space": Rule(
        "nn.DepthToSpace", ("input",), {"block_size": "block_size"}, _CHANNELS_LAST
    ),
    "nn.gelu": Rule(
        "nn.Gelu",
        ("features",),
        {"approximate": "approximate"},
        defaults={"approximate": False},
    ),
    "nn.leaky_relu": Rule("nn.LeakyRelu", ("features",), {"alpha": "negative_slope"}),
    "nn.log_softmax": Rule("nn.LogSoftmax", ("logits",), {"axis": "axis"}),
    "nn.silu": Rule("nn.Silu", ("features",), neutral={"beta": (1.0,)}),
    "nn.softmax": Rule("nn.Softmax", ("logits",), {"axis": "axis"}),
    "nn.space_to_depth": Rule(
        "nn.SpaceToDepth", ("input",), {"block_size": "block_size"}, _CHANNELS_LAST
    ),
    "one_hot": Rule(
        "nn.OneHot",
        ("indices",),
        {"depth": "num_classes", "axis": "axis", "dtype": "dtype"},
        {"on_value": (None, 1.0), "off_value": (None, 0.0)},
    ),
    "ones_like": Rule("numpy.OnesLike", ("input",), neutral={"dtype": (None,)}),
    "pad": Rule(
        "numpy.Pad",
        ("tensor",),
        {"paddings": "pad_width", "mode": "mode"},
        {"constant_values": (0,)},
    ),
    "repeat": Rule("numpy.Repeat", ("input",), {"repeats": "repeats", "axis": "axis"}),
    "reshape": Rule("numpy.Reshape", ("tensor",), {"shape": "newshape"}),
    "reverse": Rule("numpy.Flip", ("tensor",), {"axis": "axis"}),
    "roll": Rule("numpy.Roll", ("input",), {"shift": "shift", "axis": "axis"}),
    "split": Rule(
        "numpy.Split",
        ("value",),
        {"num_or_size_splits": "indices_or_sections", "axis": "axis"},
        {"num": (None,)},
    ),
    "squeeze": Rule("numpy.Squeeze", ("input",), {"axis": "axis"}),
    "stack": Rule("numpy.Stack", ("values",), {"axis": "axis"}),
    "stop_gradient": _elementwise("core.StopGradient", "input"),
    "tile": Rule("numpy.Tile", ("input",), {"multiples": "repeats"}),
    "transpose": Rule("numpy.Transpose", ("a",), {"perm": "axes"}, {"conjugate": (False,)}),
    "unstack": Rule("core.Unstack", ("value",), {"num": "num", "axis": "axis"}),
    "where": _elementwise("numpy.Where", "condition", "x", "y"),
    "zeros_like": Rule("numpy.ZerosLike", ("input",), neutral={"dtype": (None,)}),
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
SAME_FUNCTION = {
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
class Node:
    """How one node of a TensorFlow graph corresponds to a function: its inputs, its attributes."""

    function: str
    inputs: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)


_KEEP = {"keep_dims": "keepdims"}
NODES = {
    **{
        raw: Node(function)
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
    "ArgMax": Node("math.argmax", ("input", "axis")),
    "BatchMatMulV2": Node(
        "linalg.matmul", ("a", "b"), {"adj_x": "transpose_a", "adj_y": "transpose_b"}
    ),
    "Cast": Node("cast", ("x",), {"DstT": "dtype"}),
    "ExpandDims": Node("expand_dims", ("input", "axis")),
    "GatherV2": Node("gather", ("params", "indices", "axis")),
    "LeakyRelu": Node("nn.leaky_relu", ("features",), {"alpha": "alpha"}),
    "MatMul": Node(
        "linalg.matmul", ("a", "b"), {"transpose_a": "transpose_a", "transpose_b": "transpose_b"}
    ),
    "Max": Node("math.reduce_max", ("input_tensor", "axis"), _KEEP),
    "Mean": Node("math.reduce_mean", ("input_tensor", "axis"), _KEEP),
    "Min": Node("math.reduce_min", ("input_tensor", "axis"), _KEEP),
    "Pad": Node("pad", ("tensor", "paddings")),
    "Prod": Node("math.reduce_prod", ("input_tensor", "axis"), _KEEP),
    "Reshape": Node("reshape", ("tensor", "shape")),
    "ResizeBilinear": Node("image.resize", ("images", "size")),
    "ReverseV2": Node("reverse", ("tensor", "axis")),
    "Split": Node("split", ("axis", "value"), {"num_split": "num_or_size_splits"}),
    "Squeeze": Node("squeeze", ("input",), {"squeeze_dims": "axis"}),
    "Sum": Node("math.reduce_sum", ("input_tensor", "axis"), _KEEP),
    "Tile": Node("tile", ("input", "multiples")),
    "Transpose": Node("transpose", ("a", "perm")),
}
