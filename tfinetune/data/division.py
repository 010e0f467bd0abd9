"""Divide examples into splits, and say what a reader of the results should know about that."""

from collections.abc import Callable, Sequence

import numpy as np

from tfinetune.data.decode import DECODER_VERSION
from tfinetune.data.examples import Arrays, Photos
from tfinetune.data.fit import Aspect
from tfinetune.data.quality import Duplicates
from tfinetune.data.splits import (
    DataSpec,
    DuplicateGroup,
    InputSpec,
    Split,
    Splits,
    count_labels,
    fingerprint,
)
from tfinetune.errors import DataError

SPLIT_NAMES = ("train", "validation", "test")


def check_fractions(*, validation: float, test: float, seed: int) -> None:
    """Refuse shares that leave nothing to train on.

    Raises:
        DataError: if they do, or `seed` is negative.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise DataError(
            f"Cannot hold out validation={validation} and test={test}: each must be 0 or more, and "
            "together they must leave examples to train on (less than 1)."
        )
    if seed < 0:
        raise DataError(f"seed={seed} is not a seed: give a whole number of 0 or more.")


def divide(
    examples: Callable[[np.ndarray], Photos | Arrays],
    *,
    assignment: np.ndarray,
    inputs: dict[str, InputSpec],
    aspect: Aspect,
    ids: Sequence[str],
    checksums: Sequence[str],
    labels: np.ndarray,
    class_names: tuple[str, ...],
    duplicates: Sequence[Duplicates],
    carved: Sequence[str],
) -> Splits:
    """Make `Splits` of examples whose split is decided.

    Args:
        examples: gives those of some rows.
        assignment: name of the split of each row.
        inputs: what an example consists of.
        aspect: how photos were made to fit.
        ids, checksums, labels: of each row.
        class_names: what a label is an index into.
        duplicates: groups of rows that show the same.
        carved: names of the splits that were held out at random.
    """
    way = (DECODER_VERSION, *inputs.items(), aspect)
    splits = {}
    for name in SPLIT_NAMES:
        rows = np.flatnonzero(assignment == name)
        rows_of = [(ids[row], checksums[row], int(labels[row])) for row in rows]
        splits[name] = Split(
            name=name,
            ids=tuple(ids[row] for row in rows),
            labels=labels[rows],
            num_classes=len(class_names),
            examples=examples(rows),
            fingerprint=fingerprint([way, *rows_of]),
        )
    counts = {n: count_labels(s.labels, len(class_names)) for n, s in splits.items() if len(s)}
    everything = zip(ids, checksums, labels.tolist(), assignment.tolist(), strict=True)
    spec = DataSpec(
        inputs=inputs,
        aspect=aspect,
        class_names=class_names,
        counts=counts,
        fingerprint=fingerprint([class_names, *everything]),
    )
    return Splits(
        train=splits["train"],
        validation=splits["validation"] if len(splits["validation"]) else None,
        test=splits["test"] if len(splits["test"]) else None,
        spec=spec,
        duplicates=tuple(_describe(group, ids, labels, assignment) for group in duplicates),
        notes=_notes(spec, carved=carved),
    )


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


def _notes(spec: DataSpec, *, carved: Sequence[str]) -> tuple[str, ...]:
    """Say which classes cannot be measured, and why."""
    notes = []
    given = [name for name in SPLIT_NAMES[1:] if name in spec.counts and name not in carved]
    none = dict.fromkeys(range(spec.num_classes), 0)
    for label, class_name in enumerate(spec.class_names):
        counts = {name: spec.counts.get(name, none)[label] for name in ("train", *carved)}
        count = sum(counts.values())
        absent = [name for name in carved if counts[name] == 0]
        # Free photos in such numbers would have been held out.
        if absent and count > len(carved):
            notes.append(
                f"Class {class_name!r} cannot be held out: too many of its {count} examples "
                "are copies or near-duplicates of each other, which stay together: "
                f"none in {' and '.join(absent)}."
            )
        elif absent:
            notes.append(
                f"Class {class_name!r} has too few distinct examples to hold out ({count} in all): "
                f"none in {' and '.join(absent)}."
            )
        notes += [
            f"The given {name} folder has no photo of class {class_name!r}: nothing is measured "
            "for it there."
            for name in given
            if spec.counts[name][label] == 0
        ]
    return tuple(notes)
