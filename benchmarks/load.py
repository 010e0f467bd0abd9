"""Load time and peak memory of `load_backbone` against `keras.models.load_model`.

Each file is opened by each in turn, in a fresh process every time, `--repeats` times; the order
alternates. Three times are taken: of the whole process, from its start to the open model, imports
included; of the first call in it; and of later calls, which find everything warm. Memory is the
most that the process held up to the first model, imports included; the child process that
tfinetune keeps is not in it. Medians and their ratios are printed.

The target holds for the first call: a script or a command opens one model, and the imports, which
take seconds in both, would hide what this costs. What the imports hide in turn (tfinetune starts a
child process then) shows in the whole. A file that Keras cannot open has no ratio. `load_backbone`
does more: it looks into the file in that child, audits it, cuts the top off, sorts the layers and
measures the pixel range.

    python -m benchmarks load base_model.keras old_model.h5 --repeats 5
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks.results import Row

LOADERS = {
    "keras": ("import keras", "keras.models.load_model(path, compile=False)"),
    "tfinetune": ("from tfinetune.backbones import load_backbone", "load_backbone(path)"),
}
MEASURES = ("whole process", "first call", "later calls", "memory")
JUDGED = ("first call", "memory")
TARGET = 1.5
"""How many times what the peer takes is allowed, of what is judged."""

_TRIAL = """
import json, os, resource, statistics, sys, time
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
path, started = sys.argv[1], float(sys.argv[2])
{imports}
ready = time.time()
{call}
first = time.time()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
later = []
for _ in range(3):
    begun = time.time()
    {call}
    later.append(time.time() - begun)
megabytes = peak / (2**20 if sys.platform == "darwin" else 1024)
print(json.dumps([first - started, first - ready, statistics.median(later), megabytes]))
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
                _row(f"opening {'/'.join(path.parts[-2:])}, {name}", name, theirs, own)
                for name, theirs, own in zip(MEASURES, peer, ours, strict=True)
            ]
        else:
            console.print(f"{path.name}: Keras {_can(peer)} open it, tfinetune {_can(ours)}.")
    return rows


def _row(title: str, measure: str, theirs: float, own: float) -> Row:
    return Row(
        title,
        "keras.models.load_model",
        value=theirs / own,
        least=1 / TARGET if measure in JUDGED else None,
        ours=_with_unit(measure, own),
        theirs=_with_unit(measure, theirs),
    )


def _with_unit(measure: str, value: float) -> str:
    return f"{value:.0f} MB" if measure == "memory" else f"{value:.3f} s"


def _can(measured: tuple[float, ...] | None) -> str:
    return "can" if measured else "cannot"


def measure(path: Path, repeats: int) -> dict[str, tuple[float, ...] | None]:
    """Return the median of each of `MEASURES` by loader, None for one that failed."""
    trials: dict[str, list[tuple[float, ...] | None]] = {name: [] for name in LOADERS}
    for repeat in range(repeats):
        for name in sorted(LOADERS, reverse=repeat % 2 == 1):
            trials[name].append(_trial(name, path))
    return {
        name: None if None in rows else tuple(map(statistics.median, zip(*rows, strict=True)))
        for name, rows in trials.items()
    }


def _trial(loader: str, path: Path) -> tuple[float, ...] | None:
    imports, call = LOADERS[loader]
    script = _TRIAL.format(imports=imports, call=call)
    command = [sys.executable, "-c", script, path, str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return tuple(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None
