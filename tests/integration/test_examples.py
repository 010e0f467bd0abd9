"""The example scripts run and reach what they should, on colours that a small model can learn."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def material(photo_folder, small_cnn, tmp_path):
    small_cnn().save(tmp_path / "base_model.keras")
    return photo_folder(per_class=30), tmp_path / "base_model.keras"


@pytest.mark.slow
def test_finetune_in_python_and_predict_without_tfinetune(material, tmp_path):
    photos, backbone = material
    accuracy = example("finetune_in_python").main(photos, backbone, tmp_path / "out")
    assert accuracy > 0.8
    assert (tmp_path / "out/serving/1/saved_model.pb").exists()
    photo = sorted((photos / "green").iterdir())[0]
    predict = example("predict_without_tfinetune").main
    probabilities = predict(tmp_path / "out/model.keras", photo)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert np.argmax(probabilities) == 1


def test_keras_native_fit(material):
    assert example("keras_native_fit").main(*material) > 0.5


@pytest.mark.slow
def test_search_with_keras_tuner(material, tmp_path, capsys):
    accuracy = example("search_with_keras_tuner").main(*material, tmp_path / "search", 2)
    assert accuracy > 0.5
    assert "strategy_parameters" in capsys.readouterr().out
    trials = sorted((tmp_path / "search/search").glob("trial_*/trial.json"))
    assert len(trials) == 2
