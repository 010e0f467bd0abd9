"""Read an architecture without weights, as `model.to_json()` and `to_yaml()` wrote it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.security.containers import MAX_CONFIG_BYTES

SUFFIXES = (".json", ".yaml", ".yml")
MAX_CONFIG_VALUES = 2_000_000


class _Loader(yaml.SafeLoader):
    """Plain data, and the tuples and NumPy numbers that Keras left among it.

    Numbers are read from their bytes; no other Python object is ever made.
    """


def _tuple(loader: _Loader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


def _dtype(loader: _Loader, node: yaml.MappingNode) -> np.dtype:
    return np.dtype(loader.construct_mapping(node, deep=True)["args"][0])


def _scalar(loader: _Loader, node: yaml.SequenceNode) -> Any:
    dtype, content = loader.construct_sequence(node, deep=True)
    return np.frombuffer(content, dtype)[0].item()


def _array(loader: _Loader, node: yaml.MappingNode) -> Any:
    _, shape, dtype, _, content = loader.construct_mapping(node, deep=True)["state"]
    return np.frombuffer(content, dtype).reshape(shape).tolist()


_PYTHON = "tag:yaml.org,2002:python/"
_Loader.add_constructor(_PYTHON + "tuple", _tuple)
_Loader.add_constructor(_PYTHON + "name:numpy.ndarray", lambda loader, node: None)
_Loader.add_constructor(_PYTHON + "object/apply:numpy.dtype", _dtype)
_Loader.add_constructor(_PYTHON + "object/apply:numpy.core.multiarray.scalar", _scalar)
_Loader.add_constructor(_PYTHON + "object/apply:numpy.core.multiarray._reconstruct", _array)


def read_architecture(path: str | Path) -> tuple[dict[str, Any], str]:
    """Return the config in a JSON or YAML file and the version of the Keras that wrote it.

    Raises:
        UnsafeModelError: if it is too large, or asks for Python objects.
        BackboneError: if it is no architecture of Keras.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UnsafeModelError(
                f"{path} has more than {MAX_CONFIG_BYTES:,} bytes; it was refused unread."
            )
        text = path.read_text("utf-8")
        config = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
        _check_size(config, path)
    except BackboneError:
        raise
    except RecursionError as error:
        raise UnsafeModelError(f"{path} is nested too deeply; it was refused.") from error
    except yaml.constructor.ConstructorError as error:
        raise UnsafeModelError(
            f"{path} asks for a Python object ({error.problem}); it was refused."
        ) from error
    except (OSError, ValueError, TypeError, LookupError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(f"{path} cannot be read: {reason}.") from error
    if isinstance(config, dict) and "modelTopology" in config:
        raise BackboneError(
            f"{path} is a TensorFlow.js model, which Keras cannot open. Export it as Keras."
        )
    if not isinstance(config, dict) or not {"class_name", "config"} <= set(config):
        raise BackboneError(
            f"{path} is no architecture of Keras: it has no class_name and config. Allowed: what "
            "model.to_json() or model.to_yaml() returned."
        )
    version = str(config.pop("keras_version", "3" if "module" in config else "1"))
    return config, version


def _check_size(config: Any, path: Path) -> None:
    """Refuse aliases that refer to aliases: a few lines of YAML can stand for billions of values.

    Raises:
        UnsafeModelError: if the config is larger than any model's.
    """
    pending, count = [config], 0
    while pending:
        value = pending.pop()
        count += 1
        if count > MAX_CONFIG_VALUES:
            raise UnsafeModelError(f"{path} stands for more values than a model has; refused.")
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
