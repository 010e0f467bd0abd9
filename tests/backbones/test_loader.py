"""One function opens every kind of source, and says in a paragraph why it cannot."""

import errno
import json
import os

import keras
import numpy as np
import pytest

from tfinetune.backbones import describe, load_backbone
from tfinetune.errors import (
    BackboneError,
    BackboneUnavailableError,
    FixedSizeError,
    InputRangeError,
    StorageError,
    UnsafeModelError,
)

layers = keras.layers
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")


def _features(model):
    return keras.Model(model.inputs[0], model.get_layer("relu2").output)


@pytest.mark.parametrize("source", ["keras", "h5", "object"])
def test_every_source_gives_the_same_features(small_cnn, tmp_path, source):
    model = small_cnn()
    path = model if source == "object" else tmp_path / f"model.{source}"
    if source != "object":
        model.save(path)
    backbone = load_backbone(path, input_range=(-1, 1))
    np.testing.assert_array_equal(backbone.model(IMAGES), _features(model)(IMAGES))
    assert backbone.image_size == (16, 16)
    assert backbone.channels == 3
    assert (backbone.provenance.sha256 is None) == (source == "object")
    assert backbone.provenance.kind == {"h5": "hdf5"}.get(source, source)


def test_the_users_model_is_left_alone(small_cnn):
    model = small_cnn()
    model.get_layer("c1").trainable = False
    backbone = load_backbone(model, input_range=(-1, 1))
    assert all(layer.trainable for layer in backbone.model.layers)
    assert not model.get_layer("c1").trainable
    backbone.model.get_layer("c0").kernel.assign(backbone.model.get_layer("c0").kernel * 0)
    assert np.any(model.get_layer("c0").kernel)


def test_another_image_size_keeps_the_weights(small_cnn):
    backbone = load_backbone(small_cnn(), input_range=(-1, 1), image_size=(24, 32))
    assert backbone.image_size == (24, 32)
    assert "rebuilt from 16x16 to 24x32" in backbone.provenance.notes[-1]
    expected = _features(small_cnn()).get_weights()
    for before, after in zip(expected, backbone.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_size_that_is_impossible_keeps_its_own_and_says_so():
    inputs = keras.Input((8, 8, 3))
    x = layers.Dense(9, activation="relu", name="hidden")(layers.Flatten()(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    backbone = load_backbone(model, input_range=(0, 1), image_size=16)
    assert backbone.image_size == (8, 8)
    assert "images are resized to 8x8, not 16x16" in backbone.provenance.warnings[0]
    with pytest.raises(FixedSizeError, match="cannot be rebuilt at 16x16"):
        backbone.resized((16, 16))


def test_a_model_of_any_size_is_built_at_the_requested_one():
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3)])
    assert load_backbone(model, input_range=(0, 1), image_size=32).image_size == (32, 32)
    assert load_backbone(model, input_range=(0, 1)).image_size == (224, 224)
    model = keras.Sequential([keras.Input((None, 48, 3)), layers.Conv2D(2, 3)])
    assert load_backbone(model, input_range=(0, 1)).image_size == (224, 48)


def test_an_image_size_that_makes_an_activation_immense_is_refused():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(1, 1)(layers.UpSampling2D(64)(inputs))
    backbone = load_backbone(keras.Model(inputs, x), input_range=(0, 1))
    with pytest.raises(UnsafeModelError, match="makes 616,562,688 numbers per image"):
        backbone.resized((224, 224))


def test_from_scratch_is_reproducible_and_different(small_cnn):
    model = small_cnn()
    first, again, other = (
        load_backbone(model, weights="none", input_range=(-1, 1), seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.model(IMAGES), again.model(IMAGES))
    assert not np.allclose(first.model(IMAGES), other.model(IMAGES))
    assert not np.allclose(first.model(IMAGES), _features(model)(IMAGES))
    assert [g.name for g in first.groups] == ["stem", "stage_1", "stage_2"]


def test_from_scratch_keeps_preprocessing_statistics():
    normalization = layers.Normalization(mean=[100.0] * 3, variance=[2500.0] * 3)
    inner = keras.Sequential([keras.Input((8, 8, 3)), normalization, layers.Conv2D(2, 3)])
    backbone = load_backbone(inner, weights="none")
    kept = next(x for x in backbone.model.layers if isinstance(x, layers.Normalization))
    np.testing.assert_array_equal(np.ravel(kept.mean), [100.0] * 3)
    adapted = layers.Normalization()
    adapted.adapt(IMAGES * 50 + 100)
    outer = keras.Sequential([keras.Input((16, 16, 3)), adapted, layers.Conv2D(2, 3)])
    backbone = load_backbone(outer, weights="none")
    kept = next(x for x in backbone.model.layers if isinstance(x, layers.Normalization))
    np.testing.assert_array_equal(kept.mean, adapted.mean)


def test_double_normalization_is_warned_about(small_cnn):
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.Rescaling(1 / 255), small_cnn()])
    assert load_backbone(model).input_scaling.identity
    backbone = load_backbone(model, input_range=(0, 1))
    assert "may be normalized twice" in backbone.provenance.warnings[0]


