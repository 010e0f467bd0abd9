"""Frozen work done once: cuts on every kind of graph, and the weights of plain training."""

import keras
import numpy as np
import pytest
from keras import layers

import tfinetune as ft
from tfinetune.training import FeatureCache, Phase, frozen_prefix, run_phases


def transformer():
    photo = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(photo)
    x = layers.Reshape((16, 8))(layers.Conv2D(8, 4, strides=4, name="patches")(x))
    for block in (1, 2):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(2, 4, dropout=0.2, name=f"attention_{block}")(y, y)
        x = layers.Add()([x, layers.Dropout(0.1)(y)])
        y = layers.Dense(8, activation="gelu", name=f"mlp_{block}")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dropout(0.1)(y)])
    return keras.Model(photo, x)


def recurrent():
    photo = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 48))(layers.Rescaling(1 / 127.5, offset=-1)(photo))
    x = layers.GRU(8, return_sequences=True, dropout=0.2, name="rnn_1")(x)
    lstm = layers.LSTM(6, return_sequences=True, recurrent_dropout=0.2)
    x = layers.Bidirectional(lstm, name="rnn_2")(x)
    return keras.Model(photo, x)


def branching():
    """Build a CNN with a skip connection that crosses the cut before `late`."""
    photo = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(photo)
    skipped = layers.Conv2D(6, 3, strides=4, padding="same", name="early")(x)
    x = layers.ReLU()(layers.BatchNormalization()(skipped))
    x = layers.Conv2D(4, 3, padding="same", name="middle")(x)
    x = layers.Conv2D(6, 3, padding="same", name="late")(layers.GaussianNoise(0.3)(x))
    return keras.Model(photo, layers.Add()([x, skipped]))


CASES = {
    "cnn": (None, ["stage_2:", "head"]),
    "transformer": (transformer, ["attention_2", "mlp_2", "head"]),
    "recurrent": (recurrent, ["rnn_2", "head"]),
    "branching": (branching, ["late", "head"]),
}


@pytest.fixture
def splits(photo_folder):
    return ft.data.from_image_folder(
        photo_folder(per_class=8), image_size=16, validation=0.25, test=0
    )


@pytest.fixture
def always_cut(monkeypatch):
    """Let reading features cost nothing: models this small would not be cut otherwise."""
    monkeypatch.setattr(frozen_prefix, "MACS_PER_BYTE", 0.0)


def build(name, splits, small_cnn):
    keras.utils.set_random_seed(0)
    model = (CASES[name][0] or small_cnn)()
    # A random backbone gives no evidence of its range.
    return ft.FineTuner(model, splits.spec, input_range=(0, 255), cache=FeatureCache())


def fit(tuner, splits, phases, cache):
    run_phases(tuner.assembly, splits, phases=phases, batch_size=7, augment="standard", cache=cache)
    return tuner.assembly.get_weights()


@pytest.mark.parametrize("name", CASES)
def test_cached_training_gives_the_weights_of_plain_training(name, splits, small_cnn, always_cut):
    rules = tuple(CASES[name][1])
    phase = Phase(name="top", trainable=rules, epochs=3, learning_rate=0.01, views=2)
    plain = build(name, splits, small_cnn)
    before = plain.assembly.get_weights()
    cached = build(name, splits, small_cnn)
    work = cached.frozen_work(splits, [phase], augment="standard")
    assert work.cuts[0] is not None and "views" in work.describe(0)
    expected = fit(plain, splits, [phase], None)
    received = fit(cached, splits, [phase], FeatureCache())
    moved = 0
    for first, second, start in zip(expected, received, before, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
        moved += not np.array_equal(first, start)
    assert 2 < moved < len(before)
