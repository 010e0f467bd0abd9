"""The pixel range is read from layers or measured against BatchNorm, never guessed."""

import keras
import numpy as np
import pytest

from tfinetune.backbones import load_backbone
from tfinetune.backbones.applications import application_scaling
from tfinetune.backbones.input_range import detect_input_scaling
from tfinetune.backbones.input_scaling import InputScaling
from tfinetune.backbones.range_probe import _sample_photos, probe_ranges
from tfinetune.errors import InputRangeError

layers = keras.layers


def _trained_under(preset, channels=3, names=None, scale=None):
    """Return a model whose BatchNorm remembers photos in the range of `preset`.

    Args:
        preset: what the pixels given to it were scaled by.
        channels: 1 or 3.
        names: of its first layers.
        scale: of a Rescaling layer at its start.
    """
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((32, 32, channels))
    if scale:
        x = layers.Rescaling(scale, name="own")(x)
    x = layers.BatchNormalization(momentum=0.0)(layers.Conv2D(8, 3)(x))
    for name in names or ("relu",):
        x = layers.ReLU(name=name)(x)
    model = keras.Model(inputs, x)
    photos = _sample_photos(32, 32, grey=channels == 1)
    model(InputScaling.preset(preset).apply(photos), training=True)
    return model


@pytest.mark.parametrize("preset", ["tf", "unit", "raw", "torch", "caffe"])
def test_statistics_tell_the_range_of_training(preset):
    scaling, warnings = detect_input_scaling(_trained_under(preset))
    assert scaling.describe() == InputScaling.preset(preset).describe()
    assert scaling.origin == "BatchNorm statistics"
    assert "times better than" in scaling.confidence
    assert warnings == ()


def test_grey_models_are_probed_with_grey_photos():
    scaling, _ = detect_input_scaling(_trained_under("tf", channels=1))
    assert scaling.describe() == "[-1, 1]"
    assert set(probe_ranges(_trained_under("tf", channels=1))) == {"tf", "unit", "raw"}


@pytest.mark.parametrize(
    ("scale", "offset", "wanted"),
    [
        (1 / 255, 0.0, "[0, 255]"),
        (1 / 127.5, -1.0, "[0, 255]"),
        (2.0, -1.0, "[0, 1]"),
        (255.0, 0.0, "[0, 1]"),
        (127.5, 127.5, "[-1, 1]"),
    ],
)
def test_a_leading_rescaling_layer_is_never_doubled(scale, offset, wanted):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Rescaling(scale, offset), layers.Conv2D(2, 3)]
    )
    scaling, warnings = detect_input_scaling(keras.Model(model.inputs[0], model.outputs[0]))
    assert (scaling.describe(), scaling.confidence, warnings) == (wanted, "declared", ())
    assert "own Rescaling layer" in scaling.origin


@pytest.mark.parametrize(
    ("mean", "variance", "wanted"), [(120.0, 3000.0, "[0, 255]"), (0.45, 0.06, "[0, 1]")]
)
def test_a_leading_normalization_layer_says_what_it_was_fitted_on(mean, variance, wanted):
    inputs = keras.Input((8, 8, 3))
    x = layers.ZeroPadding2D()(inputs)
    x = layers.Normalization(mean=[mean] * 3, variance=[variance] * 3)(x)
    model = keras.Model(inputs, layers.Conv2D(2, 3)(x))
    assert detect_input_scaling(model)[0].describe() == wanted


def test_without_batchnorm_or_rescaling_it_is_an_error():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3)])
    with pytest.raises(InputRangeError, match=r"cannot be decided.*--input-range LOW,HIGH"):
        detect_input_scaling(keras.Model(model.inputs[0], model.outputs[0]))


def test_untrained_batchnorm_decides_nothing():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(2, 3), layers.BatchNormalization()]
    )
    with pytest.raises(InputRangeError, match="no trained BatchNorm statistics"):
        detect_input_scaling(keras.Model(model.inputs[0], model.outputs[0]))


