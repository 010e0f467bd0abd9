"""Start-up: how long `import tfinetune` and `tfinetune --help` take against `import keras`.

Each in a process of its own, as a user meets it.

    python -m benchmarks start
"""

import argparse
import subprocess
import sys
from collections.abc import Callable

from benchmarks.race import race
from benchmarks.results import Row

LEAST = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks start`."""
    parser.add_argument("--repeats", type=int, default=5)


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure both starts."""
    keras = command("-c", "import keras")
    contestants = {
        "import tfinetune": command("-c", "import tfinetune"),
        "tfinetune --help": command("-m", "tfinetune", "--help"),
    }
    return [
        race(
            name,
            ours,
            keras,
            peer_name="import keras",
            examples=1,
            repeats=arguments.repeats,
            least=LEAST,
            unit="starts/s",
        )
        for name, ours in contestants.items()
    ]


def command(*arguments: str) -> Callable[[], object]:
    """Return a function that runs Python with arguments and waits."""
    return lambda: subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, timeout=120
    )
