"""Look into a model file without building anything, and refuse what is not one or would hurt.

Works on bytes, JSON and HDF5 metadata only (no TensorFlow). What passes is a zip or HDF5 container
whose members and data sets fit the file's real size and lead nowhere outside it.

All of this runs in the calling process, without a limit on time or memory: a flaw in the zip or
HDF5 library itself is not contained. Where strangers upload models, open them in a process or
container that has such limits.
"""

import errno
import json
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import h5py

from tfinetune.errors import BackboneError, StorageError, UnsafeModelError

MAX_CONFIG_BYTES = 64 * 2**20
MAX_OBJECTS = 200_000
MAX_ZIP_MEMBERS = 10_000
# Weights hardly compress; a constant kernel does. Deflate reaches 1032:1, which only a bomb needs.
MAX_EXPANSION = 100
SLACK_BYTES = 16 * 2**20

_CONFIG_MEMBER, _WEIGHTS_MEMBER = "config.json", "model.weights.h5"
_OPTIMIZER_GROUPS = ("optimizer", "optimizer_weights")
_PAIR_HINT = (
    "Pass the architecture as the backbone (a name such as MobileNetV2, a `.json` or `.yaml` file, "
    "or in Python a function that builds the model) and this file as its weights."
)
_NATIVE_HINT = "Save the model with `model.save('model.keras')` and pass that file."


@dataclass(frozen=True)
class ModelFile:
    """What a checked file holds.

    Attributes:
        path: where it lies.
        container: "zip" (Keras 3 `.keras`) or "hdf5" (`.h5`, whatever its name).
        config: the model's JSON config.
        keras_version: the writer's version, such as "2.2.4-tf"; "1" where the file does not say.
        stored_elements: how many numbers its weight data sets hold.
    """

    path: Path
    container: Literal["zip", "hdf5"]
    config: dict[str, Any]
    keras_version: str
    stored_elements: int

    @property
    def major_version(self) -> int:
        """The first number of the writer's version; 1 where it cannot be read."""
        digits = self.keras_version.partition(".")[0]
        return int(digits) if digits.isdecimal() else 1


def read_model_file(path: str | Path) -> ModelFile:
    """Check the file at `path` and read its config.

    The content decides what it is; the name does not matter.

    Raises:
        UnsafeModelError: for a bomb, a path or link out of the file, or an encrypted member.
        BackboneError: for anything else that is not a readable Keras model file.
        StorageError: if the temporary folder has no room for the weights in a zip.
    """
    path = Path(path)
    _refuse_what_is_no_file(path)
    try:
        # First: HDF5 may begin anywhere in a file, so the weights in a zip can pass for one.
        if _starts_as_zip(path) and zipfile.is_zipfile(path):
            return _read_zip(path)
        if h5py.is_hdf5(path):
            return _read_hdf5(path)
    except BackboneError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise StorageError(
                f"The weights in {path} could not be unpacked: no space is left in "
                f"{tempfile.gettempdir()}. Free some, or set TMPDIR to another folder."
            ) from error
        # h5py and zipfile report damage through a dozen unrelated exceptions.
        raise BackboneError(
            f"{path} is damaged: {_one_line(error)}. Download or save it again."
        ) from error
    raise BackboneError(f"{path} is not a model: {_describe_bytes(path)}. {_NATIVE_HINT}")


def check_weights_file(path: str | Path) -> int:
    """Check a weights-only HDF5 file and return how many numbers it stores.

    Raises:
        UnsafeModelError: as `read_model_file`.
        BackboneError: where the file is missing, damaged or not HDF5.
    """
    path = Path(path)
    _refuse_what_is_no_file(path)
    if not h5py.is_hdf5(path):
        raise BackboneError(f"{path} holds no HDF5 weights: {_describe_bytes(path)}.")
    try:
        with h5py.File(path, "r") as file:
            return _count_elements(file, path, path.stat().st_size)
    except BackboneError:
        raise
    except Exception as error:
        raise BackboneError(f"{path} is damaged: {_one_line(error)}.") from error


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _refuse_what_is_no_file(path: Path) -> None:
    if os.path.isdir(path):
        raise BackboneError(_describe_folder(path))
    if not os.path.exists(path):  # Unlike Path.exists, it never raises.
        raise BackboneError(
            f"There is no model at {path}. Allowed: a .keras or .h5 file, the name of a "
            "keras.applications model, or a keras.Model."
        )
    if not os.path.isfile(path):
        raise BackboneError(f"{path} is not a regular file. Copy the model to a file first.")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise BackboneError(f"{path} is empty. Download or save it again.")
    except OSError as error:
        raise BackboneError(f"{path} cannot be read: {error.strerror or error}.") from error


