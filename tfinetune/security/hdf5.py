"""Read an HDF5 file to its end, with everything bounded first.

Allowed is a tree of groups and data sets of numbers, each under one name, nothing outside the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tfinetune.errors import BackboneError, UnsafeModelError

MAX_OBJECTS = 20_000
MAX_ATTRIBUTE_BYTES = 64 * 2**20
# Weights hardly compress; a constant kernel does. Deflate reaches 1032:1, which only a bomb needs.
MAX_EXPANSION = 20
SLACK_BYTES = 16 * 2**20

_OPTIMIZER_GROUPS = ("optimizer", "optimizer_weights")


def allowed_bytes(file_size: int) -> int:
    """Return how many bytes a file of `file_size` may unpack to."""
    return file_size * MAX_EXPANSION + SLACK_BYTES


def count_elements(file: h5py.File, path: Path, file_size: int) -> int:
    """Return the number of stored weight elements, having bounded and read every object.

    Raises:
        UnsafeModelError: for links, objects under two names, data that is not numbers, and sizes
            that the file cannot hold.
    """
    allowed = allowed_bytes(file_size)
    declared = elements = 0
    _read_attributes(file, path)
    for name, item in _objects(file, path):
        if isinstance(item, h5py.Dataset):
            _refuse_foreign_data(item, name, path)
            size = item.size or 0
            declared += size * max(item.dtype.itemsize, 1)
            if declared > allowed:
                raise UnsafeModelError(
                    f"{path} has {file_size:,} bytes but declares data sets of {declared:,} or "
                    f"more (at {name!r}; at most {allowed:,} are allowed). It would exhaust "
                    "memory and was refused."
                )
            if name.split("/")[0] not in _OPTIMIZER_GROUPS:
                elements += size
            _read_chunks(item)
        _read_attributes(item, path)
    return elements


def text_attribute(node: h5py.Group, name: str, path: Path) -> str | None:
    """Return a text attribute that `count_elements` has bounded, or None.

    Raises:
        BackboneError: if it is not text.
    """
    value = node.attrs.get(name)
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if value is None or isinstance(value, str):
        return value
    raise BackboneError(f"{path} is damaged: its attribute {name!r} is not text.")


def _refuse_foreign_data(dataset: h5py.Dataset, name: str, path: Path) -> None:
    if dataset.is_virtual or dataset.external:
        raise UnsafeModelError(
            f"{path} keeps the data set {name!r} in another file. A model must be "
            "self-contained; it was refused."
        )
    if dataset.dtype.hasobject:
        # Any number of its elements may point at one large object: the size cannot be bounded.
        raise UnsafeModelError(
            f"{path} holds references or texts of any length in {name!r}. A model's weights are "
            "numbers; it was refused."
        )


def _read_chunks(dataset: h5py.Dataset) -> None:
    """Decode each stored chunk. Without chunks there is nothing to decode, only bytes to copy."""
    if dataset.chunks and dataset.size:
        for chunk in dataset.iter_chunks():
            dataset[chunk]


def _read_attributes(node: h5py.HLObject, path: Path) -> None:
    for name in node.attrs:
        attribute = node.attrs.get_id(name)
        points = attribute.get_space().get_simple_extent_npoints()
        if points * attribute.get_type().get_size() > MAX_ATTRIBUTE_BYTES:
            raise UnsafeModelError(
                f"{path} declares an attribute {name!r} of more than {MAX_ATTRIBUTE_BYTES:,} "
                "bytes; it was refused unread."
            )
        value = node.attrs[name]
        if name.startswith(("layer_names", "weight_names")):
            _refuse_detours(value, path)


def _refuse_detours(names: Any, path: Path) -> None:
    """Refuse "./a" and the like: each is another name for "a", to be read once more."""
    for name in np.ravel(names).tolist():
        text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        if not {"", ".", ".."}.isdisjoint(text.split("/")):
            raise UnsafeModelError(
                f"{path} lists the weight {text!r}, a path with detours; it was refused."
            )


def _objects(file: h5py.File, path: Path) -> Iterator[tuple[str, h5py.HLObject]]:
    """Yield every group and data set below the root with its name."""
    pending: list[tuple[str, h5py.Group]] = [("", file)]
    seen = {h5py.h5o.get_info(file.id).addr}
    while pending:
        prefix, group = pending.pop()
        for key in group:
            name = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise UnsafeModelError(
                    f"{path} links {name!r} to another place. A model must be self-contained; "
                    "it was refused."
                )
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise UnsafeModelError(
                    f"{path} holds one object under two names, {name!r} being the second; it "
                    "was refused."
                )
            seen.add(address)
            if len(seen) > MAX_OBJECTS:
                raise UnsafeModelError(
                    f"{path} holds more than {MAX_OBJECTS:,} objects; it was refused."
                )
            if isinstance(item, h5py.Group):
                pending.append((f"{name}/", item))
            yield name, item
