"""Folders as backbones: a finished run, and a preset of KerasHub."""

import json
import sys

import keras
import numpy as np
import pytest

from tfinetune.assembly import Assembly
from tfinetune.backbones import load_backbone
from tfinetune.errors import (
    BackboneUnavailableError,
    MissingExtraError,
    RunError,
    UnsafeModelError,
)
from tfinetune.recipe import Recipe
from tfinetune.runs import RunFolder

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")


@pytest.fixture
def run(tmp_path, small_cnn) -> tuple[RunFolder, Assembly]:
    assembly = Assembly(load_backbone(small_cnn(), input_range=(-1, 1)), 3)
    folder = RunFolder.create(tmp_path / "run")
    Recipe(data="photos", backbone="small.keras").save(folder.recipe_path)
    folder.metrics_path.write_text("{}")
    assembly.model.save(folder.model_path)
    folder.write_manifest()
    return folder, assembly


def test_a_finished_run_is_a_backbone_of_what_it_learned(run):
    folder, assembly = run
    backbone = load_backbone(folder.path)
    assert backbone.provenance.kind == "run"
    assert backbone.input_scaling.describe() == "[0, 255]"
    expected = assembly.backbone.model(IMAGES / 127.5 - 1)
    np.testing.assert_allclose(backbone.model(IMAGES), expected, rtol=1e-5, atol=1e-6)


def test_a_run_whose_model_was_changed_is_refused(run):
    folder, _ = run
    keras.Sequential([keras.Input((16, 16, 3))]).save(folder.model_path)
    with pytest.raises(RunError, match="model.keras in .* changed since"):
        load_backbone(folder.path)


def test_a_preset_without_keras_hub_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    (tmp_path / "config.json").write_text(json.dumps({"registered_name": "keras_hub>XBackbone"}))
    for source in ("hub:resnet_18_imagenet", tmp_path):
        with pytest.raises(MissingExtraError, match=r"pip install 'tfinetune\[hub\]'"):
            load_backbone(source)


@pytest.fixture
def preset(tmp_path):
    """Save a small preset and return its backbone and folder."""
    keras_hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed (extra: hub)")
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )
    backbone.save_to_preset(tmp_path / "preset")
    return backbone, tmp_path / "preset"


def test_a_preset_folder_opens_as_native_layers(preset):
    original, folder = preset
    backbone = load_backbone(folder, input_range=(0, 1))
    assert backbone.provenance.kind == "hub"
    assert backbone.provenance.warnings == ()
    np.testing.assert_allclose(backbone.model(IMAGES), original(IMAGES), rtol=1e-5)


def test_a_preset_that_names_code_is_refused(preset):
    _, folder = preset
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["config"]["dtype"] = {"module": "os", "class_name": "system", "config": {}}
    file.write_text(json.dumps(config))
    with pytest.raises(UnsafeModelError, match="system"):
        load_backbone(folder)


def test_a_preset_that_cannot_be_downloaded_says_so(preset, monkeypatch):
    import keras_hub

    def fail(name):
        raise ConnectionError(f"no route to {name}")

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", fail)
    with pytest.raises(BackboneUnavailableError, match="no route to resnet_18_imagenet"):
        load_backbone("hub:resnet_18_imagenet")
