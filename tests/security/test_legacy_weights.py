"""Weights files of every era fill a model, are counted, and are never matched by accident."""

import h5py
import keras
import numpy as np
import pytest

from tfinetune.errors import BackboneError
from tfinetune.security.legacy_layouts import join_gates, known_name
from tfinetune.security.loading import load_weights

layers = keras.layers
RANDOM = np.random.default_rng(0)


def _write(path, stored, **attributes):
    """Write a weights-only file: layer name -> [(weight name, array)]."""
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes, layer_names=[name.encode() for name in stored])
        for name, weights in stored.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [weight.encode() for weight, _ in weights]
            for weight, array in weights:
                group[weight] = array
    return path


def _numbers(*shape):
    return RANDOM.normal(size=shape).astype("float32")


@pytest.fixture
def model():
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 2, name="fire_conv")(image)
    return keras.Model(image, layers.Dense(4, name="dense")(layers.Flatten()(x)))


@pytest.fixture
def stored():
    return {
        "fire/conv": [("conv_W:0", _numbers(2, 2, 2, 3)), ("conv_b:0", _numbers(3))],
        "dense": [("dense_W", _numbers(75, 4)), ("dense_b", _numbers(4))],
    }


def test_letters_of_keras_1_and_slashes_in_names_are_understood(model, stored, tmp_path):
    match = load_weights(model, _write(tmp_path / "old.h5", stored))
    assert match.describe() == "all 4 weights, layers matched by name"
    arrays = [array for weights in stored.values() for _, array in weights]
    for weight, array in zip(model.weights, arrays, strict=True):
        np.testing.assert_array_equal(weight, array)


def test_layers_of_other_names_are_matched_in_order(model, stored, tmp_path):
    renamed = {f"layer_{i}": weights for i, weights in enumerate(stored.values())}
    match = load_weights(model, _write(tmp_path / "old.h5", renamed))
    assert match.describe() == "all 4 weights, layers matched in order"
    np.testing.assert_array_equal(model.get_layer("dense").bias, renamed["layer_1"][1][1])


def test_a_legacy_file_may_be_named_as_keras_3_names_its_own(model, stored, tmp_path):
    load_weights(model, _write(tmp_path / "old.weights.h5", stored))
    np.testing.assert_array_equal(model.get_layer("dense").bias, stored["dense"][1][1])


def test_the_top_is_left_out_and_told(model, stored, tmp_path):
    stored["top"] = [("top_W", _numbers(4, 9))]
    match = load_weights(model, _write(tmp_path / "old.h5", stored))
    assert match.describe() == "all 4 weights, layers matched by name; not used: top"


def test_part_of_the_weights_is_an_error_unless_asked_for(model, stored, tmp_path):
    del stored["fire/conv"]
    path = _write(tmp_path / "old.h5", {"other": [("other_W", _numbers(7, 7))], **stored})
    before = model.get_layer("fire_conv").get_weights()
    with pytest.raises(BackboneError, match="stored for layer 'other' do not fit"):
        load_weights(model, path)
    match = load_weights(model, path, partial=True)
    assert match.describe() == (
        "2 of 4 weights, layers matched by name; left as they were: fire_conv; not used: other"
    )
    np.testing.assert_array_equal(model.get_layer("fire_conv").kernel, before[0])
    np.testing.assert_array_equal(model.get_layer("dense").kernel, stored["dense"][0][1])


def test_a_partial_match_of_nothing_is_an_error(model, tmp_path):
    path = _write(tmp_path / "old.h5", {"other": [("other_W", _numbers(7, 7))]})
    with pytest.raises(BackboneError, match=r"No layer .*file has other; the model fire_conv"):
        load_weights(model, path, partial=True)


def test_a_partial_match_of_other_shapes_is_an_error(model, tmp_path):
    path = _write(tmp_path / "old.h5", {"dense": [("W", _numbers(7, 4)), ("b", _numbers(4))]})
    with pytest.raises(BackboneError, match=r"'dense' do not fit it: .*W \[7, 4\]"):
        load_weights(model, path, partial=True)


def test_keras_3_weights_are_never_matched_in_part(model, tmp_path):
    model.save_weights(tmp_path / "new.weights.h5")
    with pytest.raises(BackboneError, match="by position"):
        load_weights(model, tmp_path / "new.weights.h5", partial=True)


def test_kernels_of_theano_are_turned(model, stored, tmp_path):
    kernel = stored["fire/conv"][0][1]
    mirrored = kernel[::-1, ::-1]
    channels_first = mirrored.transpose(3, 2, 0, 1)
    for name, array, attributes in [
        ("keras_2.h5", mirrored, {"backend": b"theano"}),
        ("th_kernels.h5", channels_first, {}),
        ("th_dim_ordering_tf_kernels.h5", kernel.transpose(3, 2, 0, 1), {}),
    ]:
        stored["fire/conv"][0] = ("uniform1", array)
        match = load_weights(model, _write(tmp_path / name, stored, **attributes))
        np.testing.assert_array_equal(model.get_layer("fire_conv").kernel, kernel)
        assert match.theano == ("tf_kernels" not in name)
        assert ("turned from Theano" in match.describe()) == match.theano


def test_gates_of_keras_1_are_joined_in_the_order_of_keras_2():
    parts = {gate: np.full((2, 1), i) for i, gate in enumerate("icfo")}
    arrays = [(f"lstm_1_W_{gate}", array) for gate, array in parts.items()]
    ((name, joined),) = join_gates(arrays)
    assert name == "lstm_1_W"
    assert joined[0].tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("dense_1_W:0", "kernel"),
        ("block/conv/kernel:0", "kernel"),
        ("embeddings", "kernel"),
        ("batchnormalization_1_running_std:0", "moving_variance"),
        ("uniform12", None),
        ("param_0", None),
        ("moving_mean", "moving_mean"),
    ],
)
def test_names_of_weights(name, known):
    assert known_name(name) == known
