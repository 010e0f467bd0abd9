"""Foreign models: the same numbers as Keras gives, nothing executed, memory bounded."""

import contextlib
import json
import shutil

import h5py
import keras
import numpy as np
import pytest

from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.security.loading import check_activations, load_keras, load_weights

IMAGES = np.random.default_rng(0).uniform(0, 1, (2, 8, 8, 3)).astype("float32")


def test_both_formats_predict_as_the_saved_model(small_model, keras_file, h5_file):
    expected = small_model(IMAGES)
    for path in (keras_file, h5_file):
        np.testing.assert_array_equal(load_keras(path)(IMAGES), expected)


def test_a_misnamed_file_predicts_as_the_saved_model(small_model, keras_file, h5_file):
    zipped = keras_file.rename(keras_file.with_name("really_zip.h5"))
    hdf5 = h5_file.rename(h5_file.with_name("really_hdf5.keras"))
    for path in (zipped, hdf5):
        np.testing.assert_array_equal(load_keras(path)(IMAGES), small_model(IMAGES))


def test_loaded_models_are_not_compiled(small_model, tmp_path):
    small_model.compile("adam", "mse")
    for name in ("m.keras", "m.h5"):
        small_model.save(tmp_path / name)
        assert not load_keras(tmp_path / name).compiled


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_lambda_is_refused_by_name(tmp_path, name):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / name)
    with pytest.raises(UnsafeModelError, match="uses Lambda, which can run code"):
        load_keras(tmp_path / name)


@pytest.mark.parametrize("edit", ["edit_keras", "edit_h5"])
def test_unknown_classes_are_all_named_at_once(request, edit):
    def rename(config):
        for layer, name in zip(config["config"]["layers"][1:3], ("Alpha", "Beta"), strict=True):
            layer.update(class_name=name, registered_name=name, module="my.code")

    path = request.getfixturevalue(edit)(rename)
    with pytest.raises(UnsafeModelError, match=r"Alpha, Beta.*custom_objects="):
        load_keras(path)


def test_custom_objects_make_a_class_known(tmp_path):
    class Alpha(keras.layers.Conv2D):
        pass

    model = keras.Sequential([keras.Input((8, 8, 3)), Alpha(4, 3)])
    for path in (tmp_path / "alpha.keras", tmp_path / "alpha.h5"):
        model.save(path)
        with pytest.raises(UnsafeModelError, match="Alpha"):
            load_keras(path)
        loaded = load_keras(path, custom_objects={"Alpha": Alpha})
        np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))


