"""Every file and SavedModel among the real models opens as a backbone, or says why it does not.

The table names each of them: a model that comes new has no row, and fails a test.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from published_models import collaborative_filtering, mobilenet_v1_025, textgenrnn

from tfinetune.backbones import load_backbone
from tfinetune.errors import BackboneError

OPENS: dict[str, tuple[dict[str, Any], str | None, tuple[int, ...], str | None]] = {
    # file or folder: (arguments, pixel range, features, last layer kept)
    "basic_pitch/saved_model": ({"features": "note"}, None, (172, 88), None),
    "chemical_vae/zinc_encoder.h5": ({}, None, (196,), None),
    "chemical_vae/zinc_prop_pred.h5": ({}, None, (65,), None),
    "churn/model.h5": ({}, None, (32,), None),
    "churn/model.keras": ({}, None, (32,), None),
    "face_classification/fer2013_mini_XCEPTION.102-0.66.hdf5": (
        {}, "[-1, 1]", (4, 4, 128), "add_4"
    ),
    "face_classification/gender_mini_XCEPTION.21-0.95.hdf5": ({}, "[-1, 1]", (4, 4, 128), "add_4"),
    "imagenet/mobilenet_v1_0.25_224_imagenet.keras": (
        {}, "[-1, 1]", (7, 7, 256), "conv_pw_13_relu"
    ),
    "imagenet/mobilenet_v1_0.25_224_imagenet.weights.h5": (
        {"source": mobilenet_v1_025}, "[-1, 1]", (7, 7, 256), "conv_pw_13_relu"
    ),
    "imagenet/mobilenet_v2_0.35_224_notop.keras": ({}, "[-1, 1]", (7, 7, 1280), "out_relu"),
    "imagenet/mobilenet_v2_1.0_224_imagenet.keras": ({}, "[-1, 1]", (7, 7, 1280), "out_relu"),
    "mlperf_tiny/ad01.h5": ({}, None, (128,), None),
    "mlperf_tiny/pretrainedResnet.h5": ({}, "[0, 255]", (8, 8, 64), "activation_6"),
    "mlperf_tiny/vww_96.h5": ({}, "[0, 1]", (3, 3, 256), "activation_26"),
    "mnist_cnn/model.keras": ({}, None, (128,), None),
    "neural_collaborative_filtering/ml-1m_GMF_8_1501651698.h5": (
        {"source": partial(collaborative_filtering, size=8)}, None, (8,), None
    ),
    "neural_collaborative_filtering/ml-1m_MLP_[64,32,16,8]_1501652038.h5": (
        {"source": partial(collaborative_filtering, size=32, towers=(32, 16, 8))}, None, (8,), None
    ),
    "sentiment/model.keras": ({}, None, (16,), None),
    "squeezenet/squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5": (
        {"source": "SqueezeNet", "image_size": 96}, "BGR minus ImageNet mean", (5, 5, 512), None
    ),
    "squeezenet/squeezenet_weights_th_dim_ordering_th_kernels_notop.h5": (
        {"source": "SqueezeNet", "image_size": 96}, "BGR minus ImageNet mean", (5, 5, 512), None
    ),
    "stm32/mobilenet_v1_0.25_224.h5": ({}, "[-1, 1]", (7, 7, 256), "conv_pw_13_relu"),
    "teachable_machine_savedmodel/keras_model.h5": ({}, "[-1, 1]", (7, 7, 1280), "out_relu"),
    "teachable_machine_savedmodel/model.savedmodel": ({}, "[-1, 1]", (7, 7, 1280), "out_relu"),
    "teachable_machine_waste/keras_model.h5": ({}, "[-1, 1]", (7, 7, 1280), "out_relu"),
    "textgenrnn/textgenrnn_weights.hdf5": ({"source": textgenrnn}, None, (356,), None),
    "tf_serving/saved_model_half_plus_two_cpu/00000123": ({}, None, (1,), None),
    "tf_serving/saved_model_half_plus_two_tf2_cpu/00000123": (
        {"endpoint": "classify_x_to_y"}, None, (1,), None
    ),
    "tfx/estimator_serving": ({"endpoint": "predict", "features": "logits"}, None, (1,), None),
}  # fmt: skip

REFUSED: dict[str, str] = {
    # file or folder: why, without more arguments
    "basic_pitch/saved_model": r"outputs: contour: .*note: .*onset: .*features=",
    "imagenet/mobilenet_v1_0.25_224_imagenet.weights.h5": "weights only.*Pass the architecture",
    "mediapipe_hub/hub_module_v1_mini": "takes default: float32 of any shape, which is no batch",
    "mediapipe_hub/saved_model_v2_mini": "takes x: float32 of any shape, which is no batch",
    "squeezenet/squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5": "holds weights only",
    "textgenrnn/textgenrnn_weights.hdf5": "holds weights only",
    "tf_serving/saved_model_counter/00000123": "as a counter does",
    "tf_serving/saved_model_half_plus_two_tf2_cpu/00000123": r"takes x: float32 \[1\], which is no",
    "tfx/transform_graph": r"outputs: .*fare_xf: .*features=",
}

NO_MODELS = {
    # name of a file, wherever it lies: why
    "LICENSE": "is a text file",
    "LICENSE.md": "is a text file",
    "labels.txt": "is a text file",
    "textgenrnn_vocab.json": "is no architecture of Keras",
}


def _sources(folder: Path) -> Iterator[Path]:
    """Yield every SavedModel below a folder, and every file outside of them."""
    for item in sorted(folder.iterdir()):
        if item.is_dir() and not (item / "saved_model.pb").is_file():
            yield from _sources(item)
        else:
            yield item


def test_the_table_names_every_shared_model(shared):
    models = shared / "models"
    found = {path.relative_to(models).as_posix() for path in _sources(models)}
    others = {name for name in found if Path(name).name in NO_MODELS}
    assert found - others == OPENS.keys() | REFUSED.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", OPENS)
def test_it_opens(shared, name):
    arguments, pixels, features, last = OPENS[name]
    path = shared / "models" / name
    if "source" in arguments:
        arguments = {**arguments, "weights": path}
    backbone = load_backbone(**{"source": path, **arguments})
    assert backbone.model.output_shape[1:] == features
    assert (backbone.input_scaling and backbone.input_scaling.describe()) == pixels
    assert backbone.model.trainable_variables
    assert last in (None, backbone.model.layers[-1].name)
    if pixels:
        assert [group.name for group in backbone.groups][:2] == ["stem", "stage_1"]


@pytest.mark.parametrize("name", REFUSED)
def test_it_says_why_it_does_not(shared, name):
    with pytest.raises(BackboneError, match=REFUSED[name]) as caught:
        load_backbone(shared / "models" / name)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_is_said_to_be_none(shared):
    for path in _sources(shared / "models"):
        if reason := NO_MODELS.get(path.name):
            with pytest.raises(BackboneError, match=reason):
                load_backbone(path)
