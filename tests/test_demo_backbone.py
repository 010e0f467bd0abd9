"""The shipped demo backbone is what its script says, and the demo's digits are what sklearn has."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfinetune.demo import write_digits
from tfinetune.errors import DataError
from tfinetune.workflow.prepare import EMBEDDED_BACKBONE as BACKBONE

SCRIPT = Path(__file__).parents[1] / "examples" / "pretrain_demo_backbone.py"


@pytest.fixture(scope="module")
def script():
    specification = importlib.util.spec_from_file_location("pretrain_demo_backbone", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[specification.name]


@pytest.fixture(scope="module")
def backbone():
    import keras

    return keras.models.load_model(BACKBONE, compile=False)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


def test_shipped_backbone_is_small():
    assert BACKBONE.stat().st_size <= 1_500_000


def test_shipped_backbone_is_an_uncompiled_model_of_stock_layers(backbone):
    import h5py
    import keras

    with h5py.File(BACKBONE) as file:
        assert "training_config" not in file.attrs
        assert "optimizer_weights" not in file
    kinds = [type(layer) for layer in backbone.layers]
    assert all(kind is getattr(keras.layers, kind.__name__, None) for kind in kinds)
    assert keras.layers.Lambda not in kinds
    assert kinds[1] is keras.layers.Rescaling
    assert kinds[-2:] == [keras.layers.GlobalAveragePooling2D, keras.layers.Dense]
    assert keras.layers.BatchNormalization in kinds
    assert backbone.input_shape == (None, 32, 32, 3)
    assert backbone.layers[-1].activation is keras.activations.softmax


def test_shipped_backbone_reaches_the_stated_accuracy_on_new_drawings(script, backbone):
    accuracy = script.held_out_accuracy(backbone, count=8192, seed=99)
    assert accuracy == pytest.approx(script.EXPECTED_ACCURACY, abs=0.01)


def test_drawings_repeat_under_a_seed_and_differ_between_seeds(script):
    glyphs = script.invent_glyphs()
    images, labels = script.draw_batch(glyphs, 64, seed=(7, 1))
    again, labels_again = script.draw_batch(script.invent_glyphs(), 64, seed=(7, 1))
    others, _ = script.draw_batch(glyphs, 64, seed=(7, 2))
    assert images.shape == (64, 32, 32, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert (images != others).mean() > 0.1


def test_two_drawings_of_one_glyph_differ(script):
    glyphs = script.invent_glyphs()
    first, second = script.draw(glyphs, np.zeros(2, np.int32), np.random.default_rng(0))
    assert (first != second).mean() > 0.1


def test_features_know_digits_better_than_pixels_do(backbone, digits):
    import keras
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = keras.Model(backbone.input, backbone.layers[-2].output)
    accuracies = {}
    train, test = (_read(digits / split) for split in ("train", "test"))
    for name, view in {
        "pixels": lambda images: images[:, ::4, ::4, 0].reshape(-1, 64),
        "features": lambda images: features.predict(images, verbose=0),
    }.items():
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        probe.fit(view(train[0]), train[1])
        accuracies[name] = probe.score(view(test[0]), test[1])
    assert accuracies["features"] > 0.93
    assert accuracies["features"] > accuracies["pixels"] + 0.03


@pytest.mark.slow
def test_quick_pretraining_writes_a_model_that_opens(tmp_path):
    import keras

    output = tmp_path / "backbone.h5"
    command = [sys.executable, str(SCRIPT), "--steps", "2", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "held-out accuracy" in done.stdout
    model = keras.models.load_model(output, compile=False)
    assert model.output_shape == (None, 256)


def test_digits_are_split_into_twenty_per_class_and_all_the_rest(digits):
    counts = {
        split: [len(list((digits / split / str(digit)).iterdir())) for digit in range(10)]
        for split in ("train", "test")
    }
    assert counts["train"] == [20] * 10
    assert sum(counts["test"]) == 1797 - 200
    names = [path.name for path in digits.rglob("*.png")]
    assert len(set(names)) == 1797


def test_digit_files_hold_the_scans_of_sklearn(digits):
    from sklearn.datasets import load_digits

    path = next((digits / "test" / "3").iterdir())
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("L", (32, 32))
        pixels = np.asarray(image, np.float32)
    scan = load_digits().images[int(path.stem)] * 255 / 16
    assert load_digits().target[int(path.stem)] == 3
    assert np.corrcoef(pixels.reshape(8, 4, 8, 4).mean((1, 3)).ravel(), scan.ravel())[0, 1] > 0.98


def test_digits_repeat_under_a_seed(digits, tmp_path):
    write_digits(tmp_path / "same")
    write_digits(tmp_path / "other", seed=1)
    names = {path.relative_to(digits) for path in digits.rglob("*.png")}
    assert names == {path.relative_to(tmp_path / "same") for path in tmp_path.glob("same/**/*.png")}
    assert all(
        (digits / name).read_bytes() == (tmp_path / "same" / name).read_bytes() for name in names
    )
    assert names != {
        path.relative_to(tmp_path / "other") for path in tmp_path.glob("other/**/*.png")
    }


@pytest.mark.parametrize("per_class", [0, 174])
def test_digits_need_scans_on_both_sides(tmp_path, per_class):
    with pytest.raises(DataError, match=r"Choose 1\.\.173"):
        write_digits(tmp_path, per_class=per_class)


def _read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    paths = sorted(folder.rglob("*.png"))
    grey = np.stack([np.asarray(Image.open(path), np.float32) for path in paths])
    labels = np.array([int(path.parent.name) for path in paths])
    return np.repeat(grey[..., None], 3, -1), labels
