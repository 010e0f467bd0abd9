"""A top is found by structure, whatever it is called."""

import keras
import pytest

from tfinetune.backbones.graph import flatten
from tfinetune.backbones.top import find_features
from tfinetune.errors import BackboneError

layers = keras.layers


@pytest.mark.parametrize("top", ["pool", "flatten", "convolution", "features"])
def test_every_kind_of_top_is_cut_at_the_same_map(small_cnn, top):
    cut = find_features(small_cnn(top=top))
    assert cut.tensors[0]._keras_history.operation.name == "relu2"
    assert tuple(cut.tensors[0].shape) == (None, 4, 4, 8)
    assert "cut after relu2: removed" in cut.note


def test_a_model_without_top_stays_whole(small_cnn):
    model = small_cnn(top=None)
    cut = find_features(model)
    assert cut.tensors[0] is model.outputs[0]
    assert "no classification top found" in cut.note


def test_a_notop_model_whose_map_shrank_to_one_pixel_stays_whole(small_cnn):
    model = small_cnn(top=None, size=4)
    assert model.output_shape == (None, 1, 1, 8)
    assert find_features(model).tensors[0] is model.outputs[0]


def test_squeeze_and_excitation_is_no_collapse():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="first")(inputs)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="sigmoid")(gate)
    x = layers.Multiply(name="excite")([x, gate])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    assert find_features(model).tensors[0]._keras_history.operation.name == "excite"


def test_two_poolings_of_one_map_are_cut_before_both():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="map")(inputs)
    pooled = [layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)]
    model = keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(pooled)))
    assert find_features(model).tensors[0]._keras_history.operation.name == "map"


def test_average_pooling_down_to_one_pixel_is_a_collapse():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="map")(inputs)
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    assert find_features(model).tensors[0]._keras_history.operation.name == "map"


def test_a_dense_classifier_written_as_convolution_after_pooling_is_cut_off():
    """MobileNetV1: pooling, dropout, 1x1 convolution, reshape, softmax."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="map")(inputs)
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Reshape((5,))(layers.Conv2D(5, 1)(x))
    model = keras.Model(inputs, layers.Activation("softmax")(x))
    assert find_features(model).tensors[0]._keras_history.operation.name == "map"


def test_tokens_are_features(tokens_model):
    cut = find_features(tokens_model)
    assert cut.tensors[0]._keras_history.operation.name == "norm"
    assert tuple(cut.tensors[0].shape) == (None, 4, 8)


def test_an_mlp_loses_its_last_layer_only():
    inputs = keras.Input((4, 4, 3))
    x = layers.Dense(9, activation="relu", name="hidden")(layers.Flatten()(inputs))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    assert find_features(model).tensors[0]._keras_history.operation.name == "hidden"


def test_a_linear_classifier_has_no_features():
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(3)])
    with pytest.raises(BackboneError, match="no layer with weights before its classifier"):
        find_features(flatten(model, image_size=(4, 4)))


@pytest.fixture
def tokens_model() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 4, strides=4, name="patches")(inputs)
    x = layers.Reshape((4, 8))(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)])
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
