"""Open KerasHub presets: by name (downloaded by KerasHub) or from a folder that it saved."""

import json
from pathlib import Path

import keras

from tfinetune.errors import BackboneError, BackboneUnavailableError
from tfinetune.extras import require
from tfinetune.security.config_audit import audit
from tfinetune.security.preflight import check_weights_file

HUB_PREFIX = "hub:"
_DOWNLOADED = (HUB_PREFIX, "kaggle://", "hf://", "modelscope://")
_MAX_CONFIG_BYTES = 64 * 2**20


def is_preset_name(source: str) -> bool:
    """Return whether `source` names a preset: "hub:NAME", or an address of a model hub."""
    return source.startswith(_DOWNLOADED)


def is_preset_folder(path: Path) -> bool:
    """Return whether KerasHub saved a preset in the folder `path`."""
    config = _config(path)
    return str(config.get("registered_name", "")).startswith("keras_hub>")


def open_preset(source: str) -> tuple[keras.Model, tuple[str, ...]]:
    """Open the backbone of a preset.

    Args:
        source: what `is_preset_name` or `is_preset_folder` accepts.

    Returns:
        The backbone as a plain functional model, and warnings.

    Raises:
        MissingExtraError: if KerasHub is not installed.
        BackboneUnavailableError: if the preset cannot be downloaded.
        UnsafeModelError: if the config of a folder names code.
        BackboneError: if it is no preset, or has no backbone.
    """
    keras_hub = require("keras_hub", extra="hub", feature="KerasHub presets")
    local = Path(source).is_dir()
    if local:
        audit(_config(Path(source)), source, {})
        for weights in Path(source).glob("*.weights.h5"):
            check_weights_file(weights)
    try:
        backbone = keras_hub.models.Backbone.from_preset(source.removeprefix(HUB_PREFIX))
    except MemoryError:
        raise
    except OSError as error:  # requests' errors are
        raise BackboneUnavailableError(
            f"The preset {source} cannot be had: {_first_line(error)}. Connect to the network, or "
            "pass the folder of a preset that was saved before (`backbone.save_to_preset`)."
        ) from error
    except Exception as error:  # KerasHub reports an unusable preset in many ways
        raise BackboneError(
            f"KerasHub cannot open the preset {source}: {_first_line(error)}"
        ) from error
    model = keras.Model(backbone.inputs, backbone.outputs, name=backbone.name)
    foreign = sorted(
        {type(x).__name__ for x in model.layers if type(x).__module__.startswith("keras_hub")}
    )
    if not foreign:
        return model, ()
    return model, (
        f"holds layers of KerasHub ({', '.join(foreign)}): loading the fine-tuned `.keras` needs "
        "`import keras_hub`",
    )


def _config(path: Path) -> dict:
    file = path / "config.json"
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            return {}
        config = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
