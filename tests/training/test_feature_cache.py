"""Cached features: the numbers of the plain path, computed once, kept safely."""

import numpy as np
import pytest
import tensorflow as tf

import tfinetune as ft
from tfinetune.training import FeatureCache, Segment
from tfinetune.training.feature_cache import MIRRORED


@pytest.fixture
def tuner_and_splits(small_cnn, photo_folder):
    splits = ft.data.from_image_folder(photo_folder(), image_size=16, validation=0.25, test=0)
    return ft.FineTuner(small_cnn(), splits.spec, cache=FeatureCache()), splits


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