def _describe_folder(path: Path) -> str:
    if (path / "saved_model.pb").exists() or (path / "saved_model.pbtxt").exists():
        return (
            f"{path} is a SavedModel folder, which cannot be used as a backbone yet. In the "
            "program that made the model, save it as one file: `model.save('model.keras')`."
        )
    nested = next(iter(sorted(path.glob("*/saved_model.pb"))), None)
    if nested is not None:
        return (
            f"{path} holds a SavedModel folder ({nested.parent.name}), which cannot be used as a "
            "backbone yet. In the program that made the model, save it as one file: "
            "`model.save('model.keras')`."
        )
    if (path / "model.json").exists():
        return (
            f"{path} is a TensorFlow.js model folder, which Keras cannot open. Export it again as "
            "Keras: in Teachable Machine choose Export Model > Tensorflow > Keras, or save it "
            "with `model.save('model.keras')`."
        )
    found = sorted(p.name for p in path.glob("*") if p.suffix in {".keras", ".h5", ".hdf5"})
    hint = f"It holds {', '.join(found[:3])}: pass one of these." if found else _NATIVE_HINT
    return f"{path} is a folder, not a model file. {hint}"


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


# --- HDF5 ---------------------------------------------------------------------------------------


def _read_hdf5(path: Path) -> ModelFile:
    with h5py.File(path, "r") as file:
        elements = _count_elements(file, path, path.stat().st_size)
        config = _attribute(file, "model_config", path)
        version = _attribute(file, "keras_version", path)
        if version is None and "model_weights" in file:
            version = _attribute(file["model_weights"], "keras_version", path)
        if config is None:
            raise BackboneError(_describe_without_config(path, file))
    return ModelFile(path, "hdf5", _parse_config(config, path), version or "1", elements)


def _describe_without_config(path: Path, file: h5py.File) -> str:
    if "layer_names" in file.attrs or "layer_names0" in file.attrs:
        return (
            f"{path} holds weights only, without the architecture they belong to. {_PAIR_HINT} "
            f"{_NATIVE_HINT}"
        )
    if "layers" in file or "_layer_checkpoint_dependencies" in file:
        return (
            f"{path} holds Keras 3 weights only (`save_weights`), without an architecture. "
            f"{_PAIR_HINT} {_NATIVE_HINT}"
        )
    return f"{path} is an HDF5 file without a Keras model in it. {_NATIVE_HINT}"


def _attribute(node: h5py.Group, name: str, path: Path) -> str | None:
    """Return a text attribute, or None. Bounded before it is read."""
    if name not in node.attrs:
        return None
    if node.attrs.get_id(name).get_storage_size() > MAX_CONFIG_BYTES:
        raise UnsafeModelError(
            f"{path} declares an attribute {name!r} of more than {MAX_CONFIG_BYTES:,} bytes; "
            "it was refused unread."
        )
    value = node.attrs[name]
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, str):
        return value
    raise BackboneError(f"{path} is damaged: its attribute {name!r} is not text.")


