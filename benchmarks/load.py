"""Load time and peak memory of `load_backbone` against `keras.models.load_model`.

Each file is opened by each in turn, in a fresh process every time, `--repeats` times; the order
alternates. Time runs from the call to its return, without imports; memory is the most that the
process held, imports included. Medians and their ratios are printed. A file that Keras cannot open
has no ratio. `load_backbone` does more: it looks into the file in a process of its own, audits it,
cuts the top off, sorts the layers and measures the pixel range.

    python -m benchmarks load base_model.keras old_model.h5 --repeats 5
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.results import Row

LOADERS = {
    "keras": ("import keras", "keras.models.load_model(path, compile=False)"),
    "tfinetune": ("from tfinetune.backbones import load_backbone", "load_backbone(path)"),
}
TARGET = 1.5
"""How many times the peer's time and memory are allowed."""

_TRIAL = """
import json, os, sys, time
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import resource
{imports}
path = sys.argv[1]
start = time.perf_counter()
{call}
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, peak / (2**20 if sys.platform == "darwin" else 1024)]))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks load`."""
    parser.add_argument("models", type=Path, nargs="+", help=".keras and .h5 files")
    parser.add_argument("--repeats", type=int, default=5, help="processes per file and loader")


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure every file that both can open."""
    console, rows = Console(), []
    for path in arguments.models:
        with console.status(f"opening {path}"):
            measured = measure(path, arguments.repeats)
        peer, ours = (measured[name] for name in LOADERS)
        if peer and ours:
            rows += [
                Row(
                    f"opening {path.name}, {what}",
                    "keras.models.load_model",
                    value=theirs / own,
                    least=1 / TARGET,
                    ours=f"{own:.4g} {unit}",
                    theirs=f"{theirs:.4g} {unit}",
                )
                for what, unit, own, theirs in zip(
                    ("time", "memory"), ("s", "MB"), ours, peer, strict=True
                )
            ]
        else:
            console.print(f"{path.name}: Keras {_can(peer)} open it, tfinetune {_can(ours)}.")
    return rows


def measure(path: Path, repeats: int) -> dict[str, tuple[float, float] | None]:
    """Return the median seconds and megabytes of each loader, None for one that failed."""
    trials: dict[str, list[tuple[float, float] | None]] = {name: [] for name in LOADERS}
    for repeat in range(repeats):
        for name in sorted(LOADERS, reverse=repeat % 2 == 1):
            trials[name].append(_trial(name, path))
    return {
        name: None if None in rows else tuple(map(statistics.median, zip(*rows, strict=True)))
        for name, rows in trials.items()
    }


def _trial(loader: str, path: Path) -> tuple[float, float] | None:
    imports, call = LOADERS[loader]
    script = _TRIAL.format(imports=imports, call=call)
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=False
    )
    return tuple(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None


def _can(measured: tuple[float, float] | None) -> str:
    return "can" if measured else "cannot"
