"""Tables, sequences, texts, several inputs and outputs are backbones too."""

import keras
import numpy as np
import pytest

from tfinetune.backbones import load_backbone
from tfinetune.backbones.graph import alone, sample_inputs
from tfinetune.errors import BackboneError

layers = keras.layers


def table() -> keras.Model:
    inputs = keras.Input((12,), name="columns")
    x = layers.Dense(8, activation="relu", name="dense")(inputs)
    x = layers.BatchNormalization(name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="classes")(x))


def words() -> keras.Model:
    inputs = keras.Input((None,), dtype="int32", name="words")
    x = layers.Embedding(20, 6, name="embed")(inputs)
    x = layers.LSTM(7, return_sequences=True, name="first")(x)
    x = layers.LSTM(5, name="hidden")(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="score")(x))


def signal() -> keras.Model:
    inputs = keras.Input((32, 2), name="signal")
    x = layers.Conv1D(4, 3, name="conv")(inputs)
    x = layers.GlobalAveragePooling1D(name="hidden")(x)
    return keras.Model(inputs, layers.Dense(2, name="classes")(x))


def texts() -> keras.Model:
    inputs = keras.Input((), dtype="string", name="text")
    x = layers.TextVectorization(
        vocabulary=["the", "quick", "fox"], output_sequence_length=4, name="vectorize"
    )(inputs)
    x = layers.GlobalAveragePooling1D(name="hidden")(layers.Embedding(5, 6, name="embed")(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax", name="classes")(x))


def two_towers() -> keras.Model:
    user = keras.Input((1,), dtype="int32", name="user")
    item = keras.Input((4,), name="item")
    left = layers.Flatten()(layers.Embedding(9, 3, name="users")(user))
    right = layers.Dense(3, name="items")(item)
    x = layers.Dense(5, activation="relu", name="hidden")(layers.Concatenate()([left, right]))
    return keras.Model([user, item], layers.Dense(1, activation="sigmoid", name="score")(x))


def two_heads() -> keras.Model:
    inputs = keras.Input((8, 8, 3), name="photo")
    x = layers.Rescaling(1 / 255.0)(inputs)
    x = layers.Conv2D(4, 3, activation="relu", name="hidden")(x)
    pooled = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, [layers.Dense(2, name=name)(pooled) for name in ("age", "mood")])


MODELS = [table, words, signal, texts, two_towers, two_heads]


@pytest.mark.parametrize("build", MODELS)
def test_the_top_is_cut_and_the_features_stay_the_same(build):
    keras.utils.set_random_seed(0)
    model = build()
    backbone = load_backbone(model)
    hidden = keras.Model(model.input, model.get_layer("hidden").output)
    inputs = alone([keras.ops.convert_to_tensor(array) for array in sample_inputs(model)])
    expected, received = hidden(inputs), backbone.model(inputs)
    if build is two_heads:
        expected = keras.ops.mean(expected, axis=(1, 2))
    np.testing.assert_allclose(received, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("build", MODELS)
def test_every_layer_is_in_exactly_one_group(build):
    backbone = load_backbone(build())
    grouped = [layer.name for group in backbone.groups for layer in group.layers]
    assert sorted(grouped) == sorted(layer.name for layer in backbone.model.layers)


def test_outputs_that_share_nothing_are_all_features():
    inputs = keras.Input((8,), name="columns")
    backbone = load_backbone(
        keras.Model(inputs, [layers.Dense(2, name=name)(inputs) for name in ("age", "mood")])
    )
    assert [tuple(output.shape) for output in backbone.model.outputs] == [(None, 2), (None, 2)]
    assert "share no layer" in " ".join(backbone.provenance.notes)


def test_named_layers_are_features():
    backbone = load_backbone(words(), features=["first", "hidden"])
    shapes = [tuple(output.shape) for output in backbone.model.outputs]
    assert shapes == [(None, None, 7), (None, 5)]
    with pytest.raises(BackboneError, match=r"no layer 'hiden'.*Closest: hidden"):
        load_backbone(words(), features="hiden")


@pytest.mark.parametrize("option", [{"image_size": 32}, {"input_range": (0, 1)}])
def test_options_of_images_are_refused(option):
    with pytest.raises(BackboneError, match="takes no image, so it has no image size"):
        load_backbone(table(), **option)


@pytest.mark.parametrize("shape", [(12,), (120, 35), (8, 8, 5), (4, 8, 8, 3)])
def test_what_takes_no_image_has_no_image_size(shape):
    inputs = keras.Input(shape)
    backbone = load_backbone(keras.Model(inputs, layers.Dense(2)(inputs)))
    with pytest.raises(BackboneError, match="takes no image: its input is"):
        _ = backbone.image_size


def test_a_stateful_model_is_refused_with_a_way_out_that_works(tmp_path):
    def build(*, stateful=False):
        sequence = keras.Input(batch_shape=(4 if stateful else None, 5, 3))
        x = layers.LSTM(6, stateful=stateful, name="memory")(sequence)
        return keras.Model(sequence, layers.Dense(2, activation="softmax", name="top")(x))

    model = build(stateful=True)
    model.save(tmp_path / "stateful.keras")
    with pytest.raises(BackboneError, match=r"stateful=True in memory\).*stateful=False"):
        load_backbone(tmp_path / "stateful.keras")
    model.save_weights(tmp_path / "stateful.weights.h5")
    backbone = load_backbone(build, weights=tmp_path / "stateful.weights.h5")
    rows = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    features = keras.Model(model.input, model.get_layer("memory").output)
    np.testing.assert_allclose(backbone.model(rows), features(rows), rtol=1e-6, atol=1e-7)