def _as_keras_2(path, *, class_name):
    """Rename the convolution in a `.h5` file to `class_name`, as Keras 2 would have written it."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["keras_version"] = "2.15.0"
        for layer in config["config"]["layers"]:
            for key in ("module", "registered_name", "build_config"):
                layer.pop(key, None)
            layer["inbound_nodes"] = [
                [[*call["args"][0]["config"]["keras_history"], {}]]
                for call in layer["inbound_nodes"]
            ]
            layer["config"]["dtype"] = "float32"
            layer["config"]["batch_input_shape"] = layer["config"].pop("batch_shape", None)
        config["config"]["layers"][1]["class_name"] = class_name
        config["config"]["layers"][1]["config"]["activation"] = "doubled"
        file.attrs["model_config"] = json.dumps(config)
    return path


@pytest.mark.parametrize("class_name", ["Alpha", "Custom>Alpha", "my_package>Alpha"])
def test_custom_objects_go_with_old_files_too(small_model, h5_file, class_name):
    class Alpha(keras.layers.Conv2D):
        pass

    def doubled(x):
        return 2 * x

    path = _as_keras_2(h5_file, class_name=class_name)
    with pytest.raises(UnsafeModelError, match=rf"{class_name}, doubled.*custom_objects="):
        load_keras(path)
    model = load_keras(path, custom_objects={"Alpha": Alpha, "doubled": doubled})
    assert isinstance(model.layers[1], Alpha)
    expected = 2 * np.asarray(small_model.layers[1](IMAGES))
    np.testing.assert_allclose(model.layers[1](IMAGES), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("module", "name"),
    [("os", "system"), ("keras.utils", "get_file"), ("keras.saving", "load_model")],
)
def test_functions_outside_keras_layers_are_refused(edit_keras, module, name):
    def inject(config):
        config["config"]["layers"][1]["config"]["activation"] = {
            "module": module,
            "class_name": "function",
            "config": name,
            "registered_name": name,
        }

    with pytest.raises(UnsafeModelError, match=name):
        load_keras(edit_keras(inject))


@pytest.mark.parametrize("kind", ["StringLookup", "IntegerLookup", "TextVectorization"])
def test_a_lookup_without_its_vocabulary_is_refused(tmp_path, kind):
    """A `.h5` file does not hold what the layer was adapted to."""
    layer = getattr(keras.layers, kind)(name="words")
    layer.adapt([1, 2] if kind == "IntegerLookup" else ["one", "two"])
    dtype = "int64" if kind == "IntegerLookup" else "string"
    words = keras.Input((1,), dtype=dtype)
    keras.Model(words, layer(words)).save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"]["vocabulary"] = None
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(BackboneError, match="no vocabulary for words"):
        load_keras(tmp_path / "model.h5")


def test_vocabulary_path_is_refused(edit_keras):
    def inject(config):
        config["config"]["layers"][1].update(
            class_name="StringLookup", config={"vocabulary": "/etc/passwd"}
        )

    with pytest.raises(UnsafeModelError, match="reads the vocabulary file '/etc/passwd'"):
        load_keras(edit_keras(inject))


@pytest.mark.parametrize("edit", ["edit_keras", "edit_h5"])
@pytest.mark.parametrize("units", [10**6, 10**12])
def test_parameters_that_the_file_does_not_hold_are_refused(request, edit, units):
    def inflate(config):
        config["config"]["layers"][1]["config"]["filters"] = units
        config["config"]["layers"][1].pop("build_config", None)

    with pytest.raises(UnsafeModelError, match=r"more parameters than the .* values it stores"):
        load_keras(request.getfixturevalue(edit)(inflate))


def test_an_immense_activation_is_refused(tmp_path):
    inputs = keras.Input((64, 64, 3))
    x = keras.layers.UpSampling2D(2000)(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1)(x))
    model.save(tmp_path / "wide.keras")
    with pytest.raises(UnsafeModelError, match="numbers per image"):
        load_keras(tmp_path / "wide.keras")


def test_an_immense_activation_of_a_bare_operation_is_refused():
    inputs = keras.Input((64, 64, 3))
    model = keras.Model(inputs, keras.ops.tile(inputs, (1, 2000, 2000, 1)))
    with pytest.raises(UnsafeModelError, match=r"^wide: the layer 'tile.*49,152,000,000 numbers"):
        check_activations(model, source="wide")


def test_a_missing_weight_is_an_error(h5_file):
    with h5py.File(h5_file, "r+") as file:
        names = list(file["model_weights"].attrs["layer_names"])
        file["model_weights"].attrs["layer_names"] = [n for n in names if n not in ("bn", b"bn")]
    with pytest.raises(BackboneError, match=r"weights for 2 layers.*has 3"):
        load_keras(h5_file)


def test_damaged_files_raise_backbone_errors_only(keras_file, h5_file, tmp_path):
    random = np.random.default_rng(1)
    for original in (keras_file, h5_file):
        content = original.read_bytes()
        for _ in range(15):
            broken = bytearray(content)
            for position in random.integers(0, len(broken), size=12):
                broken[position] = random.integers(256)
            damaged = tmp_path / "damaged"
            damaged.write_bytes(broken)
            with contextlib.suppress(BackboneError):
                assert isinstance(load_keras(damaged), keras.Model)


@pytest.fixture
def legacy_weights(h5_file, tmp_path):
    """A file as `save_weights` of Keras 2 wrote it: its groups lie at the root."""
    path = tmp_path / "legacy.h5"
    with h5py.File(h5_file, "r") as model, h5py.File(path, "w") as file:
        for name, group in model["model_weights"].items():
            model.copy(group, file, name)
        file.attrs["layer_names"] = model["model_weights"].attrs["layer_names"]
    return path


def _split_layer_names(path):
    with h5py.File(path, "r+") as file:
        names = file.attrs.pop("layer_names")
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:2], names[2:]


def test_weights_of_every_format_fill_the_model(small_model, h5_file, legacy_weights, tmp_path):
    small_model.save_weights(tmp_path / "small.weights.h5")
    split = shutil.copy(legacy_weights, tmp_path / "split.h5")
    _split_layer_names(split)
    for path in (h5_file, tmp_path / "small.weights.h5", legacy_weights, split):
        clone = keras.models.clone_model(small_model)
        load_weights(clone, path)
        np.testing.assert_array_equal(clone(IMAGES), small_model(IMAGES))


def _without_a_group(file):
    del file["bn"]


def _without_weight_names(file):
    file["bn"].attrs["weight_names"] = h5py.Empty("S1")


def _with_a_number_for_names(file):
    file.attrs["layer_names"] = 3


def _with_a_layer_twice(file):
    file.attrs["layer_names"] = [*file.attrs["layer_names"], "conv"]


@pytest.mark.parametrize(
    "damage",
    [_without_a_group, _without_weight_names, _with_a_number_for_names, _with_a_layer_twice],
)
def test_damaged_legacy_weights_raise_backbone_errors_only(small_model, legacy_weights, damage):
    with h5py.File(legacy_weights, "r+") as file:
        damage(file)
    with pytest.raises(BackboneError, match=r"does not fit functional|lists 'conv' twice"):
        load_weights(small_model, legacy_weights)


def test_weights_of_another_architecture_are_refused(small_model, h5_file, tmp_path):
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(5, 3, name="conv")])
    small_model.save_weights(tmp_path / "small.weights.h5")
    with pytest.raises(BackboneError, match="do not fit"):
        load_weights(other, h5_file)
    with pytest.raises(BackboneError, match="does not fit"):
        load_weights(other, tmp_path / "small.weights.h5")


def test_weights_of_a_larger_architecture_are_refused(small_model, h5_file):
    """Its names may all occur in the file; what lies between them tells."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    without_bn = keras.Model(inputs, keras.layers.Dense(2, name="classes")(x))
    with pytest.raises(BackboneError, match="holds a layer 'bn'"):
        load_weights(without_bn, h5_file)


