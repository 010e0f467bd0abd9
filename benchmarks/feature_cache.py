"""What the feature cache saves: frozen work done once, against plain Keras that repeats it.

Every training runs in a process of its own, from the same decoded photos and an opened backbone to
a trained model; contestants alternate, and medians over `--repeats` seeds are compared. 30% of the
photos are set aside to measure accuracy. Gradual unfreezing trains the head, then the last 10, 20
and 30% of the layers, in four phases of `--epochs` each; or, as the strategy of that name does by
default, the head and then one more stage in each of four phases of 4 epochs. How many times fewer
multiplications the cache leaves is printed beside. It bounds the ratio only roughly: the first
layers, which a cache saves, take longer for each multiplication than the last.

    python -m benchmarks feature_cache --data photos/ --backbone base_model.keras
"""

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

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
from benchmarks.results import Row
from benchmarks.worth import paired_interval

TRIALS = tuple(
    (dropout, HEAD_RATE * factor)
    for dropout in (0.0, 0.1, 0.2, 0.3, 0.5)
    for factor in (0.3, 1.0, 3.0, 10.0)
)


@dataclass(frozen=True)
class Training:
    """What is trained, and for each peer the least ratio of times, if any."""

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
    parser.add_argument("--only", action="append", help="trainings whose name begins so")


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure each training against its peers."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for training in _trainings(arguments, Path(folder) / "photos.npz"):
            if arguments.only and not training.name.startswith(tuple(arguments.only)):
                continue
            results = _measure(training, repeats=arguments.repeats)
            ours = results.pop(tfinetune.__name__)
            rows += [
                _compare(training.name, ours, peer, theirs, least=training.targets[peer])
                for peer, theirs in results.items()
            ]
    return rows


def _compare(
    name: str, ours: list[Result], peer: str, theirs: list[Result], *, least: float | None
) -> Row:
    own, other = _medians(ours), _medians(theirs)
    gains = [
        100 * (mine.accuracy - yours.accuracy) for mine, yours in zip(ours, theirs, strict=True)
    ]
    mean, low, high = paired_interval(gains)
    interval = f" ({low:+.1f} to {high:+.1f})" if len(gains) > 1 else ""
    return Row(
        name,
        peer,
        value=other.seconds / own.seconds,
        least=least,
        cpu=other.cpu_seconds / own.cpu_seconds,
        ours=f"{own.seconds:.1f} s",
        theirs=f"{other.seconds:.1f} s",
        note=f"accuracy {own.accuracy:.3f}, points over the peer {mean:+.1f}{interval}; "
        f"{own.saving:.1f}x fewer multiplications",
        details={"tfinetune": list(map(vars, ours)), peer: list(map(vars, theirs))},
    )


def _medians(repeats: list[Result]) -> Result:
    columns = zip(*(vars(result).values() for result in repeats), strict=True)
    return Result(*map(statistics.median, columns))


def _trainings(arguments: argparse.Namespace, photos: Path) -> Iterator[Training]:
    with _process() as pool:
        given = (str(arguments.data), str(arguments.backbone), arguments.image_size, str(photos))
        classes, stages = pool.submit(_prepare, *given).result()
    names = sum(stages, ())
    head = Spec(
        data=str(arguments.data),
        backbone=str(arguments.backbone),
        photos=str(photos),
        image_size=arguments.image_size,
        classes=classes,
        epochs=arguments.epochs,
    )
    peer, least = plain_keras.__name__, forward_pass_and_head.__name__
    yield Training("head", head, {peer: 7.0, least: 1 / 1.25})
    augmented = replace(head, augment=True, epochs=2 * head.epochs)
    yield Training("head, augmented", augmented, {peer: 5.0})
    yield Training("head, views kept", augmented, {fresh_views.__name__: None})
    last = names[-round(0.2 * len(names)) :]
    yield Training("last 20% of layers", replace(head, unfreezing=(last,)), {peer: 3.0})
    shares = ((), *(names[-round(share * len(names)) :] for share in (0.1, 0.2, 0.3)))
    yield Training("gradual unfreezing", replace(head, unfreezing=shares), {peer: 2.0})
    ends = ((), *(sum(stages[-count:], ()) for count in (1, 2, 3)))
    by_stages = replace(head, unfreezing=ends, epochs=4)
    yield Training("gradual unfreezing by stages", by_stages, {peer: None})
    yield Training(f"{len(TRIALS)} trainings of a head", replace(head, trials=TRIALS), {peer: 15.0})


def _prepare(
    data: str, backbone: str, image_size: int, photos: str
) -> tuple[int, tuple[tuple[str, ...], ...]]:
    """Write the decoded photos; return the number of classes and the layers' names by group."""
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
    groups = (tuple(layer.name for layer in group.layers) for group in opened.groups)
    return splits.spec.num_classes, tuple(groups)


def _measure(training: Training, *, repeats: int) -> dict[str, list[Result]]:
    running = [c for c in CONTESTANTS if c is tfinetune or c.__name__ in training.targets]
    results: dict[str, list[Result]] = {contestant.__name__: [] for contestant in running}
    for seed in range(repeats):
        spec = replace(training.spec, seed=seed)
        for contestant in running:
            with _process() as pool:
                result = pool.submit(contestant, spec).result()
            print(training.name, contestant.__name__, seed, result, sep="  ", flush=True)
            results[contestant.__name__].append(result)
    return results


def _process() -> ProcessPoolExecutor:
    """Return a fresh process: caches and traced graphs of one contestant help no other."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
