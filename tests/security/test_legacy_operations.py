"""TensorFlow operations between layers become operations of keras.ops, or are refused by name."""

import pytest

from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.security.legacy_config import translate
from tfinetune.security.legacy_operations import UnknownOperationError, translate_operation


def _function(name, node, **layer):
    config = {"name": "op", "function": name}
    return {
        "class_name": "TFOpLambda",
        "name": "op",
        "config": config,
        "inbound_nodes": [node],
        **layer,
    }


def _node(op, references, constants=None, **attributes):
    definition = {"op": op, "attr": attributes}
    config = {"name": "op", "node_def": definition, "constants": constants or {}}
    return {
        "class_name": "TensorFlowOpLayer",
        "name": "tf_op_layer_op",
        "config": config,
        "inbound_nodes": [references],
    }


def _translated(layer):
    new = translate_operation(layer)
    (node,) = new["inbound_nodes"]
    return f"{new['module']}.{new['class_name']}", new["config"], node["args"]


X, Y = ["x", 0, 0], ["y", 0, 1]


@pytest.mark.parametrize(
    ("function", "node", "operation", "settings", "arguments"),
    [
        ("math.add", [*X, {"y": Y, "name": None}], "numpy.Add", {}, [X, Y]),
        (
            "math.subtract",
            ["_CONSTANT_VALUE", -1, 2.0, {"y": X}],
            "numpy.Subtract",
            {},
            [2.0, X],
        ),
        (
            "math.reduce_mean",
            [*X, {"axis": [1, 2], "keepdims": True}],
            "numpy.Mean",
            {"axis": [1, 2], "keepdims": True},
            [X],
        ),
        (
            "concat",
            [[*X, {"axis": 1}], [*Y, {"axis": 1}]],
            "numpy.Concatenate",
            {"axis": 1},
            [[X, Y]],
        ),
        ("math.argmax", [*X, {}], "numpy.Argmax", {"axis": 0}, [X]),
        ("nn.gelu", [*X, {}], "nn.Gelu", {"approximate": False}, [X]),
        (
            "split",
            [*X, {"num_or_size_splits": [1, 2, 3]}],
            "numpy.Split",
            {"indices_or_sections": [1, 3]},
            [X],
        ),
        (
            "linalg.matmul",
            [*X, {"b": Y, "transpose_b": True}],
            "numpy.Einsum",
            {"subscripts": "...ij,...kj->...ik"},
            [X, Y],
        ),
    ],
)
def test_functions_become_operations(function, node, operation, settings, arguments):
    assert _translated(_function(function, node)) == (
        f"keras.src.ops.{operation}",
        {"name": "op", **settings},
        arguments,
    )


def test_a_list_of_numbers_becomes_a_constant():
    _, _, (_, bias) = _translated(_function("nn.bias_add", [*X, {"bias": [1.0, 2.0]}]))
    assert bias["class_name"] == "__numpy__"
    assert bias["config"]["value"] == [1.0, 2.0]


def test_nodes_of_a_graph_become_operations():
    keep = {"keep_dims": {"b": True}}
    operation, settings, arguments = _translated(_node("Mean", [[*X, {}]], {"1": [1]}, **keep))
    assert operation == "keras.src.ops.numpy.Mean"
    assert settings == {"name": "tf_op_layer_op", "axis": [1], "keepdims": True}
    assert arguments == [X]


def test_bit_fields_of_a_slice_become_a_key():
    constants = {"1": [0, 1, 3], "2": [0, -1, 4], "3": [1, 2, 1]}
    masks = {"begin_mask": {"i": "1"}, "end_mask": {"i": "1"}, "shrink_axis_mask": {"i": "4"}}
    _, _, (_, key) = _translated(_node("StridedSlice", [[*X, {}]], constants, **masks))
    assert [item["config"] if isinstance(item, dict) else item for item in key] == [
        {"start": None, "stop": None, "step": 1},
        {"start": 1, "stop": -1, "step": 2},
        3,
    ]


def test_a_call_that_keras_has_not_is_an_error():
    layer = _function("transpose", [*X, {"perm": [0, 2, 1], "conjugate": True}])
    with pytest.raises(BackboneError, match=r"calls tf.transpose with conjugate=True"):
        translate_operation(layer)


@pytest.mark.parametrize("name", ["io.read_file", "py_function", "raw_ops.WriteFile", "__class__"])
def test_an_operation_outside_the_table_is_unknown(name):
    with pytest.raises(UnknownOperationError, match=name):
        translate_operation(_function(name, [*X, {}]))
    with pytest.raises(UnknownOperationError, match="ReadFile"):
        translate_operation(_node("ReadFile", [[*X, {}]]))


def test_all_unknown_operations_are_named_at_once():
    layers = [_function("io.read_file", [*X, {}]), _function("signal.stft", [*X, {}])]
    entry = {"class_name": "InputLayer", "name": "x", "config": {"name": "x"}, "inbound_nodes": []}
    config = {"layers": [entry, *layers], "input_layers": [X], "output_layers": [["op", 0, 0]]}
    with pytest.raises(UnsafeModelError, match=r"io\.read_file, signal\.stft.*save it again"):
        translate({"class_name": "Functional", "config": config}, major_version=2)
