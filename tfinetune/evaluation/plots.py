"""Plots as SVG that lives inside the page: its text, fonts and colours, light or dark.

matplotlib draws with placeholder colours that become the page's CSS variables, and leaves text as
text, so that one drawing follows the reader's theme, every script the browser can show is shown,
and a plot can be searched and copied from. Figures are made through the object interface: no global
state of pyplot is read or touched. matplotlib itself is imported on first use.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import groupby
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from tfinetune.evaluation.calibration import ReliabilityBin
from tfinetune.evaluation.formatting import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Improbable colours stand for variables of the page's style sheet until the SVG is written.
INK, MUTED, GRID, TRAIN, HELD_OUT = (f"#0{n}0b0c" for n in range(1, 6))
CSS_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    TRAIN: "var(--accent-2)",
    HELD_OUT: "var(--accent)",
}
STYLE = {
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "tfinetune",
    "text.color": INK,
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
}


def learning_curve(
    history: Sequence[Mapping[str, Any]],
    quantity: str,
    *,
    description: str,
    probe: float | None = None,
) -> str:
    """Draw `quantity` and `val_` + `quantity` over all epochs, with a line where phases change.

    Args:
        history: one row per epoch in order, with `phase` and the two values (None: not measured).
        quantity: "accuracy" or "loss".
        description: what the plot shows, for those who cannot see it.
        probe: the linear probe's value, drawn as a horizontal line.

    Returns:
        An `<svg>` element.
    """
    from matplotlib.ticker import MaxNLocator

    with drawing(4.6, 3.0) as figure:
        axes = figure.add_subplot()
        epochs = np.arange(1, len(history) + 1)
        marker = "o" if len(history) <= 30 else None
        for key, color, label in (
            (quantity, TRAIN, "training"),
            (f"val_{quantity}", HELD_OUT, "validation"),
        ):
            values = _column(history, key)
            if np.isfinite(values).any():
                axes.plot(epochs, values, color=color, label=label, marker=marker, markersize=3)
        if probe is not None:
            axes.axhline(
                probe, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="linear probe"
            )
        axes.set_xlim(0.5, len(history) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        if quantity == "accuracy":
            axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel("epoch")
        _draw_phases(axes, [str(row.get("phase", "")) for row in history])
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best", fontsize=8.5)
        return to_svg(figure, prefix=quantity, description=description)


def reliability_diagram(bins: Sequence[ReliabilityBin], *, description: str) -> str:
    """Draw accuracy over confidence, bin by bin, against the diagonal, above the bins' counts.

    Returns:
        An `<svg>` element.
    """
    with drawing(4.6, 3.9) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        filled = [row for row in bins if row["count"]]
        centres = [(row["low"] + row["high"]) / 2 for row in filled]
        width = (bins[0]["high"] - bins[0]["low"]) * 0.86 if bins else 1
        top.plot([0, 1], [0, 1], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        top.bar(centres, [row["accuracy"] for row in filled], width, color=HELD_OUT, alpha=0.45)
        top.plot(
            [row["confidence"] for row in filled],
            [row["accuracy"] for row in filled],
            color=HELD_OUT,
            linestyle="none",
            marker="o",
            markersize=4.5,
        )
        bottom.bar(centres, [row["count"] for row in filled], width, color=MUTED, alpha=0.6)
        top.set(xlim=(0, 1), ylim=(0, 1.04), ylabel="how often it was right")
        bottom.set(xlabel="how sure the model was", ylabel="images")
        bottom.yaxis.get_major_locator().set_params(nbins=2, integer=True)
        top.yaxis.set_major_formatter(_percent)
        bottom.xaxis.set_major_formatter(_percent)
        figure.align_ylabels()
        return to_svg(figure, prefix="reliability", description=description)


@contextmanager
def drawing(width: float, height: float) -> Iterator["Figure"]:
    """Give an empty figure of `width` x `height` inches, independent of the user's own style."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        # The browser draws the text; whether matplotlib's font knows a glyph does not matter.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        yield Figure(figsize=(width, height), layout="constrained")


def _percent(value: float, _position: int) -> str:
    return f"{value * 100:.4g}%"


def _column(history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Return float64 [epochs], NaN where a row has no such value; accepts numbers as text."""
    values = (row.get(key) for row in history)
    return np.array([np.nan if value in (None, "") else float(value) for value in values])


def _draw_phases(axes: "Axes", phases: Sequence[str]) -> None:
    """Name each phase above its epochs and separate it from the one before."""
    segments = [(name, len(list(rows))) for name, rows in groupby(phases)]
    if len(segments) < 2:
        return
    room = 48  # characters of this size across the axes
    first = 1
    for name, epochs in segments:
        if first > 1:
            axes.axvline(first - 0.5, color=MUTED, linewidth=0.8)
        name = " ".join(printable(name).split())
        fits = max(2, int(room * epochs / len(phases)))
        axes.annotate(
            name if len(name) <= fits else name[: fits - 1] + "…",
            xy=((first - 0.5), 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, 3),
            textcoords="offset points",
            color=MUTED,
            fontsize=8,
        )
        first += epochs


def to_svg(figure: "Figure", *, prefix: str, description: str) -> str:
    """Serialize `figure` to an element for an HTML page, free of namespaces, sizes and clashes."""
    buffer = BytesIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=no_metadata)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in root.iter():
        for child in list(parent):
            # A style sheet inside inline SVG would apply to the whole page.
            if child.tag.endswith(("}style", "}metadata")):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {
            _local(name): _adapted(_local(name), value, prefix)
            for name, value in element.attrib.items()
        }
    root.attrib = {
        "viewBox": root.get("viewBox", ""),
        "role": "img",
        "aria-label": printable(description),
    }
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def _adapted(name: str, value: str, prefix: str) -> str:
    """Prefix ids, which several drawings in one page would share, and theme the colours."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return value.replace("#", f"#{prefix}-", 1)
    value = value.replace("url(#", f"url(#{prefix}-")
    for color, variable in CSS_VARIABLES.items():
        value = value.replace(color, variable)
    return value
