"""Open a data set that is in memory: arrays and labels to `Splits`."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfinetune.data.division import check_fractions, divide
from tfinetune.data.examples import Arrays, Photos
from tfinetune.data.partition import partition
from tfinetune.data.quality import Duplicates
from tfinetune.data.splits import InputSpec, Splits
from tfinetune.errors import DataError


def from_arrays(
    features: np.ndarray | Mapping[str, np.ndarray],
    labels: Sequence[Any],
    *,
    class_names: Sequence[str] | None = None,
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
) -> Splits:
    """Divide examples in memory: images, tables, sequences, texts, or several inputs of one model.

    Equal examples stay on one side of the split.

    Args:
        features: array `[n, …]`, or one for each input of the model by its name. Strings are texts.
            A single array `[n, height, width, 1 or 3]` holds images of 0..255.
        labels: `[n]`: class names, or indices into `class_names`.
        class_names: names of the classes that `labels` counts. Default: the labels, sorted.
        validation, test: shares of each class to hold out, 0 or more, together less than 1.
        seed: of the division, 0 or more.

    Raises:
        DataError: if arrays and labels differ in length, a value is not finite, images are not in
            0..255, or there is one class only.

    Example:
        >>> table = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
        >>> splits = from_arrays(table, ["a", "b"] * 20)
        >>> splits.spec.class_names, len(splits.train)
        (('a', 'b'), 28)
    """
    check_fractions(validation=validation, test=test, seed=seed)
    single = not isinstance(features, Mapping)
    arrays = {"input": features} if single else dict(features)
    arrays = {name: _checked(name, array) for name, array in arrays.items()}
    indices, names = _class_indices(labels, class_names)
    lengths = {**{name: len(array) for name, array in arrays.items()}, "labels": len(indices)}
    if not arrays or len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"Every array needs one row for each example; received rows: {shown}.")
    is_image = single and _is_image(arrays["input"])
    if is_image:
        arrays = {"image": _pixels(arrays["input"])}
    checksums = [_checksum(array[row] for array in arrays.values()) for row in range(len(indices))]
    duplicates = _equal_rows(checksums)
    fractions = {"validation": validation, "test": test}
    groups = [group.members for group in duplicates]
    parts = partition(indices, groups=groups, fractions=fractions, seed=seed)
    with tf.device("CPU:0"):
        values = {name: tf.constant(array) for name, array in arrays.items()}

    def examples(rows: np.ndarray) -> Photos | Arrays:
        if is_image:
            size = tuple(arrays["image"].shape[1:3])
            return Photos(
                image_size=size, aspect="stretch", paths=(), pixels=values["image"], rows=rows
            )
        return Arrays(values["input"] if single else values, rows)

    return divide(
        examples,
        assignment=np.array(["train", *fractions], dtype=object)[parts],
        inputs={name: _input_spec(array, is_image) for name, array in arrays.items()},
        aspect="stretch",
        ids=[str(row) for row in range(len(indices))],
        checksums=checksums,
        labels=indices,
        class_names=names,
        duplicates=duplicates,
        carved=[name for name, share in fractions.items() if share > 0],
    )


def _checked(name: str, array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind in "OU":
        array = array.astype(str).astype(object)
    elif array.dtype.kind == "f":
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError(
                f"The array {name!r} holds {np.count_nonzero(~np.isfinite(array))} values that are "
                "not finite. Fill or drop the missing ones."
            )
    elif array.dtype.kind not in "biuS":
        raise DataError(
            f"The array {name!r} has type {array.dtype}. Allowed: numbers, booleans and strings."
        )
    if array.ndim == 0:
        raise DataError(f"The array {name!r} is a single value, not one row for each example.")
    return array


def _class_indices(
    labels: Sequence[Any], class_names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise DataError(
            f"labels must be one class for each example [n]; received shape {list(labels.shape)}."
        )
    if class_names is None:
        found, indices = np.unique(labels, return_inverse=True)
        class_names = [str(name) for name in found.tolist()]
    else:
        indices = labels
        if labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < len(class_names))).all():
            raise DataError(
                f"With class_names, labels are whole numbers from 0 to {len(class_names) - 1}."
            )
    if len(class_names) < 2:
        raise DataError("There is one class only; a classifier needs two or more.")
    absent = sorted(set(range(len(class_names))).difference(indices.tolist()))
    if absent:
        raise DataError(f"No example is of the class {class_names[absent[0]]!r}.")
    return indices.astype(np.int32), tuple(class_names)


def _is_image(array: np.ndarray) -> bool:
    return array.ndim == 4 and array.shape[-1] in (1, 3) and array.dtype.kind in "uif"


def _pixels(images: np.ndarray) -> np.ndarray:
    low, high = images.min(initial=255), images.max(initial=0)
    if low < 0 or high > 255 or (images.dtype.kind == "f" and high <= 1):
        raise DataError(
            f"Images must hold pixels of 0..255; these run from {low:g} to {high:g}. Scale them "
            "back: the model scales pixels to what its backbone expects."
        )
    pixels = np.rint(images).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _input_spec(array: np.ndarray, is_image: bool) -> InputSpec:
    if is_image:
        return InputSpec(array.shape[1:], "float32", "image")
    is_text = array.dtype.kind in "OS"
    dtype = "string" if is_text else array.dtype.name
    return InputSpec(array.shape[1:], dtype, "text" if is_text else "array")


def _checksum(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(
            repr(np.asarray(part).tolist()).encode()
            if np.asarray(part).dtype == object
            else np.ascontiguousarray(part).tobytes()
        )
    return digest.hexdigest()


def _equal_rows(checksums: Sequence[str]) -> list[Duplicates]:
    rows: dict[str, list[int]] = {}
    for row, checksum in enumerate(checksums):
        rows.setdefault(checksum, []).append(row)
    return [Duplicates("exact", tuple(group)) for group in rows.values() if len(group) > 1]
