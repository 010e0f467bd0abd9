"""Fixtures that every test may use."""

import os
from pathlib import Path
from subprocess import CompletedProcess

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(autouse=True, scope="session")
def cache_folder(tmp_path_factory) -> Path:
    """Keep cached features out of the user's own folder, in child processes too."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFINETUNE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and photos; tests that need it skip where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("TFINETUNE_SHARED", beside))
    if not (folder / "models").is_dir():
        pytest.skip(f"real models and photos are not at {folder} (set TFINETUNE_SHARED)")
    return folder


@pytest.fixture
def small_cnn():
    """Build a 16x16 CNN with BatchNorm, dropout and a classification top, random but seeded."""

    def build(*, seed: int = 0, size: int = 16, top: bool = True):
        import keras
        from keras import layers

        keras.utils.set_random_seed(seed)
        image = keras.Input((size, size, 3), name="photo")
        x = layers.Rescaling(1 / 255.0, name="rescale")(image)
        for index, filters in enumerate((8, 12, 16), start=1):
            x = layers.Conv2D(filters, 3, strides=2, padding="same", name=f"conv_{index}")(x)
            x = layers.BatchNormalization(name=f"bn_{index}")(x)
            x = layers.ReLU(name=f"relu_{index}")(x)
            x = layers.Dropout(0.1, name=f"drop_{index}")(x)
        if top:
            x = layers.GlobalAveragePooling2D(name="gap")(x)
            x = layers.Dense(5, activation="softmax", name="predictions")(x)
        return keras.Model(image, x, name="small_cnn")

    return build


@pytest.fixture
def photo_folder(tmp_path):
    """Write tiny photos that a small model can tell apart: each class has its own colour."""

    def write(*, per_class: int = 12, classes=("blue", "green", "red"), size: int = 16) -> Path:
        import numpy as np
        from PIL import Image

        random = np.random.default_rng(0)
        for index, name in enumerate(classes):
            folder = tmp_path / "photos" / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                pixels = random.integers(0, 120, (size, size, 3))
                pixels[..., 2 - index % 3] += 90
                Image.fromarray(pixels.astype("uint8")).save(folder / f"{number:03d}.png")
        return tmp_path / "photos"

    return write


@pytest.fixture
def here(capfd):
    """Run a command in this process: TensorFlow takes seconds to load anew."""
    from tfinetune.cli import app

    def run(*arguments) -> CompletedProcess:
        with pytest.raises(SystemExit) as ended:
            app(args=list(map(str, arguments)))
        output, errors = capfd.readouterr()
        return CompletedProcess(arguments, ended.value.code or 0, output, errors)

    return run
