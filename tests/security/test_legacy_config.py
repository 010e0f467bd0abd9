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
    assert translated["layers"][2]["inbound_nodes"] == [[["in", 0, 0, {}]]]
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


def test_hard_sigmoid_is_refused_where_its_formula_changed():
    layer = _layer("Activation", name="gate", activation="hard_sigmoid")
    with pytest.raises(BackboneError, match=r"'gate' uses hard_sigmoid"):
        translate(_sequential(layer), major_version=2)
    translate(_sequential(layer), major_version=3)


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
