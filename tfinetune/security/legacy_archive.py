"""Read the weights of a Keras 2.12-2.15 `.keras` archive into the translated model.

Such an archive files weights as Keras 3 does, by position: `layers/conv2d_1/vars/0`, the group
named after the layer's class and how many of that class came before. The classes are those of the
old config, so the groups are looked up through it.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from tfinetune.errors import BackboneError
from tfinetune.security.legacy_weights import assign

Config = dict[str, Any]


def load_archived_weights(
    model: keras.Model, config: Config, archive: zipfile.ZipFile, folder: Path
) -> None:
    """Assign every weight of `model` from `archive`, and the vocabularies of its lookup layers.

    Args:
        model: as built from the translated config.
        config: as the archive has it.
        archive: checked by `preflight`.
        folder: an empty one, to unpack into.

    Raises:
        BackboneError: where a weight finds no value.
    """
    wanted = [name for name in archive.namelist() if name.startswith("assets/")]
    archive.extractall(folder, ["model.weights.h5", *wanted])
    with h5py.File(folder / "model.weights.h5", "r") as file:
        reader = _Reader(file, folder / "assets")
        reader.load(model, "", config)
    left = [
        layer.name
        for layer in model._flatten_layers()
        if layer._trainable_variables + layer._non_trainable_variables
        and id(layer) not in reader.loaded
    ]
    if left:
        raise BackboneError(
            f"The archive stores no weights for {', '.join(left[:5])}. It is incomplete: save the "
            "model again."
        )


class _Reader:
    def __init__(self, file: h5py.File, assets: Path) -> None:
        self._file = file
        self._assets = assets
        self.loaded: set[int] = set()

    def load(self, layer: keras.Layer, path: str, config: Config | None) -> None:
        """Load `layer` and all that is inside it from the group at `path`."""
        group = self._file[path] if path else self._file
        if len(stored := group.get("vars", ())):
            self._load_own(layer, {name: np.asarray(stored[name]) for name in stored})
        if (assets := self._assets / path).is_dir() and hasattr(layer, "load_assets"):
            layer.load_assets(str(assets))
        if isinstance(layer, keras.Model) and config is not None:
            children = _layers(layer, config, f"{path}/layers".lstrip("/"))
        else:
            children = _attributes(layer, group, path, config)
        for child, where, its_config in children:
            if where in self._file:
                self.load(child, where, its_config)

    def _load_own(self, layer: keras.Layer, values: dict[str, np.ndarray]) -> None:
        if isinstance(layer, keras.layers.RNN):  # A CuDNN layer, which had no cell.
            names = ("kernel", "recurrent_kernel", "bias")
            arrays = [(name, values[str(i)]) for i, name in enumerate(names)]
            assign(layer.cell, arrays, stored_as=layer.name)
            layer = layer.cell
        else:
            layer.load_own_variables(values)
        if isinstance(layer, keras.layers.Discretization):
            layer.finalize_state()
        self.loaded.add(id(layer))


def _layers(
    model: keras.Model, config: Config, path: str
) -> Iterator[tuple[keras.Layer, str, Config]]:
    """Yield the layers of a model with their groups."""
    items = config["config"]["layers"]
    layers = {layer.name: layer for layer in model.layers}
    for item, group in zip(items, _groups(item["class_name"] for item in items), strict=True):
        name = item["config"].get("name", item.get("name")).replace("/", "_")
        if name in layers:
            yield layers[name], f"{path}/{group}", item


def _attributes(
    layer: keras.Layer, group: h5py.Group, path: str, config: Config | None
) -> Iterator[tuple[keras.Layer, str, Config | None]]:
    """Yield the layers that are attributes of a layer, alone or in a list, with their groups."""
    for name in group:
        value = getattr(layer, name, None) if name != "vars" else None
        if isinstance(value, keras.Layer):
            yield value, f"{path}/{name}", config["config"].get(name) if config else None
        elif isinstance(value, list):
            groups = _groups(type(child).__name__ for child in value)
            for child, its_group in zip(value, groups, strict=True):
                yield child, f"{path}/{name}/{its_group}", None


def _groups(class_names: Iterable[str]) -> list[str]:
    """Return the names of the groups of layers of these classes, in order."""
    seen: Counter[str] = Counter()
    groups = []
    for base in map(_snake_case, class_names):
        groups.append(f"{base}_{seen[base]}" if seen[base] else base)
        seen[base] += 1
    return groups


def _snake_case(class_name: str) -> str:
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
