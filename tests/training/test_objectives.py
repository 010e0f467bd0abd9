"""Losses: label smoothing trains on other labels and is measured on the true ones."""

import keras
import numpy as np
import pytest

import tfinetune as ft
from tfinetune.adaptation import OPTIMIZERS
from tfinetune.errors import RecipeError
from tfinetune.training import FeatureCache
from tfinetune.training.objectives import cross_entropy
from tfinetune.training.runner import accuracy_and_loss

LOGITS = np.float32([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
LABELS = np.int32([0, 2])


def test_label_smoothing_equals_that_of_keras_and_none_is_the_plain_loss():
    one_hot = np.eye(3, dtype="float32")[LABELS]
    for smoothing in (0.0, 0.2):
        expected = keras.losses.categorical_crossentropy(
            one_hot, LOGITS, from_logits=True, label_smoothing=smoothing
        )
        received = np.mean(cross_entropy(smoothing)(LABELS, LOGITS))
        assert received == pytest.approx(np.mean(expected), abs=1e-6)
        soft = np.mean(cross_entropy(smoothing, soft_labels=True)(one_hot, LOGITS))
        assert soft == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.fixture(scope="module")
def splits():
    random = np.random.default_rng(0)
    labels = np.arange(48) % 2
    images = random.integers(0, 120, (48, 16, 16, 3))
    images[labels == 1, :, :, 0] += 100
    return ft.data.from_arrays(images.astype("uint8"), labels, validation=0.25, test=0)


def tuner(small_cnn, splits, **options):
    cache = FeatureCache()
    return ft.FineTuner(small_cnn(), splits.spec, input_range=(0, 255), cache=cache, **options)


def test_validation_loss_is_measured_without_smoothing(small_cnn, splits):
    smoothed = tuner(small_cnn, splits)
    outcome = smoothed.fit(
        splits, ft.strategies.Head(epochs=1, label_smoothing=0.5), augment="none"
    )
    probabilities = smoothed.calibrated(
        smoothed.logits(splits.validation) * smoothed.assembly.temperature
    )
    labels = splits.validation.labels
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert outcome.history[0]["val_loss"] == pytest.approx(loss, abs=1e-4)


def test_validation_loss_is_measured_without_penalties_of_regularizers(small_cnn, splits):
    base = small_cnn()
    for layer in base.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel_regularizer = keras.regularizers.L2(1.0)
    penalized = ft.FineTuner(keras.models.clone_model(base), splits.spec, input_range=(0, 255))
    outcome = penalized.fit(splits, ft.strategies.Full(epochs=1), augment="none", calibrate=False)
    measured = accuracy_and_loss(penalized.logits(splits.validation), splits.validation)
    (row,) = outcome.history
    assert (row["val_accuracy"], row["val_loss"]) == pytest.approx(measured, abs=1e-4)
    assert row["loss"] > row["val_loss"] + 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_a_hidden_head_and_leaves_the_backbone(name, small_cnn, splits):
    fitted = tuner(small_cnn, splits, head_units=8, head_activation="gelu")
    before = fitted.backbone.model.get_weights()
    rate = {"adamw": 1e-2, "lion": 1e-2, "sgd": 0.1}[name]
    strategy = ft.strategies.Head(epochs=8, optimizer=name, learning_rate=rate)
    outcome = fitted.fit(splits, strategy, augment="none", batch_size=8)
    assert outcome.shipped.accuracy > 0.8
    for old, new in zip(before, fitted.backbone.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [layer.name for layer in fitted.assembly.head_layers] == ["hidden", "logits"]


def test_convex_solver_refuses_a_hidden_layer(small_cnn, splits):
    with pytest.raises(RecipeError, match="linear head; .*Leave out --head-units"):
        tuner(small_cnn, splits, head_units=8).fit(splits, ft.strategies.LPFT(epochs=1))