def test_description_is_json_and_complete(small_cnn, tmp_path):
    small_cnn().save(tmp_path / "model.h5")
    described = describe(load_backbone(tmp_path / "model.h5", input_range=(-1, 1)))
    assert json.loads(json.dumps(described)) == described
    assert described["input_shape"] == [16, 16, 3]
    assert described["output_shape"] == [4, 4, 8]
    assert described["batch_norm_layers"] == 3
    assert [g["depth"] for g in described["groups"]] == [4, 3, 3]
    assert [g["output_shape"] for g in described["groups"]] == [[16, 16, 4], [8, 8, 6], [4, 4, 8]]
    assert any("cut after relu2" in note for note in described["notes"])
    assert any(note.startswith("input range [-1, 1]") for note in described["notes"])


# --- architectures by name ----------------------------------------------------------------------


def test_an_architecture_is_found_in_any_case_and_built_at_any_size():
    backbone = load_backbone("mobilenetV2", weights="none", image_size=64)
    assert backbone.provenance.source == "MobileNetV2"
    assert backbone.model.output_shape == (None, 2, 2, 1280)
    assert backbone.input_scaling.describe() == "[-1, 1]"


@pytest.mark.parametrize("name", ["full.h5", "full.weights.h5"])
def test_weights_of_the_full_model_fill_the_architecture(tmp_path, name):
    keras.utils.set_random_seed(5)
    full = keras.applications.MobileNet(weights=None, classes=3, input_shape=(32, 32, 3))
    full.save_weights(tmp_path / name) if "weights" in name else full.save(tmp_path / name)
    backbone = load_backbone("MobileNet", weights=tmp_path / name, image_size=32)
    assert "all 135 weights, " in backbone.provenance.notes[0]
    for before, after in zip(full.get_weights(), backbone.model.get_weights(), strict=False):
        np.testing.assert_array_equal(before, after)


@pytest.fixture
def failing_download(monkeypatch):
    """Return a function that makes the download of VGG16 fail with an error."""

    def fail_with(error):
        def build(*args, **kwargs):
            raise error

        monkeypatch.setattr(keras.applications, "VGG16", build)

    return fail_with


