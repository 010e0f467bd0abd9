"""Open a folder of photos: from files to `Splits`."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tfinetune.data.division import check_fractions, divide
from tfinetune.data.examples import Photos
from tfinetune.data.fit import ASPECTS, Aspect
from tfinetune.data.folders import Candidate, find_candidates, find_classes
from tfinetune.data.partition import partition
from tfinetune.data.pixels import DiskStore, MemoryStore, PixelStore
from tfinetune.data.quality import Duplicates, find_duplicates
from tfinetune.data.scan import Progress, Scan, scan_files
from tfinetune.data.splits import InputSpec, Quarantined, Splits
from tfinetune.errors import DataError

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
    scratch: str | Path | None = None,
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
        seed: of the division, 0 or more.
        memory_limit: bytes that decoded photos may occupy. To be kept in memory they need twice
            their size (height x width x 3 bytes each) while the folder is read, once afterwards;
            where that is more, they go to `scratch`.
        scratch: folder with room for a file of all decoded photos, which vanishes with the process.
            Without it, or where the disk is full, they are decoded again in every epoch.
        progress: called with (files done, files in all).

    Raises:
        DataError: if the folder is missing, empty or unreadable, has one class only, a class
            without any usable photo, no training folder beside a validation or test folder, or a
            class that the training folder lacks; or an argument is out of range.

    Example:
        >>> splits = from_image_folder("photos/", image_size=160)
        >>> splits.spec.class_names
        ('cat', 'dog')
    """
    sides = np.ravel(image_size).tolist()
    image_size = tuple(sides * 2 if len(sides) == 1 else sides)
    _check_decoding(image_size, aspect)
    check_fractions(validation=validation, test=test, seed=seed)
    directory = Path(directory)
    class_names = find_classes(directory)
    candidates, strays = find_candidates(directory)
    if not candidates:
        raise DataError(
            f"No photo was found in {directory}. Expected one sub-folder per class with images "
            f"in it; found {len(strays)} other files."
        )
    if all(candidate.split in ("validation", "test") for candidate in candidates):
        raise DataError(
            f"{directory} is divided into training, validation and test folders but has no photo "
            "to train on. Add a train folder with one sub-folder per class, or pass a folder that "
            "holds the classes themselves."
        )
    # Twice: as they are read, and as the tensor that they become.
    fits = 2 * len(candidates) * math.prod(image_size) * 3 <= memory_limit
    store = MemoryStore(image_size) if fits else None
    if scratch is not None and not fits:
        store = DiskStore(scratch, image_size)
    scan = scan_files(
        [candidate.path for candidate in candidates],
        image_size=image_size,
        aspect=aspect,
        store=store,
        progress=progress,
    )
    _check_classes(directory, class_names, candidates, scan)
    photos = [candidates[i] for i in scan.usable]
    labels = np.array([class_names.index(photo.class_name) for photo in photos], np.int32)
    duplicates = find_duplicates(scan.thumbnails, scan.sha256)
    fractions = _to_carve(photos, validation=validation, test=test)
    assignment = _assign(photos, labels, duplicates, fractions=fractions, seed=seed)

    def examples(rows: np.ndarray) -> Photos:
        return Photos(
            image_size=image_size,
            aspect=aspect,
            paths=tuple(photos[row].path for row in rows),
            pixels=scan.pixels,
            rows=scan.rows[rows],
            extents=scan.extents[rows],
        )

    splits = divide(
        examples,
        assignment=assignment,
        inputs={"image": InputSpec((*image_size, 3), "float32", "image")},
        aspect=aspect,
        ids=[photo.id for photo in photos],
        checksums=scan.sha256,
        labels=labels,
        class_names=class_names,
        duplicates=duplicates,
        carved=[name for name, share in fractions.items() if share > 0],
    )
    strays = sorted(strays + [candidates[i].id for i in scan.foreign])
    return replace(
        splits,
        quarantine=tuple(Quarantined(candidates[i].id, r) for i, r in scan.failures.items()),
        ignored=len(strays),
        ignored_examples=tuple(strays[:_EXAMPLES_SHOWN]),
        notes=(*splits.notes, *_scratch_notes(store, scratch)),
    )


def _scratch_notes(store: PixelStore | None, scratch: str | Path | None) -> list[str]:
    if not isinstance(store, DiskStore) or store.failure is None:
        return []
    return [
        f"The decoded photos could not be kept in {scratch} ({store.failure}): they are decoded "
        "again in every epoch."
    ]


def _check_decoding(image_size: tuple, aspect: str) -> None:
    if len(image_size) != 2 or not all(isinstance(s, int) and s >= 1 for s in image_size):
        raise DataError(
            f"image_size={image_size} is not a size: give a side of 1 pixel or more, or height and "
            "width."
        )
    if aspect not in ASPECTS:
        raise DataError(f"Unknown aspect {aspect!r}. Known: {', '.join(ASPECTS)}.")


def _check_classes(
    directory: Path, class_names: Sequence[str], candidates: Sequence[Candidate], scan: Scan
) -> None:
    """Raise what is wrong with the classes."""
    usable = [candidates[index] for index in scan.usable]
    if not usable:
        reason = next(iter(scan.failures.values()), "no file is an image")
        raise DataError(
            f"No photo in {directory} can be used: {len(scan.failures)} images were set aside "
            f"(first: {reason}) and {len(scan.foreign)} files are no images."
        )
    if len(class_names) < 2:
        raise DataError(
            f"{directory} has one class only, {class_names[0]!r}; a classifier needs two or more. "
            "Expected one sub-folder per class."
        )
    empty = sorted(set(class_names).difference(photo.class_name for photo in usable))
    if empty:
        failed = [i for i in scan.failures if candidates[i].class_name == empty[0]]
        reason = f"{empty[0]} holds no image file"
        if failed:
            reason = f"{candidates[failed[0]].id}: {scan.failures[failed[0]]}"
        raise DataError(
            f"{len(empty)} of {len(class_names)} classes in {directory} have no usable photo: "
            f"{', '.join(empty)}. First reason: {reason}. Add photos or remove these folders."
        )
    trained = {photo.class_name for photo in usable if photo.split in (None, "train")}
    missing = [name for name in class_names if name not in trained]
    if missing:
        raise DataError(
            f"{len(missing)} classes in {directory} have no usable photo in the train folder: "
            f"{', '.join(missing)}. Add photos there or remove these classes elsewhere."
        )


def _to_carve(photos: Sequence[Candidate], *, validation: float, test: float) -> dict[str, float]:
    """Return the share of the training photos to hold out for each split that is not given."""
    given = {photo.split for photo in photos}
    if given == {None}:
        return {"validation": validation, "test": test}
    # Given folders are used as they are: a missing test folder stays missing.
    return {} if "validation" in given else {"validation": validation}


def _assign(
    photos: Sequence[Candidate],
    labels: np.ndarray,
    duplicates: Sequence[Duplicates],
    *,
    fractions: dict[str, float],
    seed: int,
) -> np.ndarray:
    """Return the name of each photo's split: as given, or carved."""
    assignment = np.array([photo.split or "train" for photo in photos], dtype=object)
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
