"""Time contestants side by side: interleaved repeats, so that a busy machine slows all alike."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """A comparison: medians over the repeats, in examples a second.

    `ratio` is the median of the ratios of neighbouring repeats, `least` what is promised.
    """

    name: str
    ours: float
    peer_name: str
    peer: float
    ratio: float
    cpu_ratio: float
    least: float
    note: str = ""


def race(
    name: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    peer_name: str,
    examples: int,
    repeats: int,
    least: float,
    note: str = "",
) -> Row:
    """Run both in turns and compare wall time and processor time.

    Args:
        name: what is compared.
        ours, peer: each handles all examples once.
        peer_name: who the peer is.
        examples: how many they handle.
        repeats: turns that count.
        least: the ratio that is promised.
        note: printed beside, such as quality.
    """
    turns = [(_time(ours), _time(peer)) for _ in range(repeats)]
    walls = [(a.wall, b.wall) for a, b in turns]
    return Row(
        name=name,
        ours=examples / statistics.median(a for a, _ in walls),
        peer_name=peer_name,
        peer=examples / statistics.median(b for _, b in walls),
        ratio=statistics.median(b / a for a, b in walls),
        # A clock tick is 10 ms: what took less counts as one.
        cpu_ratio=statistics.median(b.cpu / max(a.cpu, 0.01) for a, b in turns),
        least=least,
        note=note,
    )


def show(rows: Sequence[Row], *, title: str, results: Path | None) -> None:
    """Print the rows and, where a path is given, write them as JSON with the machine."""
    table = Table(title=title)
    for column in ("", "images/s", "peer", "its images/s", "ratio", "of CPU time", "promised", ""):
        table.add_column(column, justify="right" if "/s" in column or "ratio" in column else "left")
    for row in rows:
        verdict = "met" if row.ratio >= row.least else "MISSED"
        table.add_row(
            row.name,
            f"{row.ours:.0f}",
            row.peer_name,
            f"{row.peer:.0f}",
            f"{row.ratio:.1f}x",
            f"{row.cpu_ratio:.1f}x",
            f"{row.least:g}x, {verdict}",
            row.note,
        )
    Console(width=160).print(table)
    if results is not None:
        report = {"machine": describe_machine(), "rows": [asdict(row) for row in rows]}
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def describe_machine() -> dict[str, object]:
    """Return what the figures were measured on."""
    import keras
    import tensorflow as tf

    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


@dataclass(frozen=True)
class _Cost:
    wall: float
    cpu: float


def _time(run: Callable[[], object]) -> _Cost:
    wall, cpu = time.perf_counter(), _cpu_seconds()
    run()
    return _Cost(time.perf_counter() - wall, _cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    """Return the processor time of this process and of the children that it waited for."""
    return sum(os.times()[:4])
