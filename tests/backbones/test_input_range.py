"""The pixel range is read from layers or measured against BatchNorm, never guessed."""

import keras
import numpy as np
import pytest

from tfinetune.backbones.input_range import _sample_photos, detect_input_scaling, probe_ranges
from tfinetune.backbones.input_scaling import InputScaling
from tfinetune.errors import InputRangeError

layers = keras.layers


def _trained_under(preset, channels=3):
    """Return a model whose BatchNorm remembers photos in the range of `preset`."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((32, 32, channels))
    x = layers.Conv2D(8, 3)(inputs)
    model = keras.Model(inputs, layers.ReLU()(layers.BatchNormalization(momentum=0.0)(x)))
    photos = _sample_photos(32, 32, grey=channels == 1)
    model(InputScaling.preset(preset).apply(photos), training=True)
    return model


@pytest.mark.parametrize("preset", ["tf", "unit", "raw", "torch", "caffe"])
def test_statistics_tell_the_range_of_training(preset):
    scaling, confidence = detect_input_scaling(_trained_under(preset))
    assert scaling == InputScaling.preset(preset, origin="BatchNorm statistics")
    assert "times better than" in confidence


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
    scaling, confidence = detect_input_scaling(keras.Model(model.inputs[0], model.outputs[0]))
    assert (scaling.describe(), confidence) == (wanted, "declared")
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


def test_statistics_that_fit_nothing_better_than_another_are_an_error():
    model = _trained_under("tf")
    batch_norm = model.layers[2]
    batch_norm.moving_mean.assign(np.full(8, 1e6))
    with pytest.raises(InputRangeError, match="about equally"):
        detect_input_scaling(model)


def test_what_is_known_is_not_measured():
    known = InputScaling.preset("caffe", origin="keras.applications.ResNet50")
    assert detect_input_scaling(_trained_under("tf"), known=known) == (known, "known")
