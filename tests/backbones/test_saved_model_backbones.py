"""Opening SavedModels: native where that is proven, and every choice named."""

import json
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest
from fixtures import matrix
from saved_models import SIZE, save_blocks, save_keras_export, save_tensorflow_1

from tfinetune.adaptation import resolve
from tfinetune.assembly import Assembly
from tfinetune.backbones import describe, load_backbone
from tfinetune.backbones.saved_model import PROVEN, open_saved_model
from tfinetune.backbones.saved_model_layer import saved_model_layers
from tfinetune.errors import BackboneError, FixedSizeError, InputRangeError

ARCHIVE = matrix.HERE / "legacy_saved_models.tar.xz"


@pytest.fixture(scope="session")
def legacy_saved_models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("legacy_saved_models")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_a_keras_2_saved_model_can_be_used_as_it_is(legacy_saved_models):
    path = legacy_saved_models / "residual_cnn" / "saved_model"
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype("float32")
    native = open_saved_model(path).model
    for endpoint in ("__call__", "serving_default"):
        layer = load_backbone(path, endpoint=endpoint, input_range=(-1, 1))
        assert "loading the fine-tuned `.keras` needs tfinetune" in layer.provenance.warnings[0]
        np.testing.assert_allclose(layer.model(images), native(images), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model"
    save_tensorflow_1(path, tags=("eval",))
    return path


def test_a_choice_between_outputs_is_asked_for_and_listed(graph):
    with pytest.raises(BackboneError, match=r"y: float32 \[any, 3\].*Pass features="):
        load_backbone(graph)
    with pytest.raises(BackboneError, match=r"sum: float32 \[any, 3\].*Pass features="):
        load_backbone(graph, features="z")
    both = load_backbone(graph, features=["sum", "y"])
    np.testing.assert_array_equal(np.stack(both.model(np.ones((1, 4)))), [[[4] * 3], [[4, 5, 0]]])


def test_a_choice_between_endpoints_is_asked_for_and_listed(graph):
    with pytest.raises(BackboneError, match=r"serving_default\(x: float32 \[any, 4\]\).*endpoint="):
        load_backbone(graph, endpoint="classify")


def test_reference_and_resource_variables_compute_the_same(graph, tmp_path):
    save_tensorflow_1(tmp_path / "resource", reference=False)
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    one, other = (load_backbone(p, features="y") for p in (graph, tmp_path / "resource"))
    np.testing.assert_array_equal(one.model(rows), other.model(rows))


def test_an_image_model_needs_its_range_and_keeps_its_size(tmp_path):
    save_keras_export(tmp_path / "model")
    with pytest.raises(InputRangeError, match="cannot be decided"):
        load_backbone(tmp_path / "model")
    backbone = load_backbone(tmp_path / "model", input_range=(0, 1), image_size=12)
    assert backbone.image_size == (SIZE, SIZE)
    assert "images are resized to 8x8, not 12x12" in backbone.provenance.warnings[-1]
    with pytest.raises(FixedSizeError, match="works at the size that it was opened at"):
        backbone.resized((12, 12))
    with pytest.raises(BackboneError, match="cannot be started from scratch"):
        backbone.reinitialized(0)


def test_arguments_that_do_not_go_together_are_refused(tmp_path, graph):
    assembly = Assembly(load_backbone(graph, features="y"), 2)
    assembly.model.save(tmp_path / "tuned.keras")
    with pytest.raises(BackboneError, match="whose outputs were chosen then"):
        load_backbone(tmp_path / "tuned.keras", features="sum")
    with pytest.raises(BackboneError, match="endpoint= choose what is used of a SavedModel"):
        load_backbone(tmp_path / "tuned.keras", endpoint="serving_default")
    with pytest.raises(BackboneError, match="brings its own weights"):
        load_backbone(graph, features="y", weights=tmp_path / "other.h5")


def test_an_image_model_of_any_size_is_opened_at_the_size_asked_for(tmp_path):
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(image)
    keras.Model(image, x).export(tmp_path / "model", verbose=False)
    backbone = load_backbone(tmp_path / "model", input_range=(0, 1), image_size=(32, 16))
    assert backbone.image_size == (32, 16)
    assert backbone.model.output_shape == (None, 15, 7, 4)
    assert "opened for images of 32x16" in backbone.provenance.notes
    assert load_backbone(tmp_path / "model", input_range=(0, 1)).image_size == (224, 224)


def test_describe_tells_what_it_is(tmp_path):
    save_blocks(tmp_path / "model")
    facts = describe(load_backbone(tmp_path / "model", input_range=(0, 1)))
    assert facts["kind"] == "saved_model"
    assert facts["era"].startswith("TensorFlow 2.")
    assert len(facts["sha256"]) == 64
    assert facts["batch_norm_layers"] == 2
    assert [(g["name"], g["parameters"]) for g in facts["groups"]] == [
        ("stem", 3 * 3 * 3 * 4 + 8),
        ("stage_1", 3 * 3 * 4 * 6 + 12),
    ]
    json.dumps(facts)


@pytest.mark.parametrize("save", [save_blocks, save_tensorflow_1])
def test_mutated_graphs_raise_our_errors_only(tmp_path, save):
    save(tmp_path)
    file = tmp_path / "saved_model.pb"
    original = np.frombuffer(file.read_bytes(), np.uint8)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(25):
        mutated = original.copy()
        # Text stays text: most other bytes are refused by protobuf already.
        mutated[random.integers(len(mutated))] = random.integers(0, 128)
        file.write_bytes(mutated.tobytes())
        try:
            load_backbone(tmp_path, features="y" if save is save_tensorflow_1 else None)
        except BackboneError:
            refused += 1
    assert refused


def test_half_plus_two_halves_and_adds_two(shared):
    backbone = load_backbone(shared / "models/tf_serving/saved_model_half_plus_two_cpu")
    np.testing.assert_allclose(backbone.model(np.float32([[0], [3]])), [[2], [3.5]])


@pytest.mark.slow
def test_teachable_machine_has_the_same_features_from_either_file(shared):
    folder = shared / "models" / "teachable_machine_savedmodel"
    one = load_backbone(folder / "keras_model.h5")
    other = load_backbone(folder / "model.savedmodel")
    assert other.provenance.notes[0] == PROVEN
    assert other.input_scaling.describe() == "[-1, 1]"
    images = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
    np.testing.assert_allclose(one.model(images), other.model(images), atol=1e-5, rtol=0)


def test_one_step_on_basic_pitch_moves_what_the_rules_name(shared):
    backbone = load_backbone(shared / "models" / "basic_pitch" / "saved_model", features="note")
    assembly = Assembly(backbone, 2)
    resolve(["head", "conv2d_1", "re:^contours"], assembly).apply()
    layers = saved_model_layers(assembly.model)[0].scopes
    before = [[weight.numpy() for weight in layer.weights] for layer in layers]
    model = assembly.logits_model
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sound = np.random.default_rng(0).normal(size=(2, 43844, 1)).astype("float32")
    model.train_on_batch(sound, np.array([0, 1]))
    moved = {
        layer.path
        for layer, old in zip(layers, before, strict=True)
        if any(not np.array_equal(w.numpy(), v) for w, v in zip(layer.weights, old, strict=True))
    }
    assert moved == {"conv2d_1", "contours-reduced"}
