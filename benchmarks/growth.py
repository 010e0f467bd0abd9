"""How cost grows: time and peak memory over images, epochs and trials, each point a fresh process.

Photos are cut from scikit-learn's two pictures, with noise so that no two are alike, and lie on
disk as JPEG files; decoded ones may take 32 MiB of memory, so that larger folders are read again
in every epoch. The backbone is the embedded one. A trial is a linear probe with another dropout and
seed, all on one feature cache.

    python -m benchmarks growth --picture runs/growth.png
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.results import Row

POINTS = {"images": (1_000, 4_000, 16_000), "epochs": (1, 10, 50), "trials": (1, 10, 50)}
UNIT = {"images": 1_000, "epochs": 1, "trials": 1}
"""What the other two are while one grows."""
SIDE = 64
MEMORY_LIMIT = 32 * 2**20
LEAST_FLAT = 1 / 1.1
"""Memory that grows by a tenth counts as flat."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks growth`."""
    parser.add_argument("--axis", action="append", choices=list(POINTS), help="these only")
    parser.add_argument("--picture", type=Path, help="PNG file to write")


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure every point, compare neighbours, and plot."""
    points = []
    with tempfile.TemporaryDirectory() as scratch:
        for axis in arguments.axis or POINTS:
            for value in POINTS[axis]:
                point = {**UNIT, axis: value}
                folder = Path(scratch) / str(point["images"])
                if not folder.exists():
                    write_photos(folder, point["images"])
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.growth",
                    str(folder),
                    json.dumps(point),
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{axis} {value} failed:\n{done.stderr[-3000:]}")
                points.append(
                    {"axis": axis, "value": value, **json.loads(done.stdout.splitlines()[-1])}
                )
                print(points[-1], flush=True)
    if arguments.picture:
        plot(points, arguments.picture)
    neighbours = itertools.pairwise(points)
    return [row for a, b in neighbours if a["axis"] == b["axis"] for row in compare_points(a, b)]


def compare_points(before: dict, after: dict) -> list[Row]:
    """Hold the growth from one point to the next against growth in proportion."""
    name = f"{before['value']:,} to {after['value']:,} {after['axis']}"
    factor = after["value"] / before["value"]
    time_factor = _seconds(after) / _seconds(before)
    memory_factor = after["peak_mib"] / before["peak_mib"]
    details = {"before": before, "after": after}
    return [
        Row(
            f"{name}, time",
            "time in proportion",
            value=factor / time_factor,
            least=1.0,
            ours=f"{time_factor:.1f} times {_seconds(before):.1f} s",
            theirs=f"{factor:g} times",
            details=details,
        ),
        Row(
            f"{name}, memory",
            "memory that stays",
            value=1 / memory_factor,
            least=LEAST_FLAT,
            ours=f"{memory_factor:.2f} times {before['peak_mib']:,} MiB",
            theirs="1 times",
            details=details,
        ),
    ]


def write_photos(folder: Path, count: int) -> None:
    """Write JPEG photos of two classes."""
    from PIL import Image

    from benchmarks.augmentation import cut_photos

    random = np.random.default_rng(count)
    photos = cut_photos(min(count, 1_000), side=SIDE)
    for name in ("china", "flower"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        photo = photos[index % len(photos)] + random.normal(0, 40, photos.shape[1:])
        name = ("china", "flower")[index % 2]
        pixels = np.clip(photo, 0, 255).astype("uint8")
        Image.fromarray(pixels).save(folder / name / f"{index:06d}.jpg")


def measure(folder: Path, *, images: int, epochs: int, trials: int) -> dict[str, float]:
    """Read a folder, then train; return seconds of each and the peak of resident memory in MiB."""
    import tfinetune as ft
    from tfinetune.training import FeatureCache
    from tfinetune.workflow.prepare import EMBEDDED_BACKBONE

    started = time.perf_counter()
    splits = ft.data.from_image_folder(
        folder, image_size=32, validation=0.1, test=0, memory_limit=MEMORY_LIMIT
    )
    read = time.perf_counter()
    cache = FeatureCache()
    for trial in range(trials):
        tuner = ft.FineTuner(
            EMBEDDED_BACKBONE, splits.spec, dropout=trial / 100, seed=trial, cache=cache
        )
        strategy = ft.strategies.LinearProbe()
        if trials == 1:
            strategy = ft.strategies.LPFT(epochs=epochs)
        tuner.fit(splits, strategy)
    trained = time.perf_counter()
    return {
        "reading_seconds": round(read - started, 2),
        "training_seconds": round(trained - read, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def plot(rows: list[dict], path: Path) -> None:
    """Draw seconds and memory over each axis."""
    import matplotlib.pyplot as plt

    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure, panels = plt.subplots(2, len(axes), figsize=(4 * len(axes), 6), squeeze=False)
    for column, axis in enumerate(axes):
        some = [row for row in rows if row["axis"] == axis]
        values = [row["value"] for row in some]
        seconds = [row["reading_seconds"] + row["training_seconds"] for row in some]
        panels[0, column].plot(values, seconds, marker="o")
        panels[1, column].plot(values, [row["peak_mib"] for row in some], marker="o")
        panels[0, column].set(title=axis, ylabel="seconds", ylim=(0, None))
        panels[1, column].set(xlabel=axis, ylabel="peak memory, MiB", ylim=(0, None))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _seconds(row: dict) -> float:
    return row["reading_seconds"] + row["training_seconds"]


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), **json.loads(sys.argv[2]))))
