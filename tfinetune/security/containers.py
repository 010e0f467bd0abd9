"""Look into a zip or HDF5 container without building anything, and refuse what would hurt.

Works on bytes, JSON and HDF5 data only (no TensorFlow). What passes fits the file's real size,
leads nowhere outside it, and was read once to its end. `confinement` runs this in a child process.
"""

import errno
import json
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import h5py

from tfinetune.errors import BackboneError, StorageError, UnsafeModelError
from tfinetune.security.hdf5 import allowed_bytes, count_elements, text_attribute

MAX_CONFIG_BYTES = 64 * 2**20
MAX_CONFIG_DEPTH = 200
MAX_LAYER_CALLS = 50_000
MAX_SPECTRUM = 16_384
MAX_ZIP_MEMBERS = 10_000
NATIVE_HINT = "Save the model with `model.save('model.keras')` and pass that file."
_PAIR_HINT = (
    "Pass the architecture as the backbone (a name such as MobileNetV2, a `.json` or `.yaml` file, "
    "or in Python a function that builds the model) and this file as its weights."
)

_CONFIG_MEMBER, _WEIGHTS_MEMBER = "config.json", "model.weights.h5"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SPECTRUM_SIZES = {"fft_length", "frame_length", "num_mel_bins"}

Facts = dict[str, Any]


def examine_model(path: Path) -> Facts:
    """Return the fields of a `ModelFile`, less its path.

    Raises:
        UnsafeModelError: for a bomb, a path or link out of the file, or an encrypted member.
        BackboneError: for anything else that is not a readable Keras model file.
        StorageError: if the temporary folder has no room for the weights in a zip.
    """
    return _explained(_examine_model, path)


def examine_weights(path: Path) -> Facts:
    """Check a weights-only HDF5 file; the result says how many numbers it stores.

    Raises:
        UnsafeModelError: as `examine_model`.
        BackboneError: if it is damaged or not HDF5.
    """
    return _explained(_examine_weights, path)


