"""Cached features: the numbers of the plain path, computed once."""

import numpy as np
import pytest
import tensorflow as tf

import tfinetune as ft
from tfinetune.training import FeatureCache


@pytest.fixture
def tuner_and_splits(small_cnn, photo_folder):
    splits = ft.data.from_image_folder(photo_folder(), image_size=16, validation=0.25, test=0)
    return ft.FineTuner(small_cnn(), splits.spec), splits


def test_features_equal_keras_predict_for_both_views(tuner_and_splits):
    tuner, splits = tuner_and_splits
    cache = FeatureCache(tuner.assembly, batch_size=5)
    images = splits.train.images().astype("float32")
    plain = tuner.assembly.features_model.predict(images, verbose=0)
    flipped = tuner.assembly.features_model.predict(tf.image.flip_left_right(images), verbose=0)
    np.testing.assert_allclose(cache.features(splits.train), plain, atol=1e-5)
    np.testing.assert_allclose(cache.features(splits.train, view="flip"), flipped, atol=1e-5)


def test_backbone_runs_once_for_each_view(tuner_and_splits):
    tuner, splits = tuner_and_splits
    cache = FeatureCache(tuner.assembly)
    first = cache.features(splits.train)
    for weight in tuner.backbone.model.weights:
        weight.assign(weight * 0)
    assert cache.features(splits.train) is first
    # Later training of the backbone does not reach a cache, not even for new splits.
    assert np.abs(cache.features(splits.validation)).max() > 0


def test_linear_probe_head_gives_the_same_logits_as_the_assembled_model(tuner_and_splits):
    tuner, splits = tuner_and_splits
    tuner.fit(splits, ft.strategies.LinearProbe())
    features = FeatureCache(tuner.assembly).features(splits.train)
    kernel, bias = tuner.assembly.logits_layer.get_weights()
    images = splits.train.images().astype("float32")
    np.testing.assert_allclose(
        tuner.assembly.logits_model.predict(images, verbose=0), features @ kernel + bias, atol=1e-4
    )
