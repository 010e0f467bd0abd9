"""Keras 2 configs become Keras 3 configs, or a clear error where the meaning changed."""

import pytest

from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.security.legacy_config import translate


def _layer(class_name, inbound=(), **config):
    return {
        "class_name": class_name,
        "name": config["name"],
        "config": config,
        "inbound_nodes": [[[name, index, 0, {}]] for name, index in inbound],
    }


def _model(*layers, outputs, name="model"):
    return {
        "class_name": "Model",
        "name": name,
        "config": {
            "name": name,
            "layers": list(layers),
            "input_layers": [["image", 0, 0]],
            "output_layers": [[name, index, 0] for name, index in outputs],
        },
        "inbound_nodes": [],
    }


IMAGE = _layer("InputLayer", name="image", batch_input_shape=[None, 8, 8, 3], sparse=False)


def _sequential(*layers):
    return {"class_name": "Sequential", "config": {"name": "s", "layers": list(layers)}}


def test_input_shapes_are_renamed_and_inserted():
    first = _layer("Dense", name="d", units=2, batch_input_shape=[None, 4])
    layers = translate(_sequential(first), major_version=2)["config"]["layers"]
    assert layers[0]["class_name"] == "InputLayer"
    assert layers[0]["config"] == {"batch_shape": [None, 4]}
    assert layers[1]["config"] == {"name": "d", "units": 2}


def test_the_bare_list_of_layers_of_early_keras_2_is_read():
    config = {"class_name": "Sequential", "config": [_layer("Flatten", name="f")]}
    assert translate(config, major_version=2)["config"]["layers"][0]["config"] == {"name": "f"}


@pytest.mark.parametrize("first_call", [0, 1])
def test_calls_of_nested_models_are_counted_as_keras_3_does(first_call):
    inner = _model(IMAGE, _layer("ReLU", [("image", 0)], name="r"), outputs=[("r", 0)], name="in")
    inner["inbound_nodes"] = [[["image", 0, 0, {}]]]
    after = _layer("Flatten", [("in", first_call)], name="flat")
    outer = _model(IMAGE, inner, after, outputs=[("in", first_call)])
    translated = translate(outer, major_version=2)["config"]
    (call,) = translated["layers"][2]["inbound_nodes"]
    assert call["args"][0]["config"]["keras_history"] == ["in", 0, 0]
    assert translated["output_layers"] == ["in", 1, 0]


def test_objects_inside_a_layer_are_translated():
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    ones = {"class_name": "Ones", "config": {"dtype": "float32"}}
    layer = _layer("BatchNormalization", name="bn", axis=[3], dtype=policy, gamma_initializer=ones)
    config = translate(_sequential(layer), major_version=2)["config"]["layers"][0]["config"]
    assert config["axis"] == 3
    assert config["dtype"] == "mixed_float16"
    assert config["gamma_initializer"] == {"class_name": "Ones", "config": {}}


def test_a_dropped_argument_is_an_error_unless_it_was_unused():
    grouped = _layer("DepthwiseConv2D", name="d", kernel_size=3, groups=1)
    translate(_sequential(grouped), major_version=2)
    grouped["config"]["groups"] = 2
    with pytest.raises(BackboneError, match=r"groups=2, which Keras 3 no longer has.*Allowed: 1"):
        translate(_sequential(grouped), major_version=2)


def _first_config(layer, *, major_version=2):
    return translate(_sequential(layer), major_version=major_version)["config"]["layers"][0]


def test_hard_sigmoid_keeps_the_formula_it_had():
    layer = _layer("Activation", name="gate", activation="hard_sigmoid")
    activation = _first_config(layer)["config"]["activation"]
    assert [item["config"] for item in activation["config"]["layers"]] == [
        {"scale": 0.2, "offset": 0.5},
        {"max_value": 1.0},
    ]
    unchanged = _first_config(layer, major_version=3)
    assert unchanged["config"]["activation"] == "hard_sigmoid"


def test_an_unknown_activation_is_a_function_of_the_caller():
    activation = _first_config(_layer("Dense", name="d", activation="mine"))["config"]["activation"]
    assert activation["class_name"] == "function"
    assert activation["registered_name"] == "mine"


def test_a_gru_without_reset_after_resets_before():
    """Files before Keras 2.2 do not say, and the default changed."""
    assert _first_config(_layer("GRU", name="g"))["config"]["reset_after"] is False
    assert _first_config(_layer("CuDNNGRU", name="g"))["config"]["reset_after"] is True


def test_slashes_leave_names_without_a_collision():
    first = _layer("ReLU", [("image", 0)], name="a/b")
    second = _layer("ReLU", [("a/b", 0)], name="a_b")
    model = _model(IMAGE, first, second, outputs=[("a_b", 0)])
    config = translate(model, major_version=2)["config"]
    assert [layer["name"] for layer in config["layers"]] == ["image", "a_b_", "a_b"]
    (call,) = config["layers"][2]["inbound_nodes"]
    assert call["args"][0]["config"]["keras_history"] == ["a_b_", 0, 0]


def test_names_of_keras_1_are_translated():
    layer = _layer(
        "Convolution2D",
        name="c",
        nb_filter=4,
        nb_row=3,
        nb_col=2,
        border_mode="same",
        subsample=[1, 2],
        dim_ordering="th",
        init="uniform",
        bias=False,
        W_regularizer={"name": "L1L2Regularizer", "l1": 0.0, "l2": 0.5},
        W_constraint={"name": "MaxNorm", "m": 2, "axis": 0},
    )
    translated = _first_config(layer, major_version=1)
    assert translated["class_name"] == "Conv2D"
    assert translated["config"] == {
        "name": "c",
        "filters": 4,
        "kernel_size": [3, 2],
        "padding": "same",
        "strides": [1, 2],
        "data_format": "channels_first",
        "kernel_initializer": "random_uniform",
        "use_bias": False,
        "kernel_regularizer": {"class_name": "L1L2", "config": {"l1": 0.0, "l2": 0.5}},
        "kernel_constraint": {"class_name": "MaxNorm", "config": {"max_value": 2, "axis": 0}},
    }


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (_layer("Merge", name="m", mode="cos"), "merges its inputs by 'cos'"),
        (_layer("Merge", name="m", mode="sum", mode_type="lambda"), "a function, which is never"),
        (_layer("BatchNormalization", name="bn", mode=1), "mode=1"),
        (_layer("Embedding", name="e", dropout=0.5), "Embedding with dropout"),
    ],
)
def test_what_only_keras_1_has_is_refused(layer, reason):
    with pytest.raises(BackboneError, match=reason):
        translate(_sequential(layer), major_version=1)


@pytest.mark.parametrize("config", [{}, {"class_name": "Model", "config": {"layers": 3}}])
def test_a_damaged_config_is_a_backbone_error(config):
    with pytest.raises(BackboneError, match="damaged or of an unknown dialect"):
        translate(config, major_version=2)


@pytest.mark.parametrize("major_version", [2, 3])
def test_a_config_nested_too_deeply_is_refused(major_version):
    nested = []
    for _ in range(600):
        nested = [nested]
    config = _sequential(_layer("Dense", name="d", units=nested))
    with pytest.raises(UnsafeModelError, match="nested too deeply"):
        translate(config, major_version=major_version)


def test_the_given_config_is_not_changed():
    config = _sequential(_layer("Dense", name="d", units=2, batch_input_shape=[None, 4]))
    translate(config, major_version=2)
    assert config["config"]["layers"][0]["config"]["batch_input_shape"] == [None, 4]