@pytest.mark.parametrize(
    "error",
    [
        Exception("URL fetch failure on https://example.org: None -- Name not known"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        ValueError("Incomplete or corrupted file detected. The md5 file hash does not match."),
    ],
)
def test_a_failed_download_says_what_to_do(failing_download, error):
    failing_download(error)
    with pytest.raises(BackboneUnavailableError, match=r"could not be downloaded.*--weights PATH"):
        load_backbone("VGG16")


def test_a_full_disk_is_no_failed_download(failing_download):
    failing_download(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(StorageError, match="No space left on device.*KERAS_HOME"):
        load_backbone("VGG16")


def test_an_impossible_size_of_an_architecture_is_named():
    with pytest.raises(FixedSizeError, match="cannot be built for 16x16"):
        load_backbone("VGG16", weights="none", image_size=16)


# --- refusals -----------------------------------------------------------------------------------


def test_a_misspelled_architecture_is_corrected():
    with pytest.raises(BackboneError, match="Did you mean MobileNetV2"):
        load_backbone("MobilNetV2")


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(BackboneError, match="subclassed model"):
        load_backbone(Own())


def test_an_unbuilt_model_is_refused():
    with pytest.raises(BackboneError, match="never built"):
        load_backbone(keras.Sequential([layers.Conv2D(2, 3)]))


@pytest.mark.parametrize("source", [3, None, ["a.keras"]])
def test_what_is_no_source_at_all_is_refused(source):
    with pytest.raises(BackboneError, match=r"is a path, a name, a keras\.Model"):
        load_backbone(source)


@pytest.mark.parametrize("source", ["no/such/file.keras", "x" * 5000, "nul\0byte", ""])
def test_a_source_that_cannot_exist_is_a_backbone_error(source):
    with pytest.raises(BackboneError, match=r"There is no (file|model)|is a folder"):
        load_backbone(source)


@pytest.mark.parametrize("input_range", [(1,), 3, (0, 1, 2)])
def test_what_is_no_pixel_range_is_refused(small_cnn, input_range):
    with pytest.raises(InputRangeError, match="is no pixel range"):
        load_backbone(small_cnn(), input_range=input_range)


@pytest.mark.parametrize("image_size", [0, -3, (224,), "224", 2.5])
def test_what_is_no_image_size_is_refused(image_size, small_cnn):
    with pytest.raises(BackboneError, match="is no image size"):
        load_backbone(small_cnn(), image_size=image_size)


def test_an_undecidable_range_is_an_error_that_input_range_solves(small_cnn):
    with pytest.raises(InputRangeError, match="cannot be decided"):
        load_backbone(small_cnn())
    assert load_backbone(small_cnn(), input_range=(0, 1)).input_scaling.describe() == "[0, 1]"


def test_a_weights_file_goes_with_an_architecture_only(small_cnn, tmp_path):
    small_cnn().save(tmp_path / "model.keras")
    with pytest.raises(BackboneError, match="brings its own weights"):
        load_backbone(tmp_path / "model.keras", weights=tmp_path / "some.h5")


# --- weights files ------------------------------------------------------------------------------


@pytest.fixture
def weights_file(small_cnn, tmp_path):
    path = tmp_path / "trained.h5"
    trained = small_cnn()
    trained.set_weights([weight + 1 for weight in trained.get_weights()])
    trained.save(path)
    return path


def _bias(backbone):
    return backbone.model.get_layer("bn0").beta


def test_a_function_that_builds_a_model_takes_a_weights_file(small_cnn, weights_file):
    backbone = load_backbone(small_cnn, weights=weights_file, input_range=(-1, 1))
    np.testing.assert_array_equal(_bias(backbone), np.ones(4))
    assert f"all 17 weights, layers matched by name, from {weights_file}" in (
        backbone.provenance.notes
    )


def test_a_model_with_a_weights_file_is_left_alone(small_cnn, weights_file):
    model = small_cnn()
    backbone = load_backbone(model, weights=weights_file, input_range=(-1, 1))
    np.testing.assert_array_equal(_bias(backbone), np.ones(4))
    np.testing.assert_array_equal(model.get_layer("bn0").beta, np.zeros(4))


def test_weights_that_fit_in_part_must_be_asked_for(small_cnn, weights_file):
    def other():
        features = small_cnn(top="features")
        extra = layers.Dense(3, name="extra")(features.output)
        return keras.Model(features.input, layers.Dense(2, name="classes_2")(extra))

    with pytest.raises(BackboneError, match="belongs to another architecture|do not fit"):
        load_backbone(other, weights=weights_file, input_range=(-1, 1))
    backbone = load_backbone(other, weights=weights_file, partial_weights=True, input_range=(-1, 1))
    np.testing.assert_array_equal(_bias(backbone), np.ones(4))
    assert "15 of 19 weights" in backbone.provenance.notes[0]
    assert "left as they were: extra, classes_2" in backbone.provenance.notes[0]


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_an_architecture_file_takes_a_weights_file(small_cnn, weights_file, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_text(small_cnn().to_json())  # JSON is YAML.
    backbone = load_backbone(path, weights=weights_file, input_range=(-1, 1))
    np.testing.assert_array_equal(_bias(backbone), np.ones(4))
    assert backbone.provenance.kind == "architecture"
    with pytest.raises(BackboneError, match=r"without weights\. Pass the file"):
        load_backbone(path, input_range=(-1, 1))
    scratch = load_backbone(path, weights="none", input_range=(-1, 1))
    np.testing.assert_array_equal(_bias(scratch), np.zeros(4))


def test_a_function_that_builds_no_model_is_an_error():
    with pytest.raises(BackboneError, match=r"dict\(\) returned a dict.*without arguments"):
        load_backbone(dict)


def test_squeezenet_has_no_weights_to_download():
    with pytest.raises(BackboneUnavailableError, match=r"no weights of SqueezeNet.*PATH"):
        load_backbone("squeezenet")
    backbone = load_backbone("squeezenet", weights="none", image_size=64)
    assert backbone.model.output_shape == (None, 3, 3, 512)
    assert backbone.model.count_params() == 722_496
