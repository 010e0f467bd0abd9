"""Graphs are taken apart and rebuilt without changing a single number."""

import gc
import weakref

import keras
import numpy as np
import pytest

from tfinetune.backbones.graph import (
    bottlenecks,
    check_equal,
    check_weights,
    detach,
    flatten,
    rebuild,
)
from tfinetune.errors import BackboneError, FixedSizeError, UnsafeModelError

layers = keras.layers
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")


def test_bottlenecks_skip_the_inside_of_branches():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="a")(inputs)
    y = layers.Conv2D(4, 3, padding="same", name="inside")(x)
    x = layers.Add(name="sum")([x, y])
    chain = bottlenecks(keras.Model(inputs, layers.ReLU(name="end")(x)))
    assert [step.operation.name for step in chain][1:] == ["a", "sum", "end"]
    assert [op.name for op in chain[2].operations] == ["inside", "sum"]


def test_nested_models_are_inlined_with_the_same_output(small_cnn):
    inner = small_cnn(top="features")
    head = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="c0")])
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.Sequential([inner]), head])
    flat = flatten(model, image_size=(16, 16))
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    names = [layer.name for layer in flat.layers]
    assert len(names) == len(set(names)) == 12
    np.testing.assert_array_equal(flat(IMAGES), model(IMAGES))


def test_a_shared_nested_model_keeps_sharing(small_cnn):
    inner = small_cnn(top="features")
    inputs = keras.Input((16, 16, 3))
    mirrored = layers.Permute((2, 1, 3))(inputs)
    model = keras.Model(inputs, layers.Concatenate()([inner(inputs), inner(mirrored)]))
    flat = flatten(model, image_size=(16, 16))
    assert flat.count_params() == inner.count_params()
    np.testing.assert_array_equal(flat(IMAGES), model(IMAGES))


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"image": x}])
def test_an_input_wrapped_in_a_list_or_dict_is_unwrapped(small_cnn, wrap):
    inputs = keras.Input((16, 16, 3), name="image")
    model = keras.Model(wrap(inputs), wrap(small_cnn()(inputs)))
    np.testing.assert_array_equal(flatten(model, image_size=(16, 16))(IMAGES), small_cnn()(IMAGES))


def test_the_original_is_left_alone(small_cnn):
    inner = small_cnn()
    model = keras.Sequential([keras.Input((16, 16, 3)), inner])
    nodes = {layer.name: len(layer._inbound_nodes) for layer in [*inner.layers, *model.layers]}
    rebuild(flatten(model, image_size=(16, 16)), image_size=(16, 16))
    after = {layer.name: len(layer._inbound_nodes) for layer in [*inner.layers, *model.layers]}
    assert after == nodes


def test_augmentation_inside_a_model_is_left_out(small_cnn):
    model = keras.Sequential(
        [keras.Input((16, 16, 3)), layers.RandomFlip(), layers.RandomRotation(0.5), small_cnn()]
    )
    flat = flatten(model, image_size=(16, 16))
    assert not [layer for layer in flat.layers if type(layer).__name__.startswith("Random")]
    np.testing.assert_allclose(flat(IMAGES), small_cnn()(IMAGES), rtol=1e-6)


def test_rebuilding_makes_fresh_trainable_layers_with_one_call_each(small_cnn):
    model = small_cnn()
    model.trainable = False
    clone = rebuild(model, image_size=(16, 16))
    assert not {id(layer) for layer in clone.layers} & {id(layer) for layer in model.layers}
    assert all(layer.trainable for layer in clone.layers)
    assert all(len(layer._inbound_nodes) == 1 for layer in clone.layers)
    np.testing.assert_array_equal(clone(IMAGES), model(IMAGES))


