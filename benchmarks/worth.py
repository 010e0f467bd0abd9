"""What tfinetune is worth: accuracy and time against the keras.io transfer-learning recipe.

For each split seed, 30% of the photos are set aside for testing and every contestant learns from
the other 70% in a process of its own; their order rotates from seed to seed. Time runs from photo
files on disk to a trained model, without imports and without the test. Paired differences over the
seeds come with a 95% t-interval. Finished trials are kept in `--trials`, so that an interrupted
benchmark continues; another file, or none there, measures anew.

    python -m benchmarks worth --data photos/ --backbone base_model.keras --seeds 5
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.results import Row
from benchmarks.trial import Spec, write_spec

PEER = "recipe"
GIVEN_SPLITS = {"train", "val", "valid", "validation", "test"}
TARGETS = {
    "default": (0.03, 0.50),
    "linear probe": (0.0, 0.15),
}
"""Least mean gain in accuracy over the peer, and largest share of its time, at EPOCHS epochs."""
EPOCHS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks worth`."""
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per class")
    parser.add_argument(
        "--backbone", type=Path, required=True, help="model without top that expects [-1, 1]"
    )
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=5, help="splits to measure")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of every phase, on both sides")
    parser.add_argument(
        "--class-weights", action="store_true", help="tfinetune also always and never weighted"
    )
    parser.add_argument(
        "--only", action="append", choices=[PEER, *TARGETS], help="these contestants only"
    )
    parser.add_argument("--trials", type=Path, help="default: runs/worth-<data>.jsonl")


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure what was not measured yet and print the comparison."""
    data = arguments.data.resolve()
    trials = arguments.trials or Path("runs") / f"worth-{data.name}.jsonl"
    trials.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with _flat(data) as folder:
        for seed in range(arguments.seeds):
            chosen = _contestants(arguments)
            turn = seed % len(chosen)
            split = None
            for contestant, class_weights in chosen[turn:] + chosen[:turn]:
                key = {
                    "data": str(data),
                    "backbone": str(arguments.backbone.resolve()),
                    "image_size": arguments.image_size,
                    "epochs": arguments.epochs,
                    "seed": seed,
                    "contestant": contestant,
                    "class_weights": class_weights,
                }
                found = _recall(trials, key)
                if found is None:
                    split = split or _split(folder, arguments.image_size, seed)
                    found = _measure(Spec(**{**key, "data": str(folder)}, **split))
                    with trials.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"key": key, "rows": found}) + "\n")
                for row in found:
                    print(
                        f"seed {seed}  {row['name']:36s} accuracy {row['accuracy']:.3f}  "
                        f"macro-F1 {row['macro_f1']:.3f}  {row['seconds']:6.1f} s",
                        flush=True,
                    )
                rows += [{**row, "seed": seed} for row in found]
    title = f"{data.name}, {arguments.image_size} px"
    return compare(rows, title=title, promised=arguments.epochs == EPOCHS)


def compare(rows: list[dict], *, title: str, promised: bool = True) -> list[Row]:
    """Print each contestant's means; return its time and its accuracy against the peer's.

    Args:
        rows: of every trial.
        title: of the table.
        promised: whether the trials are those that TARGETS speaks of.
    """
    by_name: dict[str, dict[int, dict]] = {}
    for row in rows:
        by_name.setdefault(row["name"], {})[row["seed"]] = row
    seeds = sorted({row["seed"] for row in rows})
    table = Table(title=f"{title}: means over {len(seeds)} splits, 30% of the photos for testing")
    table.add_column("contestant")
    for column in (
        "accuracy",
        "macro-F1",
        "seconds",
        "CPU s",
        f"points over {PEER} [95%]",
        "share of its time",
        "of its CPU time",
    ):
        table.add_column(column, justify="right")
    compared = []
    for name, trials in by_name.items():
        means = {
            key: np.mean([trial[key] for trial in trials.values()])
            for key in ("accuracy", "macro_f1", "seconds", "cpu_seconds")
        }
        cells = [
            f"{means['accuracy']:.3f}",
            f"{means['macro_f1']:.3f}",
            f"{means['seconds']:.1f}",
            f"{means['cpu_seconds']:.0f}",
        ]
        shared = sorted(set(trials) & set(by_name.get(PEER, {})))
        if name != PEER and shared:
            peer = by_name[PEER]
            gains = [trials[seed]["accuracy"] - peer[seed]["accuracy"] for seed in shared]
            mean, low, high = paired_interval(gains)
            share, cpu_share = (
                sum(trials[seed][key] for seed in shared) / sum(peer[seed][key] for seed in shared)
                for key in ("seconds", "cpu_seconds")
            )
            interval = f" [{100 * low:+.1f}, {100 * high:+.1f}]" if len(shared) > 1 else ""
            cells.append(f"{100 * mean:+.1f}{interval}")
            cells += [f"{share:.0%}", f"{cpu_share:.0%}"]
            gain, most = TARGETS[name] if promised and name in TARGETS else (None, None)
            accuracy = {"peer": PEER, "unit": "points", "ours": f"{means['accuracy']:.3f}"}
            compared += [
                Row(
                    f"{title}: {name}, time",
                    PEER,
                    value=1 / share,
                    least=most and 1 / most,
                    cpu=1 / cpu_share,
                    ours=f"{means['seconds']:.1f} s",
                ),
                Row(
                    f"{title}: {name}, accuracy",
                    value=100 * mean,
                    least=None if gain is None else 100 * gain,
                    note=interval.strip(),
                    details=gains,
                    **accuracy,
                ),
            ]
            if gain and len(shared) > 1:  # of the probe only its mean is promised
                low_end = f"{title}: {name}, accuracy, low end of the 95% interval"
                compared.append(Row(low_end, value=100 * low, least=0.0, **accuracy))
        table.add_row(name, *cells)
    Console(width=120).print(table)
    return compared


def paired_interval(gains: list[float]) -> tuple[float, float, float]:
    """Return mean and 95% t-interval of paired differences; the interval is NaN for fewer than 2.

    Example:
        >>> [round(value, 3) for value in paired_interval([0.02, 0.04, 0.06])]
        [0.04, -0.01, 0.09]
    """
    mean = float(np.mean(gains))
    if len(gains) < 2:
        return mean, float("nan"), float("nan")
    low, high = stats.t.interval(0.95, len(gains) - 1, loc=mean, scale=stats.sem(gains))
    return mean, float(low), float(high)


def _contestants(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    chosen = [(name, "auto") for name in arguments.only or [PEER, *TARGETS]]
    if arguments.class_weights:
        weighings = ("always", "never")
        chosen += [(name, how) for name, _ in chosen if name != PEER for how in weighings]
    return chosen


def _split(folder: Path, image_size: int, seed: int) -> dict:
    """Split the photos once more than the contestants do, so that the peer gets the same lists."""
    import tfinetune as ft

    splits = ft.data.from_image_folder(
        folder, image_size=image_size, validation=0, test=0.3, seed=seed
    )
    return {
        "classes": splits.spec.num_classes,
        **{
            split.name: list(zip(map(str, split.paths), map(int, split.labels), strict=True))
            for split in (splits.train, splits.test)
        },
    }


def _measure(spec: Spec) -> list[dict]:
    with tempfile.TemporaryDirectory() as scratch:
        question, answer = Path(scratch) / "spec.json", Path(scratch) / "result.json"
        write_spec(spec, question)
        command = [sys.executable, "-m", "benchmarks.trial", str(question), str(answer)]
        # Features that an earlier trial left on the disk would be a head start.
        environment = {**os.environ, "TFINETUNE_CACHE": str(Path(scratch) / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(
                f"The trial {spec.contestant!r} of seed {spec.seed} failed:\n{done.stderr[-3000:]}"
            )
        return json.loads(answer.read_text(encoding="utf-8"))


def _recall(results: Path, key: dict) -> list[dict] | None:
    if not results.exists():
        return None
    lines = results.read_text(encoding="utf-8").splitlines()
    return next((line["rows"] for line in map(json.loads, lines) if line["key"] == key), None)


@contextmanager
def _flat(data: Path) -> Iterator[Path]:
    """Give `data`, or where it comes ready split, a folder of links that pools the splits."""
    given = [p for p in data.iterdir() if p.is_dir() and p.name.lower() in GIVEN_SPLITS]
    if not given:
        yield data
        return
    with tempfile.TemporaryDirectory() as scratch:
        pooled = Path(scratch) / data.name
        for split in given:
            for photo in sorted(p for p in split.glob("*/**/*") if p.is_file()):
                relative = photo.relative_to(split)
                link = pooled / relative.parts[0] / "-".join((split.name, *relative.parts[1:]))
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(photo)
        yield pooled
