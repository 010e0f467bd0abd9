"""Cached features: the numbers of the plain path, computed once, kept safely."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfinetune as ft
from tfinetune.array_store import ArrayStore
from tfinetune.errors import StorageError
from tfinetune.reporting import Reporter
from tfinetune.training import FeatureCache, Phase, Segment, View, run_phases
from tfinetune.training.feature_cache import CLEAN, MIRRORED


@pytest.fixture(scope="module")
def splits():
    images = np.random.default_rng(0).integers(0, 255, (36, 16, 16, 3)).astype("uint8")
    return ft.data.from_arrays(images, np.arange(36) % 3, validation=0.25, test=0)


@pytest.fixture
def tuner_and_splits(small_cnn, splits):
    tuner = ft.FineTuner(small_cnn(), splits.spec, precision="float32", cache=FeatureCache())
    return tuner, splits


def backbone_of(tuner):
    return [Segment(tuner.assembly.features_model)]


def test_features_equal_keras_predict_for_both_views(tuner_and_splits):
    tuner, splits = tuner_and_splits
    cache = FeatureCache(batch_size=5)
    images = splits.train.images().astype("float32")
    plain = tuner.assembly.features_model.predict(images, verbose=0)
    flipped = tuner.assembly.features_model.predict(tf.image.flip_left_right(images), verbose=0)
    (features,) = cache.features(backbone_of(tuner), splits.train)
    (mirrored,) = cache.features(backbone_of(tuner), splits.train, MIRRORED)
    np.testing.assert_allclose(features, plain, atol=1e-5)
    np.testing.assert_allclose(mirrored, flipped, atol=1e-5)


def test_backbone_runs_once_until_its_weights_change(tuner_and_splits):
    tuner, splits = tuner_and_splits
    cache = FeatureCache()
    first = cache.features(backbone_of(tuner), splits.train)
    assert cache.features(backbone_of(tuner), splits.train) is first
    for weight in tuner.backbone.model.weights:
        weight.assign(weight * 0)
    (zeros,) = cache.features(backbone_of(tuner), splits.train)
    assert np.abs(first[0]).max() > 0 and np.abs(zeros).max() == 0


class Sayings(Reporter):
    """Keeps what it is told to say."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, sentence):
        self.said.append(sentence)


def test_other_tuners_runs_and_processes_find_what_one_computed(
    tuner_and_splits, small_cnn, tmp_path, monkeypatch
):
    tuner, splits = tuner_and_splits
    (first,) = FeatureCache(ArrayStore(tmp_path)).features(backbone_of(tuner), splits.train)
    keras.layers.Conv2D(1, 1)  # Keras numbers names through a process: they must not matter
    other = ft.FineTuner(small_cnn(), splits.spec, dropout=0.5, seed=7, cache=FeatureCache())
    monkeypatch.setattr(View, "batches", None)
    (found,) = FeatureCache(ArrayStore(tmp_path)).features(backbone_of(other), splits.train)
    np.testing.assert_array_equal(found, first)


def test_key_changes_with_weights_view_examples_and_precision(tuner_and_splits, small_cnn):
    tuner, splits = tuner_and_splits
    cache, backbone = FeatureCache(), backbone_of(tuner)
    policy = ft.data.get_policy("light")
    keys = {
        cache._key(backbone, splits.train, CLEAN),
        cache._key(backbone, splits.validation, CLEAN),
        cache._key(backbone, splits.train, MIRRORED),
        cache._key(backbone, splits.train, View(policy, seed=0)),
        cache._key(backbone, splits.train, View(policy, seed=1)),
        cache._key(backbone, splits.train, View(policy, seed=0, number=1)),
        FeatureCache(dtype="float16")._key(backbone, splits.train, CLEAN),
        cache._key([*backbone, *backbone], splits.train, CLEAN),
    }
    weight = tuner.backbone.model.weights[-1]
    weight.assign(weight + 1)
    keys.add(cache._key(backbone_of(tuner), splits.train, CLEAN))
    other = ft.FineTuner(small_cnn(seed=1), splits.spec, cache=cache)
    keys.add(cache._key(backbone_of(other), splits.train, CLEAN))
    assert len(keys) == 10


