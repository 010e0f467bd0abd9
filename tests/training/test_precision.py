"""Mixed precision trains, is chosen by measurement, and leaves a float32 model."""

import keras
import numpy as np
import pytest

import tfinetune as ft
from tfinetune.errors import RecipeError
from tfinetune.training import precision
from tfinetune.training.precision import choose_precision, computing_in

RANDOM = np.random.default_rng(0)
LABELS = np.array([0, 1] * 20)
IMAGES = RANDOM.integers(0, 100, (40, 16, 16, 3)).astype("uint8")
IMAGES[LABELS == 1, ..., 0] += 120


@pytest.fixture(scope="module")
def splits():
    return ft.data.from_arrays(IMAGES, LABELS, validation=0.25, test=0)


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_leaves_a_float32_model(small_cnn, splits, tmp_path, name):
    tuner = ft.FineTuner(small_cnn(), splits.spec, precision=name)
    before = tuner.backbone.model.get_weights()
    tuner.fit(splits, ft.strategies.Full(epochs=2), batch_size=8)
    moved = tuner.backbone.model.get_weights()
    assert any(not np.array_equal(a, b) for a, b in zip(before, moved, strict=True))
    assert all(np.isfinite(weight).all() for weight in moved)
    assert {layer.dtype_policy.name for layer in tuner.model._flatten_layers()} == {"float32"}
    tuner.save(tmp_path / "model.keras")
    plain = keras.saving.load_model(tmp_path / "model.keras")
    images = IMAGES[:4].astype("float32")
    np.testing.assert_allclose(plain(images), tuner.model(images), atol=1e-6)


def test_layers_compute_in_sixteen_bits_inside_only(small_cnn):
    model = ft.load_backbone(small_cnn(top=False)).model
    images = RANDOM.uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    exact = np.asarray(model(images))
    with computing_in("mixed_bfloat16", model):
        assert model(images).dtype == "bfloat16"
        assert model.get_layer("rescale").compute_dtype == "float32"
        np.testing.assert_allclose(np.asarray(model(images), "float32"), exact, atol=0.05)
    np.testing.assert_array_equal(model(images), exact)


def test_cached_prefix_and_mixed_precision_go_together(small_cnn, splits):
    def fitted(cache):
        tuner = ft.FineTuner(small_cnn(), splits.spec, precision="mixed_bfloat16", cache=cache)
        tuner.fit(splits, ft.strategies.LPFT(epochs=3, trainable="stage_2:"), augment="none")
        return tuner.model.get_weights()

    from tfinetune.training import FeatureCache

    cached, again = fitted(FeatureCache()), fitted(FeatureCache())
    for one, other in zip(cached, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_auto_takes_what_was_measured_to_be_faster(small_cnn, splits, monkeypatch):
    assembly = ft.FineTuner(small_cnn(), splits.spec, precision="float32").assembly
    monkeypatch.setattr(precision, "_known_by_hardware", lambda: ("mixed_bfloat16", "CPU"))
    measured = choose_precision("auto", assembly)
    assert measured.speedup > 0
    assert (measured.name == "float32") == (measured.speedup < precision.LEAST_SPEEDUP)
    for speedup, name in ((1.5, "mixed_bfloat16"), (0.7, "float32")):
        monkeypatch.setattr(precision, "_measured_speedup", lambda *_, speedup=speedup: speedup)
        assert choose_precision("auto", assembly).name == name
        assert f"{speedup:.2f} times" in choose_precision("auto", assembly).describe()


def test_auto_measures_nothing_without_hardware_for_it(small_cnn, splits, monkeypatch):
    monkeypatch.setattr(precision, "_known_by_hardware", lambda: (None, "no units"))
    monkeypatch.delattr(precision, "_measured_speedup")
    tuner = ft.FineTuner(small_cnn(), splits.spec, precision="auto")
    assert tuner.precision.describe() == "float32 (no units)"


def test_what_cannot_be_trained_in_is_refused_with_a_way_out(small_cnn, splits):
    for make in (
        lambda: ft.FineTuner(small_cnn(), splits.spec, precision="int8"),
        lambda: ft.Recipe(data="photos", precision="int8"),
    ):
        with pytest.raises(RecipeError, match=r"no convolution.*export\('model.tflite'"):
            make()
    with pytest.raises(RecipeError, match="no precision 'float8'. Known: auto, float32, mixed_b"):
        ft.FineTuner(small_cnn(), splits.spec, precision="float8")
