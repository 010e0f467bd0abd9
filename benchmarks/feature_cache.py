"""What the feature cache saves: frozen work done once, against plain Keras that repeats it.

Every training runs in a process of its own, from the same decoded photos and an opened backbone to
a trained model; contestants alternate, and medians over `--repeats` seeds are compared. 30% of the
photos are set aside to measure accuracy. Gradual unfreezing trains the head, then the last 10, 20
and 30% of the layers, in four phases of `--epochs` each.

    python -m benchmarks feature_cache --data photos/ --backbone base_model.keras
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.feature_cache_trial import (
    CONTESTANTS,
    HEAD_RATE,
    Result,
    Spec,
    forward_pass_and_head,
    fresh_views,
    plain_keras,
    tfinetune,
)

TRIALS = tuple(
    (dropout, HEAD_RATE * factor)
    for dropout in (0.0, 0.1, 0.2, 0.3, 0.5)
    for factor in (0.3, 1.0, 3.0, 10.0)
)


@dataclass(frozen=True)
class Row:
    """One comparison: what is trained, and for each peer the least ratio of times, if any."""

    name: str
    spec: Spec
    targets: dict[str, float | None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks feature_cache`."""
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per class")
    parser.add_argument(
        "--backbone", type=Path, required=True, help="model without top that expects [-1, 1]"
    )
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=10, help="twice as many with augmentation")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", action="append", help="rows whose name begins so")
    parser.add_argument("--results", type=Path, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Measure each row and print its ratios."""
    table = Table(title=f"{arguments.data.name}, {arguments.backbone.name}", title_justify="left")
    for column in ("training", "contestant", "seconds", "accuracy", "times as long", "at least"):
        table.add_column(
            column, justify="left" if column in ("training", "contestant") else "right"
        )
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for row in _rows(arguments, Path(folder) / "photos.npz"):
            if arguments.only and not row.name.startswith(tuple(arguments.only)):
                continue
            results = _measure(row, repeats=arguments.repeats)
            ours = _medians(results[tfinetune.__name__])
            for name, repeats in results.items():
                theirs, target = _medians(repeats), row.targets.get(name)
                cells = [row.name, name, f"{theirs.seconds:.1f}", f"{theirs.cpu_seconds:.1f}"]
                cells.append(f"{theirs.accuracy:.3f}")
                if name in row.targets:
                    wall = theirs.seconds / ours.seconds
                    cpu = theirs.cpu_seconds / ours.cpu_seconds
                    cells += [f"{wall:.2f}", f"{cpu:.2f}", f"{target:.2f}" if target else ""]
                print(*cells, sep="  ", flush=True)
                table.add_row(*cells)
                measured.append(
                    {"training": row.name, "contestant": name, "repeats": list(map(vars, repeats))}
                )
    Console().print(table)
    if arguments.results:
        arguments.results.write_text(json.dumps(measured, indent=2), encoding="utf-8")


def _medians(repeats: list[Result]) -> Result:
    columns = zip(*(vars(result).values() for result in repeats), strict=True)
    return Result(*map(statistics.median, columns))


def _rows(arguments: argparse.Namespace, photos: Path) -> Iterator[Row]:
    with _process() as pool:
        given = (str(arguments.data), str(arguments.backbone), arguments.image_size, str(photos))
        classes, names = pool.submit(_prepare, *given).result()
    head = Spec(
        data=str(arguments.data),
        backbone=str(arguments.backbone),
        photos=str(photos),
        image_size=arguments.image_size,
        classes=classes,
        epochs=arguments.epochs,
    )
    peer, least = plain_keras.__name__, forward_pass_and_head.__name__
    yield Row("head", head, {peer: 7.0, least: 1 / 1.25})
    augmented = replace(head, augment=True, epochs=2 * head.epochs)
    yield Row("head, augmented", augmented, {peer: 5.0, fresh_views.__name__: None})
    last = names[-round(0.2 * len(names)) :]
    yield Row("last 20% of layers", replace(head, unfreezing=(last,)), {peer: 3.0})
    steps = ((), *(names[-round(share * len(names)) :] for share in (0.1, 0.2, 0.3)))
    yield Row("gradual unfreezing", replace(head, unfreezing=steps), {peer: 2.0})
    yield Row(f"{len(TRIALS)} trainings of a head", replace(head, trials=TRIALS), {peer: 15.0})


def _prepare(data: str, backbone: str, image_size: int, photos: str) -> tuple[int, tuple[str, ...]]:
    """Write the decoded photos; return the number of classes and the layers' names."""
    import tfinetune as ft

    splits = ft.data.from_image_folder(data, image_size=image_size, validation=0, test=0.3)
    np.savez(
        photos,
        train_images=splits.train.images(),
        train_labels=splits.train.labels,
        test_images=splits.test.images(),
        test_labels=splits.test.labels,
    )
    opened = ft.load_backbone(backbone, image_size=image_size)
    return splits.spec.num_classes, tuple(layer.name for layer in opened.model.layers)


def _measure(row: Row, *, repeats: int) -> dict[str, list[Result]]:
    running = [c for c in CONTESTANTS if c is tfinetune or c.__name__ in row.targets]
    results: dict[str, list[Result]] = {contestant.__name__: [] for contestant in running}
    for seed in range(repeats):
        spec = replace(row.spec, seed=seed)
        for contestant in running:
            with _process() as pool:
                results[contestant.__name__].append(pool.submit(contestant, spec).result())
    return results


def _process() -> ProcessPoolExecutor:
    """Return a fresh process: caches and traced graphs of one contestant help no other."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