@pytest.mark.parametrize(
    ("disturb", "reason"), [(1e6, "about equally"), (6.0, "fit no known range")]
)
def test_statistics_that_fit_no_range_are_an_error(disturb, reason):
    model = _trained_under("tf")
    layer = model.layers[2]
    layer.moving_mean.assign(layer.moving_mean + disturb * np.sqrt(layer.moving_variance))
    with pytest.raises(InputRangeError, match=rf"{reason}.*--input-range LOW,HIGH"):
        detect_input_scaling(model)


def test_what_is_known_is_not_measured():
    known = InputScaling.preset("caffe", origin="keras.applications.ResNet50")
    scaling, warnings = detect_input_scaling(_trained_under("tf"), known=known)
    assert (scaling.describe(), scaling.origin) == (known.describe(), known.origin)
    assert (scaling.confidence, warnings) == ("known", ())


# --- published architectures --------------------------------------------------------------------

MOBILENET_V2 = ("bn_Conv1", "expanded_conv_depthwise", "block_1_expand")


@pytest.mark.parametrize(
    "name",
    [
        "MobileNet", "MobileNetV2", "ResNet50", "ResNet50V2", "DenseNet121", "VGG16", "Xception",
        pytest.param("InceptionV3", marks=pytest.mark.slow),
        pytest.param("InceptionResNetV2", marks=pytest.mark.slow),
        pytest.param("NASNetMobile", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_architectures_are_recognized_by_their_layers(name, application):
    scaling, warnings = detect_input_scaling(application(name))
    assert scaling.describe() == application_scaling(name).describe()
    assert "the published weights of" in scaling.origin
    assert scaling.confidence == "known by the names of its layers, not measured"
    assert warnings == ()


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "ConvNeXtTiny"])
def test_architectures_that_scale_pixels_themselves_say_so(name, application):
    scaling, warnings = detect_input_scaling(application(name))
    assert (scaling.describe(), scaling.confidence, warnings) == ("[0, 255]", "declared", ())


def test_squeezenet_is_recognized_with_slashes_in_its_names():
    inputs = x = keras.Input((8, 8, 3))
    for name in ("fire2_squeeze1x1", "fire2_expand3x3", "fire5_expand3x3"):
        x = layers.Conv2D(2, 1, name=name)(x)
    scaling, _ = detect_input_scaling(keras.Model(inputs, x))
    assert scaling.describe() == "BGR minus ImageNet mean"


def test_statistics_may_agree_with_the_names():
    scaling, warnings = detect_input_scaling(_trained_under("tf", names=MOBILENET_V2))
    assert scaling.describe() == "[-1, 1]"
    assert scaling.origin == "the published weights of MobileNetV2"
    assert scaling.confidence.endswith("BatchNorm statistics agree")
    assert warnings == ()


def test_statistics_overrule_the_names():
    """Somebody trained the architecture from scratch on pixels of their own scaling."""
    scaling, (warning,) = detect_input_scaling(_trained_under("raw", names=MOBILENET_V2))
    assert (scaling.describe(), scaling.origin) == ("[0, 255]", "BatchNorm statistics")
    assert "the published weights of MobileNetV2 wants [-1, 1], but the BatchNorm" in warning


# --- double normalization -----------------------------------------------------------------------


def test_statistics_that_contradict_the_models_own_layer_are_a_warning():
    model = _trained_under("unit", scale=1 / 255)
    scaling, (warning,) = detect_input_scaling(model)
    assert scaling.describe() == "[0, 255]"
    assert "statistics fit photos in [0, 1]" in warning and "or twice" in warning
    assert detect_input_scaling(_trained_under("raw", scale=1 / 255))[1] == ()


def test_two_layers_that_scale_are_a_warning():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(1 / 255, name="outer"),
            layers.ZeroPadding2D(),
            layers.Rescaling(1 / 255, name="inner"),
            layers.Conv2D(2, 3),
        ]
    )
    (warning,) = load_backbone(model).provenance.warnings
    assert "'outer', 'inner' at the model's start leave 0.0039" in warning
