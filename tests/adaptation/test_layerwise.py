"""Rates per group: the same as one independent optimizer for each group."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfinetune.adaptation import AdamW, group_multipliers, resolve
from tfinetune.adaptation.rules import groups_of
from tfinetune.assembly import Assembly
from tfinetune.backbones import load_backbone


def test_multipliers_fall_from_the_head_to_the_stem():
    assert group_multipliers(["stem", "stage_1", "head"], 0.5) == {
        "stem": 0.25,
        "stage_1": 0.5,
        "head": 1.0,
    }


def test_layer_decay_equals_independent_optimizers(small_cnn):
    assembly = Assembly(load_backbone(small_cnn()), 3)
    resolve("all", assembly).apply()
    variables = assembly.model.trainable_variables
    start = [np.array(v) for v in variables]
    random = np.random.default_rng(0)
    steps = [[random.normal(size=v.shape).astype("float32") for v in variables] for _ in range(4)]

    optimizer = AdamW(0.01, layer_decay=0.5, assembly=assembly, weight_decay=0.1)
    for gradients in steps:
        optimizer.apply_gradients(
            zip(map(keras.ops.convert_to_tensor, gradients), variables, strict=True)
        )
    ours = [np.array(v) for v in variables]

    multipliers = group_multipliers(list(groups_of(assembly)), 0.5)
    rate_of = {
        id(v): 0.01 * multipliers[name]
        for name, layers in groups_of(assembly).items()
        for layer in layers
        for v in layer.variables
    }
    for index, value in enumerate(start):
        variable = keras.Variable(value)
        alone = keras.optimizers.AdamW(rate_of[id(variables[index])], weight_decay=0.1)
        for gradients in steps:
            alone.apply_gradients([(keras.ops.convert_to_tensor(gradients[index]), variable)])
        np.testing.assert_allclose(ours[index], np.array(variable), rtol=0, atol=5e-7)


def test_graph_of_a_training_step_is_freed():
    optimizer, variable = AdamW(0.01), keras.Variable([1.0])
    optimizer.build([variable])
    step = tf.function(lambda: optimizer.apply([tf.ones(1)], [variable]), autograph=False)
    graph = weakref.ref(step.get_concrete_function().graph)
    del step
    gc.collect()
    assert graph() is None


def test_optimizer_survives_its_config():
    optimizer = AdamW(0.01, multipliers=[0.5, 1.0], weight_decay=0.02)
    restored = AdamW.from_config(optimizer.get_config())
    assert restored.multipliers == [0.5, 1.0]
    assert restored.weight_decay == 0.02


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match=r"layer_decay must be in \(0, 1\], got 2"):
        AdamW(0.01, layer_decay=2)
    with pytest.raises(ValueError, match="needs the layer groups"):
        AdamW(0.01, layer_decay=0.5)
    with pytest.raises(ValueError, match="1 multipliers were given for 2 variables"):
        AdamW(0.01, multipliers=[1.0]).build([keras.Variable(0.0), keras.Variable(0.0)])
