"""A small world to search in: photos of three colours and two random backbones."""

from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class World:
    photos: Path
    backbone: Path
    other_backbone: Path
    cache: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    import keras
    import numpy as np
    from keras import layers
    from PIL import Image

    folder = tmp_path_factory.mktemp("search")
    random = np.random.default_rng(0)
    for index, name in enumerate(("blue", "green", "red")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(16):
            pixels = random.integers(0, 150, (16, 16, 3))
            pixels[..., 2 - index] += 60
            Image.fromarray(pixels.astype("uint8")).save(folder / "photos" / name / f"{number}.png")
    for name, filters in (("base", 8), ("other", 2)):
        keras.utils.set_random_seed(0)
        image = keras.Input((16, 16, 3))
        x = layers.Rescaling(1 / 255.0)(image)
        for stage in (1, 2, 3):
            x = layers.Conv2D(filters * stage, 3, strides=2, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        keras.Model(image, x).save(folder / f"{name}.keras")
    return World(folder / "photos", folder / "base.keras", folder / "other.keras", folder / "cache")


@pytest.fixture(scope="session")
def search_recipe(world):
    """Return a function that describes a small search."""
    import tfinetune as ft

    def describe(*, recipe=None, **fields):
        strategy = {"strategy": "head", "strategy_parameters": {"epochs": 2}}
        default = {"validation": 0.25, "test": 0.25, "augmentation": "none", "batch_size": 8}
        base = ft.Recipe(
            data=str(world.photos),
            backbone=str(world.backbone),
            **{**strategy, **default, **(recipe or {})},
        )
        space = {"learning_rate": {"low": 1e-3, "high": 0.1, "log": True}, "dropout": [0.2, 0.5]}
        few = {"space": space, "trials": 3, "margin": 0}  # photos, so that any lead may be luck
        return ft.search.SearchRecipe(recipe=base, **{**few, **fields})

    return describe


@pytest.fixture(scope="session")
def workbench():
    """What all searches of the tests share; features stay in memory."""
    from tfinetune.search import Workbench
    from tfinetune.training import FeatureCache

    return Workbench(FeatureCache())


@pytest.fixture
def prepared(search_recipe, workbench, tmp_path):
    """A small search in `tmp_path/s`, about to give out its first trial."""
    from tfinetune.search.job import open_search
    from tfinetune.search.setup import prepare

    asked = search_recipe(trials=3, oracle="random")
    return prepare(open_search(asked, tmp_path / "s"), workbench)
