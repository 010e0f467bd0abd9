"""Open a data set: from where it lies to `Splits`."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfinetune.data.decode import ASPECTS, Aspect
from tfinetune.data.folders import Candidate, find_candidates
from tfinetune.data.partition import partition
from tfinetune.data.quality import Duplicates, find_duplicates
from tfinetune.data.scan import Progress, Scan, scan_files
from tfinetune.data.splits import (
    DataSpec,
    DuplicateGroup,
    Quarantined,
    Split,
    Splits,
    count_labels,
    fingerprint,
    split_fingerprint,
)
from tfinetune.errors import DataError

SPLIT_NAMES = ("train", "validation", "test")
_EXAMPLES_SHOWN = 10


def from_image_folder(
    directory: str | Path,
    *,
    image_size: int | tuple[int, int] = 224,
    aspect: Aspect = "stretch",
    validation: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    memory_limit: int = 2 * 2**30,
    progress: Progress | None = None,
) -> Splits:
    """Read photos that are sorted into one folder per class.

    Every file is decoded once. Bad images are set aside with their reason, files that are no images
    are ignored and counted, and photos that show the same stay on one side of a split.

    Args:
        directory: `directory/class/*`, or `directory/{train,validation,test}/class/*`, whose
            division is kept; a validation split is carved from train where it has none.
        image_size: side, or height and width, of the decoded photos in pixels.
        aspect: "stretch", "crop" or "pad", for photos of other proportions.
        validation, test: shares of each class to hold out, 0 or more, together less than 1.
        seed: of the division.
        memory_limit: bytes that all decoded photos may occupy to be kept in memory; beyond that
            they are decoded again in every epoch.
        progress: called with (files done, files in all).

    Raises:
        DataError: if the folder is missing or empty, has one class only, a class without any
            usable photo, or a class that the training folder lacks; or an argument is out of range.

    Example:
        >>> splits = from_image_folder("photos/", image_size=160)
        >>> splits.spec.class_names
        ('cat', 'dog')
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    _check_arguments((height, width), aspect, validation, test)
    directory = Path(directory)
    candidates, strays = find_candidates(directory)
    if not candidates:
        raise DataError(
            f"No photo was found in {directory}. Expected one sub-folder per class with images "
            f"in it; found {len(strays)} other files."
        )
    scan = scan_files(
        [candidate.path for candidate in candidates],
        image_size=(height, width),
        aspect=aspect,
        keep_pixels=len(candidates) * height * width * 3 <= memory_limit,
        progress=progress,
    )
    class_names = _check_classes(directory, candidates, scan)
    photos = [candidates[i] for i in scan.usable]
    labels = np.array([class_names.index(photo.class_name) for photo in photos], np.int32)
    duplicates = find_duplicates(scan.thumbnails, scan.sha256)
    assignment = _assign(photos, labels, duplicates, validation=validation, test=test, seed=seed)
    pixels = None
    if scan.pixels is not None:
        with tf.device("CPU:0"):
            pixels = tf.convert_to_tensor(scan.pixels)
    splits = {}
    for name in SPLIT_NAMES:
        rows = np.flatnonzero(assignment == name)
        ids = tuple(photos[row].id for row in rows)
        splits[name] = Split(
            name=name,
            ids=ids,
            paths=tuple(photos[row].path for row in rows),
            labels=labels[rows],
            num_classes=len(class_names),
            image_size=(height, width),
            aspect=aspect,
            fingerprint=split_fingerprint(
                ids,
                [scan.sha256[row] for row in rows],
                labels[rows],
                image_size=(height, width),
                aspect=aspect,
            ),
            _pixels=pixels,
            _rows=rows,
        )
    ids = [photo.id for photo in photos]
    spec = DataSpec(
        image_size=(height, width),
        aspect=aspect,
        class_names=class_names,
        counts={n: count_labels(s.labels, len(class_names)) for n, s in splits.items() if len(s)},
        fingerprint=fingerprint(
            [
                class_names,
                *zip(ids, scan.sha256, labels.tolist(), assignment.tolist(), strict=True),
            ]
        ),
    )
    strays = sorted(strays + [candidates[i].id for i in scan.foreign])
    return Splits(
        train=splits["train"],
        validation=splits["validation"] if len(splits["validation"]) else None,
        test=splits["test"] if len(splits["test"]) else None,
        spec=spec,
        quarantine=tuple(Quarantined(candidates[i].id, r) for i, r in scan.failures.items()),
        ignored=len(strays),
        ignored_examples=tuple(strays[:_EXAMPLES_SHOWN]),
        duplicates=tuple(_describe(group, ids, labels, assignment) for group in duplicates),
        notes=_notes(spec),
    )


