"""What a search costs: against the same trials in plain KerasTuner, and in default trainings.

Against KerasTuner both sides train a head (hidden units, rate, dropout) on one frozen backbone,
without augmentation, for the same epochs on the same photos, and choose by the same held-out
photos. The peer is what KerasTuner's documentation shows: a `build` that compiles a model, and
`fit` on a `tf.data` that keeps decoded photos in memory and prefetches. It has our optimizer with
its schedule: accuracies at a constant rate swing more, and the best of ten epochs would seem
better. Both report the best epoch. What still differs is that photos are resized another way, and
that all our heads start from one seed, so that the best of the peer's 20 profits from 20 starts.

Then the same trials of ours, and as many over the default space with the default oracle, against
one training with the default recipe: same photos, size and epochs.

    python -m benchmarks search --data photos/ --backbone base_model.keras
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.results import Row

AT_LEAST = 15.0
"""Times faster than the peer, with 20 trials of 10 epochs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks search`."""
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per class")
    parser.add_argument(
        "--backbone", type=Path, required=True, help="model without top that expects [-1, 1]"
    )
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--quick", action="store_true", help="only against KerasTuner, without default trainings"
    )


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure every side."""
    with tempfile.TemporaryDirectory() as scratch:
        spec = {
            "data": str(arguments.data.resolve()),
            "backbone": str(arguments.backbone.resolve()),
            "image_size": arguments.image_size,
            "trials": arguments.trials,
            "epochs": arguments.epochs,
            "scratch": scratch,
        }
        heads = _measure("heads", spec)
        # The peer is given what the first side drew, and its division of the photos.
        peer = _measure("keras_tuner", {**spec, **heads})
        rows = [
            _row(
                f"search of {arguments.trials} trials over head, rate and dropout",
                "KerasTuner",
                heads,
                peer,
                least=AT_LEAST,
            )
        ]
        if not arguments.quick:
            default, space = _measure("default", spec), _measure("space", spec)
            one = "one default training"
            rows += [
                _row("the same search", one, heads, default, least=1.0, promises_cpu=True),
                _row(
                    f"search of {arguments.trials} trials over the default space",
                    one,
                    space,
                    default,
                ),
            ]
    return rows


def _row(
    name: str,
    peer_name: str,
    ours: dict[str, Any],
    peer: dict[str, Any],
    *,
    least: float | None = None,
    promises_cpu: bool = False,
) -> Row:
    """Compare two sides; what is promised of processor time too is kept by the lesser ratio."""
    wall = peer["seconds"] / ours["seconds"]
    cpu = peer["cpu_seconds"] / ours["cpu_seconds"]
    return Row(
        name,
        peer_name,
        value=min(wall, cpu) if promises_cpu else wall,
        least=least,
        cpu=cpu,
        ours=_side(ours),
        theirs=_side(peer),
        note="" if wall > 1 else f"costs {1 / wall:.1f} of them, {1 / cpu:.1f} of CPU time",
    )


def _side(measured: dict[str, Any]) -> str:
    accuracies = measured["accuracies"]
    if len(accuracies) == 1:
        return f"{measured['seconds']:.1f} s, accuracy {accuracies[0]:.3f}"
    return (
        f"{measured['seconds']:.1f} s, accuracy {statistics.mean(accuracies):.3f} "
        f"(best {max(accuracies):.3f})"
    )


def _measure(side: str, spec: dict[str, Any]) -> dict[str, Any]:
    question, answer = (Path(spec["scratch"]) / f"{side}-{name}.json" for name in ("in", "out"))
    question.write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.search_side", side, str(question), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(answer.read_text(encoding="utf-8"))
