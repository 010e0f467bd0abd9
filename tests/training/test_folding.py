"""Frozen BatchNorms are folded into convolutions for training, and change no number."""

import keras
import numpy as np
import pytest
from keras import layers

import tfinetune as ft
from tfinetune.training import FeatureCache, Phase, frozen_work, run_phases
from tfinetune.training.folding import FoldedConv
from tfinetune.training.precision import computing_in

IMAGES = np.random.default_rng(0).integers(0, 255, (28, 16, 16, 3)).astype("uint8")


def every_kind():
    """Build a CNN of convolutions that fold, each with a statistic of its own, and some that do
    not: of two users, with an activation, without a BatchNorm."""
    keras.utils.set_random_seed(0)
    photo = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 255)(photo)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="biased", bias_initializer="normal")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="fold_1")(x))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False, name="d")(x)
    x = layers.BatchNormalization(name="fold_2", scale=False)(x)
    x = layers.Conv2D(8, 3, groups=2, dilation_rate=2, name="dilated")(x)
    x = layers.BatchNormalization(name="fold_3", center=False)(x)
    x = layers.Conv2D(8, 1, name="pointwise")(x)
    x = layers.BatchNormalization(name="fold_4")(x)
    shared = layers.Conv2D(8, 1, name="shared")(x)
    x = layers.Add()([shared, layers.BatchNormalization(name="stays_1")(shared)])
    x = layers.Conv2D(6, 1, activation="tanh", name="active")(x)
    x = layers.BatchNormalization(name="stays_2")(x)
    model = keras.Model(photo, layers.Conv2D(6, 3, name="last")(x))
    random = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


@pytest.fixture(scope="module")
def splits():
    return ft.data.from_arrays(IMAGES, np.arange(28) % 2, validation=0.25, test=0)


def tuner_for(splits):
    return ft.FineTuner(every_kind(), splits.spec, input_range=(0, 255), cache=FeatureCache())


def folded_in(tuner, splits, phase):
    work = tuner.frozen_work(splits, [phase], augment="none")
    model = work.fitted(0, work.cuts[0])
    return model, {x.norm.name for x in model.layers if isinstance(x, FoldedConv)}


@pytest.mark.parametrize("rules", ["all", ("dilated", "shared", "head")])
def test_folded_training_gives_the_weights_of_plain_training(splits, rules, monkeypatch):
    phase = Phase(name="some", trainable=rules, epochs=3, learning_rate=1e-3)

    def trained():
        tuner = tuner_for(splits)
        before = tuner.assembly.get_weights()
        options = {"batch_size": 7, "augment": "none", "cache": tuner.cache}
        run_phases(tuner.assembly, splits, phases=[phase], **options)
        return before, tuner.assembly.get_weights()

    before, received = trained()
    monkeypatch.setattr(frozen_work, "training_model", lambda *_: None)
    _, expected = trained()
    for first, second in zip(expected, received, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
    assert any(not np.array_equal(a, b) for a, b in zip(before, received, strict=True))


def test_only_what_one_frozen_norm_alone_follows_is_folded(splits):
    tuner = tuner_for(splits)
    phase = Phase(name="all", trainable="all", epochs=3)
    model, names = folded_in(tuner, splits, phase)
    assert names == {"fold_1", "fold_2", "fold_3", "fold_4"}
    images = IMAGES.astype("float32")
    expected = tuner.assembly.logits_model(images)
    np.testing.assert_allclose(model(images), expected, atol=1e-5)
    with computing_in("mixed_bfloat16", tuner.backbone.model):
        mixed, _ = folded_in(tuner, splits, phase)
        np.testing.assert_allclose(mixed(images), expected, atol=0.1)
    adapting = phase.model_copy(update={"trainable": ("all", "!fold_2"), "batch_norm": "adapt"})
    assert folded_in(tuner, splits, adapting)[1] == {"fold_2"}
    model, names = folded_in(tuner, splits, phase.model_copy(update={"batch_norm": "adapt"}))
    assert model is tuner.assembly.logits_model and not names
