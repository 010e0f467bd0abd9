"""Small model files, sound and hostile, made on the spot."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import pytest
from hostile import rewrite_member


@pytest.fixture
def small_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="classes")(x))


@pytest.fixture
def keras_file(small_model: keras.Model, tmp_path: Path) -> Path:
    path = tmp_path / "model.keras"
    small_model.save(path)
    return path


@pytest.fixture
def h5_file(small_model: keras.Model, tmp_path: Path) -> Path:
    path = tmp_path / "model.h5"
    small_model.save(path)
    return path


@pytest.fixture
def edit_keras(keras_file: Path, tmp_path: Path) -> Callable[[Callable[[dict], None]], Path]:
    """Return a function that rewrites the config inside the `.keras` file."""

    def edit(change: Callable[[dict], None]) -> Path:
        def changed(content: bytes) -> str:
            config = json.loads(content)
            change(config)
            return json.dumps(config)

        edited = keras_file.rename(tmp_path / "edited.keras")
        rewrite_member(edited, "config.json", changed)
        return edited

    return edit


@pytest.fixture
def edit_h5(h5_file: Path) -> Callable[[Callable[[dict], None]], Path]:
    """Return a function that rewrites the config inside the `.h5` file."""

    def edit(change: Callable[[dict], None]) -> Path:
        with h5py.File(h5_file, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            change(config)
            file.attrs["model_config"] = json.dumps(config)
        return h5_file

    return edit
