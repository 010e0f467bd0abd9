"""Pixels reach a backbone exactly as keras.applications would have prepared them."""

import keras
import numpy as np
import pytest

from tfinetune.backbones.applications import application_names, application_scaling
from tfinetune.backbones.input_scaling import InputScaling
from tfinetune.errors import InputRangeError

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype("float32")


@pytest.mark.parametrize("preset", ["tf", "torch", "caffe"])
def test_presets_equal_keras_preprocessing(preset):
    expected = keras.applications.imagenet_utils.preprocess_input(PIXELS.copy(), mode=preset)
    scaling = InputScaling.preset(preset)
    np.testing.assert_allclose(scaling.apply(PIXELS), expected, atol=2e-5)
    np.testing.assert_allclose(scaling.apply(keras.ops.array(PIXELS)), expected, atol=2e-5)


@pytest.mark.parametrize("name", application_names())
def test_every_application_gets_what_its_own_module_does(name):
    modules = {
        "ConvNeXt": "convnext",
        "DenseNet": "densenet",
        "EfficientNetB": "efficientnet",
        "EfficientNetV2": "efficientnet_v2",
        "InceptionV3": "inception_v3",
        "InceptionResNetV2": "inception_resnet_v2",
        "MobileNet": "mobilenet",
        "MobileNetV2": "mobilenet_v2",
        "MobileNetV3": "mobilenet_v3",
        "NASNet": "nasnet",
        "ResNet": "resnet_v2" if name.endswith("V2") else "resnet",
        "SqueezeNet": "vgg16",  # Its weights were trained on the pixels that VGG takes.
        "VGG": "vgg16",
        "Xception": "xception",
    }
    module = modules[max((m for m in modules if name.startswith(m)), key=len)]
    preprocess = getattr(keras.applications, module).preprocess_input
    scaled = application_scaling(name).apply(PIXELS)
    np.testing.assert_allclose(scaled, preprocess(PIXELS.copy()), atol=2e-5)


@pytest.mark.parametrize("preset", ["tf", "torch", "caffe", "raw"])
def test_a_model_with_the_scaling_inside_reloads_in_plain_keras(preset, tmp_path):
    inputs = keras.Input((4, 4, 3))
    scaled = InputScaling.preset(preset).apply(inputs)
    model = keras.Model(inputs, keras.layers.Flatten()(scaled))
    model.save(tmp_path / "scaled.keras")
    reloaded = keras.models.load_model(tmp_path / "scaled.keras")
    np.testing.assert_array_equal(reloaded(PIXELS), model(PIXELS))


def test_descriptions():
    described = {name: InputScaling.preset(name).describe() for name in ("tf", "unit", "raw")}
    assert described == {"tf": "[-1, 1]", "unit": "[0, 1]", "raw": "[0, 255]"}
    assert InputScaling.preset("caffe").describe() == "BGR minus ImageNet mean"
    assert InputScaling.from_range(-0.5, 0.5).describe() == "[-0.5, 0.5]"


def test_only_raw_pixels_need_nothing():
    assert InputScaling.preset("raw").identity
    assert InputScaling.preset("raw").layers() == []
    assert not InputScaling.preset("tf").identity


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, -1), (0, float("inf"))])
def test_a_range_must_be_one(low, high):
    with pytest.raises(InputRangeError, match="is not a range: two numbers are needed"):
        InputScaling.from_range(low, high)


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(InputRangeError, match="Allowed: tf, unit, raw, torch, caffe"):
        InputScaling.preset("imagenet")