def _check_arguments(
    image_size: tuple[int, int], aspect: str, validation: float, test: float
) -> None:
    if min(image_size) < 1:
        raise DataError(f"image_size={image_size} is not a size: give a side of 1 pixel or more.")
    if aspect not in ASPECTS:
        raise DataError(f"Unknown aspect {aspect!r}. Known: {', '.join(ASPECTS)}.")
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise DataError(
            f"Cannot hold out validation={validation} and test={test}: each must be 0 or more, and "
            "together they must leave photos to train on (less than 1)."
        )


def _check_classes(directory: Path, candidates: Sequence[Candidate], scan: Scan) -> tuple[str, ...]:
    """Return the sorted class names, or raise what is wrong with them."""
    candidates_of = defaultdict(list)
    foreign = set(scan.foreign)
    for index, candidate in enumerate(candidates):
        if index not in foreign:
            candidates_of[candidate.class_name].append(index)
    usable = set(scan.usable.tolist())
    class_names = tuple(sorted(candidates_of))
    if not usable:
        reason = next(iter(scan.failures.values()), "no file is an image")
        raise DataError(
            f"No photo in {directory} can be used: {len(scan.failures)} images were set aside "
            f"(first: {reason}) and {len(foreign)} files are no images."
        )
    if len(class_names) < 2:
        raise DataError(
            f"{directory} has one class only, {class_names[0]!r}; a classifier needs two or more. "
            "Expected one sub-folder per class."
        )
    empty = [name for name in class_names if not usable.intersection(candidates_of[name])]
    if empty:
        index = candidates_of[empty[0]][0]
        raise DataError(
            f"{len(empty)} of {len(class_names)} classes in {directory} have no usable photo: "
            f"{', '.join(empty)}. First reason: {candidates[index].id}: {scan.failures[index]}. "
            "Add photos or remove these folders."
        )
    trained = {candidates[i].class_name for i in usable if candidates[i].split in (None, "train")}
    missing = [name for name in class_names if name not in trained]
    if missing:
        raise DataError(
            f"{len(missing)} classes in {directory} have no usable photo in the train folder: "
            f"{', '.join(missing)}. Add photos there or remove these classes elsewhere."
        )
    return class_names


def _assign(
    photos: Sequence[Candidate],
    labels: np.ndarray,
    duplicates: Sequence[Duplicates],
    *,
    validation: float,
    test: float,
    seed: int,
) -> np.ndarray:
    """Return the name of each photo's split: as given, or carved."""
    given = {photo.split for photo in photos}
    assignment = np.array([photo.split or "train" for photo in photos], dtype=object)
    # Given folders are used as they are: a missing test folder stays missing.
    fractions = {"validation": validation, "test": test} if given == {None} else {}
    if given != {None} and "validation" not in given:
        fractions = {"validation": validation}
    carved = np.flatnonzero(assignment == "train")
    place = {index: at for at, index in enumerate(carved.tolist())}
    groups = [[place[i] for i in group.members if i in place] for group in duplicates]
    parts = partition(
        labels[carved],
        groups=[group for group in groups if len(group) > 1],
        fractions=fractions,
        seed=seed,
    )
    assignment[carved] = np.array(["train", *fractions], dtype=object)[parts]
    return assignment


def _describe(
    group: Duplicates, ids: Sequence[str], labels: np.ndarray, assignment: np.ndarray
) -> DuplicateGroup:
    members = list(group.members)
    present = set(assignment[members])
    return DuplicateGroup(
        kind=group.kind,
        ids=tuple(ids[i] for i in members),
        splits=tuple(name for name in SPLIT_NAMES if name in present),
        conflicting_labels=len(set(labels[members].tolist())) > 1,
    )


def _notes(spec: DataSpec) -> tuple[str, ...]:
    notes = []
    held_out = [name for name in SPLIT_NAMES[1:] if name in spec.counts]
    for label, class_name in enumerate(spec.class_names):
        absent = [name for name in held_out if spec.counts[name][label] == 0]
        if absent:
            count = sum(counts[label] for counts in spec.counts.values())
            notes.append(
                f"Class {class_name!r} has too few distinct photos to hold out ({count} in all): "
                f"none in {' and '.join(absent)}."
            )
    return tuple(notes)
