"""Epochs on features in memory: the weights of Keras's `fit`, its order, its stops."""

import dataclasses

import keras
import numpy as np
import pytest

import tfinetune as ft
from tfinetune.errors import TrainingError
from tfinetune.training import Checkpoint, FeatureCache, Phase, resident, run_phases, runner
from tfinetune.training.feature_cache import CachedExamples

WEIGHTS = {0: 0.5, 1: 2.0, 2: 1.0}


@pytest.fixture
def splits(photo_folder):
    return ft.data.from_image_folder(photo_folder(), image_size=16, validation=0.25, test=0)


@pytest.fixture
def train(small_cnn, splits):
    """Train a head for three epochs of five steps, resident or by Keras's `fit`."""

    def run(*, augment="light", phase=None, by_keras=False, **options):
        given = {"trainable": "head", "epochs": 3, "learning_rate": 0.02, "views": 2}
        tuner = ft.FineTuner(small_cnn(), splits.spec, dropout=0.3, head_units=8)
        with pytest.MonkeyPatch.context() as patch:
            if by_keras:
                patch.setattr(runner, "is_resident", lambda split: False)
            else:
                patch.setattr(keras.Model, "fit", None)
            return run_phases(
                tuner.assembly,
                splits,
                phases=[Phase(name="head", **{**given, **(phase or {})})],
                batch_size=6,
                augment=augment,
                **{"cache": FeatureCache(), **options},
            )

    return run


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augment": "none", "class_weights": WEIGHTS},
        {"phase": {"label_smoothing": 0.1, "optimizer": "sgd"}},
        {"cache": FeatureCache(dtype="float16"), "phase": {"optimizer": "lion"}},
    ],
    ids=["views", "class weights", "smoothing", "half"],
)
def test_weights_and_figures_are_those_of_fit(train, options):
    fitted, resident = train(by_keras=True, **options), train(**options)
    for one, other in zip(fitted.shipped.weights, resident.shipped.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert fitted.shipped.epoch == resident.shipped.epoch
    for one, other in zip(fitted.history, resident.history, strict=True):
        assert one.keys() == other.keys()
        del one["seconds"], other["seconds"]
        assert one == pytest.approx(other, abs=1e-5)


def test_pieces_of_an_epoch_change_nothing(train, monkeypatch):
    whole = train()
    monkeypatch.setattr(resident, "STEPS_PER_CALL", 2)
    for one, other in zip(whole.shipped.weights, train().shipped.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_interrupted_training_continues_to_the_very_same_weights(train, tmp_path):
    def interrupt(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    whole, checkpoint = train(), Checkpoint(tmp_path / "last.npz")
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=checkpoint, on_epoch=interrupt)
    continued = train(checkpoint=checkpoint)
    assert [row["epoch"] for row in continued.history] == [1, 2, 3]
    for one, other in zip(whole.shipped.weights, continued.shipped.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_stops_when_the_loss_is_not_finite(train):
    diverging = {"learning_rate": 1e38, "optimizer": "sgd", "clip_norm": None, "warmup": 0}
    seen = []
    with pytest.raises(TrainingError, match="diverged"):
        train(phase=diverging, augment="none", on_epoch=lambda history: seen.append(len(history)))
    assert max(seen) < 3


def test_large_features_and_mapped_files_are_left_to_fit(splits, monkeypatch):
    def kept(array):
        return dataclasses.replace(splits.train, examples=CachedExamples([[array]], ["float32"]))

    vectors, maps = np.zeros((4, 8), "float32"), np.zeros((4, 2, 2, 8), "float32")
    assert resident.is_resident(kept(vectors))
    assert resident.is_resident(kept(maps))
    assert not resident.is_resident(kept(vectors.view(np.memmap)))
    assert not resident.is_resident(splits.train)
    monkeypatch.setattr(resident, "MOST_BYTES", maps.nbytes - 1)
    assert resident.is_resident(kept(vectors)) and not resident.is_resident(kept(maps))
