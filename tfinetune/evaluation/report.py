"""Write a report: one HTML file that holds its style, plots and images, and asks for nothing else.

The page runs no script and its content policy forbids any, besides loading anything from anywhere.
Every text is escaped: class names are names of folders, and those are anybody's text.
"""

import base64
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from tfinetune import storage
from tfinetune.evaluation import formatting, plots
from tfinetune.evaluation.metrics import most_confused
from tfinetune.evaluation.report_data import Mistake, ReportData
from tfinetune.evaluation.summary import summarize

MATRIX_CLASSES = 30  # beyond this a confusion matrix is a carpet: only the worst pairs are listed
LONG_LIST = 30  # rows; longer tables are folded
IMAGE_SIDE = 256  # pixels; mistakes are shown as thumbnails
PIXEL_ART_SIDE = 64  # smaller images are enlarged without blur


class CountRow(NamedTuple):
    """Images of one class; `share_of_largest` compares with the class that has most, in [0, 1]."""

    name: str
    per_split: list[int]
    total: int
    share_of_largest: float


class Thumbnail(NamedTuple):
    """A mistake whose image is a data URI."""

    uri: str
    width: int
    height: int
    mistake: Mistake


def write_report(path: str | Path, data: ReportData) -> None:
    """Write the report of `data` to `path`, atomically, as one self-contained HTML file.

    Raises:
        StorageError: if the file cannot be written; what was there before is untouched.

    Example:
        >>> write_report("report.html", ReportData(title="Photos"))
    """
    storage.write_text(path, render_report(data))


def render_report(data: ReportData) -> str:
    """Return the report of `data` as the text of an HTML page."""
    page = _environment().get_template("report.html.jinja")
    return page.render(
        data=data,
        summary=summarize(data),
        counts=_count_rows(data),
        curves=_curves(data),
        reliability=_reliability(data),
        thumbnails=[_thumbnail(mistake) for mistake in _worst_first(data.mistakes)],
        confused=most_confused(data.verdict["confusion"], limit=20) if data.verdict else [],
        matrix_classes=MATRIX_CLASSES,
        long_list=LONG_LIST,
        pixel_art_side=PIXEL_ART_SIDE,
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tfinetune.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("percent", "number", "scientific", "count", "duration", "memory", "plural"):
        environment.filters[name] = getattr(formatting, name)
    return environment


def _finalized(value: Any) -> Any:
    if value is None:
        return formatting.DASH
    if isinstance(value, str) and not isinstance(value, Markup):
        return formatting.printable(value)
    return value


def _count_rows(data: ReportData) -> list[CountRow]:
    splits = list(data.counts.values())
    per_class = [
        [int(split.get(index, 0)) for split in splits] for index in range(len(data.class_names))
    ]
    largest = max((sum(row) for row in per_class), default=0) or 1
    return [
        CountRow(name, row, sum(row), sum(row) / largest)
        for name, row in zip(data.class_names, per_class, strict=True)
    ]


def _curves(data: ReportData) -> list[tuple[str, Markup]]:
    if not data.history:
        return []
    curves = []
    for quantity, probe in (("accuracy", data.probe_accuracy), ("loss", None)):
        description = (
            f"{quantity.capitalize()} over {formatting.plural(len(data.history), 'epoch')}, "
            "training and validation"
        )
        if probe is not None:
            description += f"; the linear probe reached {formatting.percent(probe)}"
        svg = plots.learning_curve(data.history, quantity, description=description, probe=probe)
        curves.append((quantity.capitalize(), Markup(svg)))
    return curves


def _reliability(data: ReportData) -> Markup | None:
    if data.verdict is None:
        return None
    description = (
        f"Reliability diagram: how often predictions were right against how sure the model was; "
        f"expected calibration error {formatting.percent(data.verdict['ece'])}"
    )
    return Markup(plots.reliability_diagram(data.verdict["reliability"], description=description))


def _worst_first(mistakes: Sequence[Mistake]) -> list[Mistake]:
    return sorted((Mistake(*mistake) for mistake in mistakes), key=lambda m: -m.probability)


def _thumbnail(mistake: Mistake) -> Thumbnail:
    pixels = np.asarray(mistake.image, np.uint8)
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]  # Pillow knows grey images as two-dimensional
    image = Image.fromarray(pixels).convert("RGB")
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85, subsampling=0)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{encoded}", *image.size, mistake)
