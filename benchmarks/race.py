"""Time contestants side by side: interleaved repeats, so that a busy machine slows all alike."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.results import Row


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
    unit: str = "images/s",
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
        unit: of what `examples` in a second are.
    """
    turns = [(_time(ours), _time(peer)) for _ in range(repeats)]
    walls = [(a.wall, b.wall) for a, b in turns]
    ours_median, peer_median = map(statistics.median, zip(*walls, strict=True))
    return Row(
        name=name,
        peer=peer_name,
        # Neighbouring turns saw the same machine.
        value=statistics.median(b / a for a, b in walls),
        least=least,
        # A clock tick is 10 ms: what took less counts as one.
        cpu=statistics.median(b.cpu / max(a.cpu, 0.01) for a, b in turns),
        ours=f"{examples / ours_median:,.4g} {unit}",
        theirs=f"{examples / peer_median:,.4g} {unit}",
        note=note,
        details={"wall_seconds": walls},
    )


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