def _count_elements(file: h5py.File, path: Path, file_size: int) -> int:
    """Return the number of stored weight elements, having bounded every data set.

    Raises:
        UnsafeModelError: for links out of the file and for sizes the file cannot hold.
    """
    allowed = file_size * MAX_EXPANSION + SLACK_BYTES
    declared = elements = 0
    for name, dataset in _datasets(file, path):
        if dataset.is_virtual or dataset.external:
            raise UnsafeModelError(
                f"{path} keeps the data set {name!r} in another file. A model must be "
                "self-contained; it was refused."
            )
        declared += dataset.size * max(dataset.dtype.itemsize, 1) if dataset.size else 0
        if declared > allowed:
            raise UnsafeModelError(
                f"{path} has {file_size:,} bytes but declares data sets of {declared:,} or more "
                f"(at {name!r}; at most {allowed:,} are allowed). It would exhaust memory and was "
                "refused."
            )
        if name.split("/")[0] not in _OPTIMIZER_GROUPS:
            elements += dataset.size or 0
    return elements


def _datasets(file: h5py.File, path: Path) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every data set with its name, following hard links once each."""
    pending: list[tuple[str, h5py.Group]] = [("", file)]
    seen: set[int] = set()
    count = 0
    while pending:
        prefix, group = pending.pop()
        for key in group:
            count += 1
            if count > MAX_OBJECTS:
                raise UnsafeModelError(
                    f"{path} holds more than {MAX_OBJECTS:,} objects; it was refused."
                )
            name = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise UnsafeModelError(
                    f"{path} links {name!r} to another place. A model must be self-contained; "
                    "it was refused."
                )
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                pending.append((f"{name}/", item))
            elif isinstance(item, h5py.Dataset):
                yield name, item


# --- zip ----------------------------------------------------------------------------------------


def _read_zip(path: Path) -> ModelFile:
    file_size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_members(members, path, file_size)
        names = {member.filename for member in members}
        if any(name.endswith((".pkl", ".pickle")) for name in names):
            raise UnsafeModelError(
                f"{path} is an archive with a Python pickle in it (as PyTorch writes), which could "
                f"run code and is never opened. {_NATIVE_HINT}"
            )
        missing = {_CONFIG_MEMBER, _WEIGHTS_MEMBER} - names
        if missing:
            raise BackboneError(
                f"{path} is a zip archive but not a Keras model: {', '.join(sorted(missing))} "
                f"is missing. {_NATIVE_HINT}"
            )
        config = _parse_config(archive.read(_CONFIG_MEMBER), path)
        version = "3"
        if "metadata.json" in names:
            metadata = _parse_config(archive.read("metadata.json"), path)
            version = str(metadata.get("keras_version", version))
        # HDF5 seeks a lot, and seeking backwards in a member reads it again from its start.
        with tempfile.TemporaryFile() as unpacked:
            with archive.open(_WEIGHTS_MEMBER) as member:
                shutil.copyfileobj(member, unpacked)
            with h5py.File(unpacked, "r") as weights:
                elements = _count_elements(weights, path, file_size)
    return ModelFile(path, "zip", config, version, elements)


def _check_members(members: list[zipfile.ZipInfo], path: Path, file_size: int) -> None:
    if len(members) > MAX_ZIP_MEMBERS:
        raise UnsafeModelError(
            f"{path} holds {len(members):,} members (at most {MAX_ZIP_MEMBERS:,} are allowed)."
        )
    allowed = file_size * MAX_EXPANSION + SLACK_BYTES
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
        if name in seen:
            raise UnsafeModelError(f"{path} holds the member {name!r} twice; it was refused.")
        seen.add(name)
        if name.endswith(".json") and member.file_size > MAX_CONFIG_BYTES:
            raise UnsafeModelError(
                f"{path} holds {name} of {member.file_size:,} bytes (at most "
                f"{MAX_CONFIG_BYTES:,} are allowed)."
            )


# --- both ---------------------------------------------------------------------------------------


def _parse_config(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except RecursionError as error:
        raise UnsafeModelError(f"{path} nests its config too deeply; it was refused.") from error
    except ValueError as error:
        raise BackboneError(f"{path} is damaged: its config is not JSON ({error}).") from error
    if not isinstance(config, dict):
        raise BackboneError(f"{path} is damaged: its config is not a JSON object.")
    return config


def _one_line(error: Exception) -> str:
    return " ".join(f"{error}".split())[:300] or type(error).__name__
