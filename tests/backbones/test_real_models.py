"""Real files of ten years: what they compute, where they are cut, which range they want."""

from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest

from tfinetune.backbones import Backbone, load_backbone
from tfinetune.errors import BackboneError

EXPECTED = {
    # file: (input range, features, last layer kept)
    "teachable_machine_savedmodel/keras_model.h5": ("[-1, 1]", (7, 7, 1280), "out_relu"),
    "teachable_machine_waste/keras_model.h5": ("[-1, 1]", (7, 7, 1280), "out_relu"),
    "imagenet/mobilenet_v1_0.25_224_imagenet.keras": ("[-1, 1]", (7, 7, 256), "conv_pw_13_relu"),
    "imagenet/mobilenet_v2_0.35_224_notop.keras": ("[-1, 1]", (7, 7, 1280), "out_relu"),
    "imagenet/mobilenet_v2_1.0_224_imagenet.keras": ("[-1, 1]", (7, 7, 1280), "out_relu"),
    "stm32/mobilenet_v1_0.25_224.h5": ("[-1, 1]", (7, 7, 256), "conv_pw_13_relu"),
    "mlperf_tiny/vww_96.h5": ("[0, 1]", (3, 3, 256), "activation_26"),
    "mlperf_tiny/pretrainedResnet.h5": ("[0, 255]", (8, 8, 64), "activation_6"),
    "face_classification/fer2013_mini_XCEPTION.102-0.66.hdf5": ("[-1, 1]", (4, 4, 128), "add_4"),
    "face_classification/gender_mini_XCEPTION.21-0.95.hdf5": ("[-1, 1]", (4, 4, 128), "add_4"),
}


WASTE = "teachable_machine_waste/keras_model.h5"


@cache
def _load(path: Path) -> Backbone:
    return load_backbone(path)


_LARGE = ("imagenet/mobilenet_v2_1.0", "teachable_machine_savedmodel", "stm32")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith(_LARGE) else ())
        for name in EXPECTED
    ],
)
def test_range_and_cut_of_real_models(shared, name):
    input_range, features, last = EXPECTED[name]
    backbone = _load(shared / "models" / name)
    assert backbone.input_scaling.describe() == input_range
    assert backbone.model.output_shape[1:] == features
    assert backbone.model.layers[-1].name == last
    assert [group.name for group in backbone.groups][:2] == ["stem", "stage_1"]


def test_the_waste_models_backbone_is_bit_equal_to_its_rebuilt_copy(shared):
    models = shared / "models"
    cut = _load(models / WASTE)
    copy = _load(models / "imagenet" / "mobilenet_v2_0.35_224_notop.keras")
    images = np.random.default_rng(1).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
    np.testing.assert_array_equal(cut.model(images), copy.model(images))


def test_a_rebuilt_teachable_machine_backbone_saves_as_plain_keras(shared, tmp_path):
    backbone = _load(shared / "models" / WASTE).resized((160, 160))
    assert backbone.model.output_shape == (None, 5, 5, 1280)
    backbone.model.save(tmp_path / "backbone.keras")
    images = np.random.default_rng(2).uniform(-1, 1, (1, 160, 160, 3)).astype("float32")
    reloaded = keras.models.load_model(tmp_path / "backbone.keras")
    np.testing.assert_array_equal(reloaded(images), backbone.model(images))


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("churn/model.h5", [[None, 32]]),
        ("churn/model.keras", [[None, 32]]),
        ("mnist_cnn/model.keras", [[None, 128]]),
        ("sentiment/model.keras", [[None, 16]]),
        ("chemical_vae/zinc_encoder.h5", [[None, 196]]),
        ("mlperf_tiny/ad01.h5", [[None, 128]]),
    ],
)
def test_models_of_other_inputs_are_backbones(shared, name, features):
    backbone = load_backbone(shared / "models" / name)
    assert [list(output.shape) for output in backbone.model.outputs] == features


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("textgenrnn/textgenrnn_weights.hdf5", "weights only"),
        ("squeezenet/squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5", "weights only"),
        ("imagenet/mobilenet_v1_0.25_224_imagenet.weights.h5", "weights only"),
        ("teachable_machine_savedmodel/labels.txt", "is a text file"),
    ],
)
def test_what_cannot_be_a_backbone_says_why(shared, name, reason):
    with pytest.raises(BackboneError, match=reason) as caught:
        load_backbone(shared / "models" / name)
    assert "\n" not in str(caught.value)
