"""What benchmarks measured: rows that are printed, kept in one JSON file, and drawn."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One comparison with a peer.

    Attributes:
        name: what is compared.
        peer: whom with.
        value: how much better than the peer: a ratio of times, or points gained.
        least: what is promised of `value`; None promises nothing.
        unit: of both: `x`, or a word such as `points`.
        cpu: the ratio of processor times, which other work on the machine disturbs less.
        ours, theirs: what the value compares, with its unit.
        note: printed beside, such as quality.
        details: what was measured, as far as JSON can hold it.
    """

    name: str
    peer: str
    value: float
    least: float | None = None
    unit: str = "x"
    cpu: float | None = None
    ours: str = ""
    theirs: str = ""
    note: str = ""
    details: Any = None

    @property
    def held(self) -> bool | None:
        """Whether the promise is kept; None where there is none."""
        return None if self.least is None else self.value >= self.least


def show(rows: Sequence[Row], *, title: str) -> None:
    """Print rows as a table."""
    table = Table(title=title)
    for column in ("", "tfinetune", "peer", "its own", "better by", "CPU time", "at least", ""):
        table.add_column(column)
    for row in rows:
        table.add_row(row.name, row.ours, row.peer, row.theirs, *_cells(row), row.note)
    Console(width=160).print(table)


def keep(file: Path, name: str, *, command: str, rows: Sequence[Row]) -> None:
    """Write the rows of one benchmark into a results file, in the place of earlier ones.

    Args:
        file: JSON, made where it does not exist: benchmarks by name, each with the command, the
            machine and its rows.
        name: of the benchmark.
        command: that measured them.
        rows: what it returned.
    """
    entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    entries[name] = {
        "command": command,
        "machine": describe_machine(),
        "rows": [{**asdict(row), "held": row.held} for row in rows],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def recall(file: Path) -> dict[str, list[Row]]:
    """Read the rows of every benchmark in a results file."""
    entries = json.loads(file.read_text(encoding="utf-8"))
    fields = Row.__dataclass_fields__
    return {
        name: [Row(**{key: row[key] for key in fields}) for row in entry["rows"]]
        for name, entry in entries.items()
    }


def markdown(file: Path) -> str:
    """Return the table of a results file, with the commands and the machine."""
    entries = json.loads(file.read_text(encoding="utf-8"))
    lines = ["| | against | better by | of CPU time | at least | |", "|---|---|---|---|---|---|"]
    for rows in recall(file).values():
        lines += [
            f"| {row.name} | {row.peer} | {' | '.join(_cells(row))} | {row.note} |" for row in rows
        ]
    lines += ["", *(f"    {entry['command']}" for entry in entries.values())]
    machines = {_sentence(entry["machine"]): None for entry in entries.values()}
    return "\n".join([*lines, "", *machines])


def draw(file: Path, picture: Path) -> None:
    """Draw what every promise of a results file asks, and what was measured, as bars."""
    import matplotlib.pyplot as plt

    promised = [row for rows in recall(file).values() for row in rows if (row.least or 0) > 0]
    figure, axes = plt.subplots(figsize=(10, 1 + 0.3 * len(promised)), layout="constrained")
    shares = [row.value / row.least for row in promised]
    colours = ["tab:green" if row.held else "tab:red" for row in promised]
    bars = axes.barh([f"{row.name} ({row.peer})" for row in promised], shares, color=colours)
    axes.bar_label(bars, [f" {_cells(row)[0]}" for row in promised])
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="measured, as a multiple of what is promised")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def describe_machine() -> dict[str, object]:
    """Return what the figures were measured on."""
    import keras
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [tf.config.experimental.get_device_details(gpu)["device_name"] for gpu in gpus],
        "system": platform.platform(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _sentence(machine: dict[str, Any]) -> str:
    devices = ", ".join([machine["processor"], *machine["gpus"]])
    return (
        f"{devices}, {machine['cores']} cores, {machine['memory_gib']:g} GiB, {machine['system']}, "
        f"Python {machine['python']}, TensorFlow {machine['tensorflow']}, Keras {machine['keras']}."
    )


def _cells(row: Row) -> tuple[str, str, str]:
    """Say the value, that of processor time, and the promise with its verdict."""

    def measure(value: float) -> str:
        if row.unit != "x":
            return f"{value:+.1f} {row.unit}"
        return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"

    cpu = "" if row.cpu is None else measure(row.cpu)
    least = "" if row.least is None else f"{measure(row.least)}, {'met' if row.held else 'MISSED'}"
    return measure(row.value), cpu, least