def test_a_convolutional_model_is_rebuilt_at_another_size(small_cnn):
    model = small_cnn(top=None)
    clone = rebuild(model, image_size=(24, 32))
    assert clone.output_shape == (None, 6, 8, 8)
    for before, after in zip(model.get_weights(), clone.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_dense_layer_on_a_map_fixes_the_size(small_cnn):
    with pytest.raises(FixedSizeError, match="cannot be rebuilt at 24x24"):
        rebuild(small_cnn(top="flatten"), image_size=(24, 24))


def test_a_size_that_the_strides_use_up_is_refused():
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(2, 9)])
    with pytest.raises(FixedSizeError, match="at 8x8"):
        rebuild(flatten(model, image_size=(16, 16)), image_size=(8, 8))


def test_normalization_statistics_survive(small_cnn):
    normalization = layers.Normalization()
    normalization.adapt(IMAGES * 50 + 100)
    model = keras.Sequential([keras.Input((16, 16, 3)), normalization, small_cnn()])
    clone = rebuild(flatten(model, image_size=(16, 16)), image_size=(16, 16))
    np.testing.assert_array_equal(clone(IMAGES), model(IMAGES))


def _enlarging():
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, layers.Conv2D(1, 1)(layers.UpSampling2D(64)(inputs)))


def test_an_activation_that_grows_immense_with_the_size_is_refused():
    assert rebuild(_enlarging(), image_size=(8, 8)).output_shape == (None, 512, 512, 1)
    with pytest.raises(UnsafeModelError, match="makes 616,562,688 numbers per image"):
        rebuild(_enlarging(), image_size=(224, 224))


def test_an_immense_activation_of_a_nested_model_is_refused_before_it_is_computed():
    model = keras.Sequential([keras.Input((None, None, 3)), _enlarging()])
    with pytest.raises(UnsafeModelError, match="makes 616,562,688 numbers per image"):
        flatten(model, image_size=(224, 224))


def test_a_nested_model_of_fixed_size_is_not_inlined_at_another(small_cnn):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, small_cnn(top="flatten")(inputs))
    assert flatten(model, image_size=(16, 16)).output_shape == (None, 5)
    with pytest.raises(FixedSizeError, match="cannot be rebuilt at 24x24"):
        flatten(model, image_size=(24, 24))


def test_models_that_compute_something_else_are_not_equal(small_cnn):
    other = small_cnn()
    check_equal(small_cnn(), other, what="Copying")
    other.get_layer("c0").kernel.assign(other.get_layer("c0").kernel * 2)
    with pytest.raises(BackboneError, match="Copying changed what this backbone computes"):
        check_equal(small_cnn(), other, what="Copying")


def test_outputs_that_tell_nothing_are_not_equal(small_cnn):
    inputs = keras.Input((2, 2, 3))
    empty = keras.Model(inputs, inputs[:, 2:])
    damaged = small_cnn()
    damaged.get_layer("c0").kernel.assign(damaged.get_layer("c0").kernel * np.nan)
    for model in (empty, damaged):
        with pytest.raises(BackboneError, match="output is empty or not finite"):
            check_equal(model, model, what="Copying")


@pytest.mark.parametrize(
    ("layer", "weight", "value", "reason"),
    [
        ("c0", "kernel", np.nan, "no finite number"),
        ("bn0", "moving_variance", -1.0, "a negative variance"),
    ],
)
def test_damaged_weights_are_refused(small_cnn, layer, weight, value, reason):
    model = small_cnn()
    check_weights(model)
    variable = getattr(model.get_layer(layer), weight)
    variable.assign(np.full(variable.shape, value))
    with pytest.raises(BackboneError, match=f"{weight} of this backbone are damaged.*{reason}"):
        check_weights(model)


def test_a_detached_model_lets_go_of_the_rest(small_cnn):
    model = small_cnn()
    top = weakref.ref(model.get_layer("classes"))
    expected = keras.Model(model.inputs, model.get_layer("relu2").output)(IMAGES)
    model.get_layer("c0").trainable = False
    cut = detach(keras.Model(model.inputs[0], model.get_layer("relu2").output))
    del model
    gc.collect()
    assert top() is None
    assert all(layer.trainable for layer in cut.layers)
    np.testing.assert_array_equal(cut(IMAGES), expected)