def test_weights_that_keras_would_skip_are_an_error(small_model, tmp_path):
    class Twice(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.pairs = [[keras.layers.Dense(3)], [keras.layers.Dense(3)]]

        def call(self, x):
            return self.pairs[0][0](x) + self.pairs[1][0](x)

    model = keras.Sequential([keras.Input((4,)), Twice()])
    model.save_weights(tmp_path / "twice.weights.h5")
    with h5py.File(tmp_path / "twice.weights.h5", "r+") as file:
        pairs = file["layers/twice/pairs"]
        for key in list(pairs):
            del pairs[key]
    with pytest.raises(BackboneError, match="does not fit"):
        load_weights(model, tmp_path / "twice.weights.h5")


def test_frozen_layers_keep_their_order_of_weights(small_model, tmp_path):
    """Keras writes a frozen nested model's weights in another order."""
    keras.utils.set_random_seed(1)
    inner = keras.models.clone_model(small_model)
    inner.get_layer("bn").set_weights([np.full(4, v, "f4") for v in (1.5, 0.2, 0.3, 2.0)])
    for trainable in (True, False):
        inner.trainable = trainable
        outer = keras.Sequential([keras.Input((8, 8, 3)), inner, keras.layers.Dense(3)])
        outer.save(tmp_path / "outer.h5")
        np.testing.assert_array_equal(load_keras(tmp_path / "outer.h5")(IMAGES), outer(IMAGES))


@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
def test_nested_and_shared_models_predict_as_saved(small_model, tmp_path, name):
    inputs = keras.Input((8, 8, 3))
    mirrored = keras.layers.Permute((2, 1, 3))(inputs)
    last = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)])
    both = keras.layers.Concatenate()([small_model(inputs), small_model(mirrored)])
    middle = keras.Input((4,))
    wrapped = keras.Model(middle, last(middle))
    model = keras.Model(inputs, wrapped(both))
    model.save(tmp_path / name)
    np.testing.assert_array_equal(load_keras(tmp_path / name)(IMAGES), model(IMAGES))


def test_every_model_of_keras_2_opens_with_all_its_weights(shared):
    files = {
        "face_classification/gender_mini_XCEPTION.21-0.95.hdf5": 52_658,
        "mlperf_tiny/pretrainedResnet.h5": 78_666,
        "mlperf_tiny/ad01.h5": 269_992,
        "chemical_vae/zinc_prop_pred.h5": 22_764,
        "sentiment/model.keras": 160_017,
    }
    for name, parameters in files.items():
        assert load_keras(shared / "models" / name).count_params() == parameters