def _explained(examine: Callable[[Path], Facts], path: Path) -> Facts:
    try:
        return examine(path)
    except (BackboneError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(
                f"The weights in {path} could not be unpacked in {tempfile.gettempdir()}: "
                f"{error.strerror}. Free some space, or set TMPDIR to another folder."
            ) from error
        # h5py and zipfile report damage through a dozen unrelated exceptions.
        raise BackboneError(
            f"{path} is damaged: {_one_line(error)}. Download or save it again."
        ) from error


def _examine_model(path: Path) -> Facts:
    # First: HDF5 may begin anywhere in a file, so the weights in a zip can pass for one.
    if _starts_as_zip(path) and zipfile.is_zipfile(path):
        return _examine_zip(path)
    if h5py.is_hdf5(path):
        return _examine_hdf5(path)
    raise BackboneError(f"{path} is not a model: {_describe_bytes(path)}. {NATIVE_HINT}")


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _examine_weights(path: Path) -> Facts:
    if not h5py.is_hdf5(path):
        raise BackboneError(f"{path} holds no HDF5 weights: {_describe_bytes(path)}.")
    with h5py.File(path, "r") as file:
        return {"stored_elements": count_elements(file, path, path.stat().st_size)}


def _examine_hdf5(path: Path) -> Facts:
    with h5py.File(path, "r") as file:
        elements = count_elements(file, path, path.stat().st_size)
        config = text_attribute(file, "model_config", path)
        version = text_attribute(file, "keras_version", path)
        if version is None and "model_weights" in file:
            version = text_attribute(file["model_weights"], "keras_version", path)
        if config is None:
            raise BackboneError(_describe_without_config(path, file))
    return {
        "container": "hdf5",
        "config": _model_config(config, path),
        "keras_version": version or "1",
        "stored_elements": elements,
    }


def _describe_without_config(path: Path, file: h5py.File) -> str:
    if "layer_names" in file.attrs or "layer_names0" in file.attrs:
        return (
            f"{path} holds weights only, without the architecture they belong to. {_PAIR_HINT} "
            f"{NATIVE_HINT}"
        )
    if "layers" in file or "_layer_checkpoint_dependencies" in file:
        return (
            f"{path} holds Keras 3 weights only (`save_weights`), without an architecture. "
            f"{_PAIR_HINT} {NATIVE_HINT}"
        )
    return f"{path} is an HDF5 file without a Keras model in it. {NATIVE_HINT}"


def _examine_zip(path: Path) -> Facts:
    file_size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_members(members, path, file_size)
        names = {member.filename for member in members}
        if any(name.endswith((".pkl", ".pickle")) for name in names):
            raise UnsafeModelError(
                f"{path} is an archive with a Python pickle in it (as PyTorch writes), which could "
                f"run code and is never opened. {NATIVE_HINT}"
            )
        missing = {_CONFIG_MEMBER, _WEIGHTS_MEMBER} - names
        if missing:
            raise BackboneError(
                f"{path} is a zip archive but not a Keras model: {', '.join(sorted(missing))} "
                f"is missing. {NATIVE_HINT}"
            )
        config = _model_config(archive.read(_CONFIG_MEMBER), path)
        version = "3"
        if "metadata.json" in names:
            metadata = _json_object(archive.read("metadata.json"), path)
            version = str(metadata.get("keras_version", version))
        # HDF5 seeks a lot, and seeking backwards in a member reads it again from its start.
        with tempfile.TemporaryFile() as unpacked:
            with archive.open(_WEIGHTS_MEMBER) as member:
                shutil.copyfileobj(member, unpacked)
            with h5py.File(unpacked, "r") as weights:
                elements = count_elements(weights, path, file_size)
    return {
        "container": "zip",
        "config": config,
        "keras_version": version,
        "stored_elements": elements,
    }


def _check_members(members: list[zipfile.ZipInfo], path: Path, file_size: int) -> None:
    if len(members) > MAX_ZIP_MEMBERS:
        raise UnsafeModelError(
            f"{path} holds {len(members):,} members (at most {MAX_ZIP_MEMBERS:,} are allowed)."
        )
    allowed = allowed_bytes(file_size)
    total = sum(member.file_size for member in members)
    if total > allowed:
        raise UnsafeModelError(
            f"{path} has {file_size:,} bytes but would unpack to {total:,} (at most {allowed:,} "
            "are allowed): a zip bomb, refused."
        )
    seen: set[str] = set()
    for member in members:
        name = member.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith("/") or "\\" in name or ".." in parts or ":" in name:
            raise UnsafeModelError(
                f"{path} holds a member {name!r} that would be written outside its folder; "
                "it was refused."
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UnsafeModelError(f"{path} holds a symbolic link {name!r}; it was refused.")
        if member.flag_bits & 0x1:
            raise UnsafeModelError(f"{path} holds an encrypted member {name!r}; it was refused.")
        if member.compress_type not in _COMPRESSIONS:
            raise UnsafeModelError(
                f"{path} holds a member {name!r} compressed by method {member.compress_type}, "
                "which Keras never writes; it was refused."
            )
        if name in seen:
            raise UnsafeModelError(f"{path} holds the member {name!r} twice; it was refused.")
        seen.add(name)
        if name.endswith(".json") and member.file_size > MAX_CONFIG_BYTES:
            raise UnsafeModelError(
                f"{path} holds {name} of {member.file_size:,} bytes (at most "
                f"{MAX_CONFIG_BYTES:,} are allowed)."
            )


def _model_config(text: str | bytes, path: Path) -> dict[str, Any]:
    """Parse a model's config and bound what building it would take.

    A nested model that is called twice, in a model that is called twice, and so on, doubles the
    work with every level.
    """
    config = _json_object(text, path)
    calls = _layer_calls(config, path, depth=0)
    if calls > MAX_LAYER_CALLS:
        raise UnsafeModelError(
            f"{path} describes a model of {calls:,} layer calls (at most {MAX_LAYER_CALLS:,} are "
            "allowed); it was refused."
        )
    _refuse_immense_spectra(config, path)
    return config


def _refuse_immense_spectra(config: Any, path: Path) -> None:
    """Bound the tables that audio layers compute when they are made, before they have weights."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
            for key in _SPECTRUM_SIZES & value.keys():
                if isinstance(value[key], int) and value[key] > MAX_SPECTRUM:
                    raise UnsafeModelError(
                        f"{path} has a layer of {key}={value[key]:,} (at most {MAX_SPECTRUM:,} "
                        "are allowed); it was refused."
                    )


def _layer_calls(value: Any, path: Path, *, depth: int) -> int:
    """Return how many calls of layers (and other objects) it takes to build `value`."""
    if depth > MAX_CONFIG_DEPTH:
        raise _nested_too_deeply(path)
    if isinstance(value, list):
        return sum(_layer_calls(item, path, depth=depth + 1) for item in value)
    if not isinstance(value, dict):
        return 0
    inside = sum(
        _layer_calls(item, path, depth=depth + 1)
        for key, item in value.items()
        if key != "inbound_nodes"
    )
    if "class_name" not in value:
        return inside
    nodes = value.get("inbound_nodes")
    return (inside + 1) * (len(nodes) if isinstance(nodes, list) and nodes else 1)


def _nested_too_deeply(path: Path) -> UnsafeModelError:
    return UnsafeModelError(f"{path} nests its config too deeply; it was refused.")


def _json_object(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except RecursionError as error:
        raise _nested_too_deeply(path) from error
    except ValueError as error:
        raise BackboneError(f"{path} is damaged: its config is not JSON ({error}).") from error
    if not isinstance(config, dict):
        raise BackboneError(f"{path} is damaged: its config is not a JSON object.")
    return config


def _one_line(error: Exception) -> str:
    return " ".join(f"{error}".split())[:300] or type(error).__name__


def _describe_bytes(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    known = {
        b"\x80\x02": "it is a Python pickle, which is never opened",
        b"version https://git-lfs": "it is a Git LFS pointer (run `git lfs pull`)",
        b"\x89PNG": "it is a PNG image",
        b"\xff\xd8\xff": "it is a JPEG image",
        b"\x1f\x8b": "it is a gzip archive (unpack it first)",
    }
    for signature, description in known.items():
        if head.startswith(signature):
            return description
    if head[4:8] == b"TFL3":
        return "it is a LiteRT (.tflite) file, which cannot be trained"
    if head.lstrip()[:1] == b"<":
        return "it is a web page, probably a failed download"
    if path.name == "model.json" or b'"modelTopology"' in head:
        return "it is a TensorFlow.js model, which Keras cannot open"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError:
        return f"it is neither HDF5 nor a Keras archive (it starts with {head[:8]!r})"
    return f"it is a text file (it starts with {head[:24].decode('utf-8', 'replace')!r})"
