"""Read the weights of a Keras 2.12-2.15 `.keras` archive into the translated model.

Such an archive files weights as Keras 3 does, by position: `layers/conv2d_1/vars/0`, the group
named after the layer's class and how many of that class came before. The classes are those of the
old config, so the groups are looked up through it.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from tfinetune.errors import BackboneError
from tfinetune.security.legacy_weights import assign

Config = dict[str, Any]

_OLD_CONTAINER = "_layer_checkpoint_dependencies"  # `layers` in Keras 2.12 and 2.13.


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
            children = _layers(layer, config, group)
        else:
            children = _attributes(layer, group, config)
        for child, inside, its_config in children:
            if inside in group:
                self.load(child, f"{path}/{inside}".lstrip("/"), its_config)

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
    model: keras.Model, config: Config, group: h5py.Group
) -> Iterator[tuple[keras.Layer, str, Config]]:
    """Yield the layers of a model with their groups, relative to the model's."""
    container = "layers" if "layers" in group else _OLD_CONTAINER
    layers = {layer.name: layer for layer in model.layers}
    seen: Counter[str] = Counter()
    for item in config["config"]["layers"]:
        base = _snake_case(item["class_name"])
        layer = layers.get(item["config"].get("name", item.get("name")).replace("/", "_"))
        if layer is not None:
            yield layer, f"{container}/{_numbered(base, seen[base])}", item
        # Keras 2.12 and 2.13 listed a layer that has weights twice.
        twice = container == _OLD_CONTAINER and layer is not None and layer.weights
        seen[base] += 2 if twice else 1


def _attributes(
    layer: keras.Layer, group: h5py.Group, config: Config | None
) -> Iterator[tuple[keras.Layer, str, Config | None]]:
    """Yield the layers that are attributes of a layer, alone or in a list, with their groups."""
    for name in group:
        value = getattr(layer, name, None) if name != "vars" else None
        if isinstance(value, keras.Layer):
            yield value, name, config["config"].get(name) if config else None
        elif isinstance(value, list):
            seen: Counter[str] = Counter()
            for child in value:
                base = _snake_case(type(child).__name__)
                yield child, f"{name}/{_numbered(base, seen[base])}", None
                seen[base] += 1


def _numbered(base: str, count: int) -> str:
    return f"{base}_{count}" if count else base


def _snake_case(class_name: str) -> str:
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
