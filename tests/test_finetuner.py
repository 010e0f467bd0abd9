"""FineTuner on inputs that are no photos: the same phases, plans and numbers."""

import keras
import numpy as np
import pytest

import tfinetune as ft
from tfinetune.errors import DataError
from tfinetune.training.strategies import LPFT

layers = keras.layers
RANDOM = np.random.default_rng(0)
LABELS = np.array(["no", "yes"] * 30)
COLUMNS = RANDOM.normal(size=(60, 6)).astype("float32") + 3 * (LABELS == "yes")[:, None]
WORDS = RANDOM.integers(0, 10, (60, 5)).astype("int32") + 9 * (LABELS == "yes")[:, None]


def two_inputs() -> keras.Model:
    keras.utils.set_random_seed(0)
    words = keras.Input((5,), dtype="int32", name="words")
    columns = keras.Input((6,), name="columns")
    left = layers.GRU(6, name="gru")(layers.Embedding(20, 4, name="embed")(words))
    right = layers.BatchNormalization(name="norm")(layers.Dense(6, name="dense")(columns))
    x = layers.Dense(8, activation="relu", name="joint")(layers.Concatenate()([left, right]))
    return keras.Model([words, columns], layers.Dense(2, activation="softmax", name="top")(x))


@pytest.fixture(scope="module")
def splits():
    return ft.data.from_arrays(
        {"columns": COLUMNS, "words": WORDS}, LABELS, validation=0.25, test=0.25
    )


def test_two_inputs_are_fitted_evaluated_and_saved_as_a_plain_model(splits, tmp_path):
    tuner = ft.FineTuner(two_inputs(), splits.spec)
    tuner.fit(splits, LPFT(epochs=2), batch_size=8)
    assert tuner.evaluate(splits.test)["accuracy"] > 0.8
    tuner.save(tmp_path / "model.keras")
    plain = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(plain.input, dict)
    values, _ = next(iter(splits.test.dataset(60, epoch=0)))
    np.testing.assert_allclose(plain(values), tuner.probabilities(splits.test), atol=1e-6)


def test_frozen_groups_are_bit_identical_after_a_fit(splits):
    tuner = ft.FineTuner(two_inputs(), splits.spec)
    tuner.set_trainable(["all", "!embed", "!dense"])
    model = tuner.backbone.model
    before = {layer.name: layer.get_weights() for layer in model.layers}
    tuner.model.compile("sgd", "sparse_categorical_crossentropy")
    tuner.model.fit(splits.train.dataset(8, shuffle=True), epochs=1, shuffle=False, verbose=0)
    for layer in model.layers:
        moved = [
            not np.array_equal(a, b)
            for a, b in zip(before[layer.name], layer.get_weights(), strict=True)
        ]
        assert all(moved) if layer.name in ("gru", "joint") else not any(moved), layer.name


def test_other_inputs_than_the_backbone_takes_are_an_error():
    spec = ft.data.from_arrays(COLUMNS[:, :5], LABELS).spec
    with pytest.raises(DataError, match=r"takes words \[5\], columns \[6\].* has input \[5\]"):
        ft.FineTuner(two_inputs(), spec)


def test_files_and_serving_signatures_are_for_images(splits, tmp_path):
    tuner = ft.FineTuner(two_inputs(), splits.spec)
    with pytest.raises(DataError, match=r"takes no image files.*tuner\.model\.predict"):
        tuner.predict(["a.png"])
    with pytest.raises(DataError, match=r"tuner\.model\.export"):
        tuner.export(tmp_path / "1")
    with pytest.raises(DataError, match="no photos: augment='light'"):
        tuner.fit(splits, augment="light")


def test_arrays_of_images_are_photos(small_cnn):
    images = RANDOM.integers(0, 120, (60, 16, 16, 3)).astype("uint8")
    images[LABELS == "yes", ..., 0] += 120
    splits = ft.data.from_arrays(images, LABELS, validation=0.25, test=0.25)
    tuner = ft.FineTuner(small_cnn(), splits.spec)
    tuner.fit(splits, ft.strategies.LinearProbe())
    assert tuner.evaluate(splits.test)["accuracy"] > 0.8