def test_damaged_features_are_computed_again_and_said(tuner_and_splits, tmp_path):
    tuner, splits = tuner_and_splits
    store, reporter = ArrayStore(tmp_path), Sayings()
    (first,) = FeatureCache(store).features(backbone_of(tuner), splits.train)
    (entry,) = store.entries()
    with open(tmp_path / entry.key / "0.npy", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\xff\xff\xff\xff")
    cache = FeatureCache(store, reporter=reporter)
    np.testing.assert_array_equal(cache.features(backbone_of(tuner), splits.train)[0], first)
    assert "were damaged" in reporter.said[0] and "computed again" in reporter.said[0]


def test_store_that_takes_nothing_leaves_features_in_memory(tuner_and_splits, tmp_path):
    tuner, splits = tuner_and_splits
    reporter = Sayings()
    cache = FeatureCache(ArrayStore(tmp_path, capacity=10), reporter=reporter)
    (features,) = cache.features(backbone_of(tuner), splits.train)
    assert not isinstance(features, np.memmap)
    assert "kept in memory only" in reporter.said[0] and "exceed the capacity" in reporter.said[0]


def test_features_past_the_memory_are_mapped_from_the_store(tuner_and_splits, tmp_path):
    tuner, splits = tuner_and_splits
    (plain,) = FeatureCache().features(backbone_of(tuner), splits.train)
    cache = FeatureCache(ArrayStore(tmp_path), memory=plain.nbytes - 1)
    (mapped,) = cache.features(backbone_of(tuner), splits.train)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, plain)
    with pytest.raises(StorageError, match="exceed the 1 bytes of memory.*--cache-memory"):
        FeatureCache(memory=1).features(backbone_of(tuner), splits.train)


def test_memory_stays_in_its_budget_and_the_features_used_last_stay(tuner_and_splits):
    tuner, splits = tuner_and_splits
    backbone = backbone_of(tuner)
    size = FeatureCache().features(backbone, splits.train)[0].nbytes
    cache = FeatureCache(memory=2 * size)
    views = [CLEAN, MIRRORED, View(ft.data.get_policy("light"))]
    for view in views:
        cache.features(backbone, splits.train, view)
    assert [cache.holds(backbone, splits.train, view) for view in views] == [False, True, True]


def test_half_precision_takes_half_and_stays_finite(tuner_and_splits):
    tuner, splits = tuner_and_splits
    (full,) = FeatureCache().features(backbone_of(tuner), splits.train)
    (half,) = FeatureCache(dtype="float16").features(backbone_of(tuner), splits.train)
    assert half.nbytes * 2 == full.nbytes
    np.testing.assert_allclose(half, full, rtol=1e-3, atol=1e-4)
    weight = tuner.backbone.model.get_layer("bn_3").gamma
    weight.assign(weight * 1e9)
    (clipped,) = FeatureCache(dtype="float16").features(backbone_of(tuner), splits.train)
    assert np.isfinite(clipped).all()


def test_phase_whose_features_find_no_place_trains_plainly_on_the_same_views(
    tuner_and_splits, small_cnn, monkeypatch
):
    tuner, splits = tuner_and_splits
    phase = Phase(name="head", trainable="head", epochs=9)
    reporter = Sayings()
    full = FeatureCache()
    monkeypatch.setattr(full, "features", lambda *given: refuse())

    def refuse():
        raise StorageError("No space left.")

    def fit(cache, tuner):
        options = {"augment": "light", "cache": cache, "reporter": reporter}
        run_phases(tuner.assembly, splits, phases=[phase], **options)
        return tuner.assembly.get_weights()

    plain = fit(full, tuner)
    cached = fit(FeatureCache(), ft.FineTuner(small_cnn(), splits.spec, cache=full))
    assert "every layer runs in every step. No space left." in " ".join(reporter.said)
    for first, second in zip(plain, cached, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_evaluation_uses_features_at_hand_and_equals_the_model(tuner_and_splits):
    tuner, splits = tuner_and_splits
    tuner.fit(splits, ft.strategies.LinearProbe())
    images = splits.validation.images().astype("float32")
    expected = tuner.model.predict(images, verbose=0)
    assert tuner.cache.holds(backbone_of(tuner), splits.validation)
    np.testing.assert_allclose(tuner.probabilities(splits.validation), expected, atol=1e-5)
