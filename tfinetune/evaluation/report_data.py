"""What a report tells, as plain values: whoever trained or evaluated fills it, the page shows it.

Rows are dictionaries, so that lines of `history.csv` and entries of `metrics.json` go in as they
are. A value that was not measured is None or absent and shows as a dash; a part that is empty is
left out of the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

import numpy as np

from tfinetune.errors import DataError
from tfinetune.evaluation.metrics import Metrics


class QuarantineRow(TypedDict):
    """An image that was set aside and why."""

    path: str
    reason: str


class DuplicateRow(TypedDict):
    """Images that show the same thing: `kind` is "exact" or "near"."""

    kind: str
    ids: Sequence[str]
    splits: Sequence[str]
    conflicting_labels: bool


class HistoryRow(TypedDict, total=False):
    """One epoch; numbers may be text, as a CSV file gives them."""

    phase: str
    epoch: int
    loss: float | None
    accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    seconds: float | None
    learning_rate: float | None


class CandidateRow(TypedDict, total=False):
    """A model that could have shipped, with its scores on the validation images."""

    name: str
    accuracy: float | None
    loss: float | None
    shipped: bool


class Calibration(TypedDict, total=False):
    """The temperature and the expected calibration error on `split` before and after it."""

    temperature: float
    ece_before: float | None
    ece_after: float | None
    split: str


class PlanRow(TypedDict, total=False):
    """What one phase does to one layer group; `layers` counts, `learning_rate` is its peak."""

    phase: str
    group: str
    layers: int
    parameters: int
    trainable: bool
    learning_rate: float | None


class BackboneFacts(TypedDict, total=False):
    """Where the features come from. `input_range` such as "[-1, 1]", `decided_by` how it is known.

    `image_size` is (height, width) in pixels.
    """

    source: str
    kind: str
    sha256: str | None
    parameters: int
    image_size: tuple[int, int]
    input_range: str
    decided_by: str
    warnings: Sequence[str]
    notes: Sequence[str]


class ParityRow(TypedDict, total=False):
    """One way of running the exported model against Keras: largest difference in probability."""

    route: str
    signature: str
    examples: int
    max_difference: float
    tolerance: float


class ComparisonRow(TypedDict, total=False):
    """One way of training on the same images: accuracy with interval on the same test images."""

    name: str
    accuracy: float | None
    interval: Sequence[float] | None
    seconds: float | None


class Mistake(NamedTuple):
    """A wrong prediction: `image` uint8 [H, W, 3], class names, probability of the predicted."""

    image: np.ndarray
    id: str
    true: str
    predicted: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything a report shows. Only the title is required, and `class_names` with `counts`.

    Attributes:
        title: heading of the page.
        class_names: in the order of the model's outputs.
        counts: split name -> class index -> number of images.
        quarantine: images set aside.
        stray_files: how many files were no images and were ignored; `stray_examples` names some.
        duplicates: groups of images that show the same thing.
        notes: sentences about the data, such as class weights in use.
        test, validation: metrics of the splits. The test set gives the verdict where there is one.
        calibration: temperature and what it did.
        mistakes: worst first.
        candidates: models that could have shipped; `shipped_because` is a sentence.
        history: epochs of all phases in order.
        probe_accuracy: validation accuracy of the linear probe, a line in the learning curves.
        plan: what trained, per phase and layer group.
        phase_seconds: seconds by phase or step, in order; `total_seconds` may exceed their sum.
        peak_memory_bytes: largest resident size of the process.
        device: what computed, such as "CPU (2 cores)".
        versions: package -> version.
        backbone: facts about the pretrained model.
        parity: checks of the exported model.
        comparison: what other ways of training reached; the first row is the reference.
        recipe: YAML that reproduces the run.
        created: date or time, as it shall be printed.

    Raises:
        DataError: if `counts` holds anything but indices of `class_names`.
    """

    title: str
    class_names: Sequence[str] = ()
    counts: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    quarantine: Sequence[QuarantineRow] = ()
    stray_files: int = 0
    stray_examples: Sequence[str] = ()
    duplicates: Sequence[DuplicateRow] = ()
    notes: Sequence[str] = ()
    test: Metrics | None = None
    validation: Metrics | None = None
    calibration: Calibration | None = None
    mistakes: Sequence[Mistake] = ()
    candidates: Sequence[CandidateRow] = ()
    shipped_because: str = ""
    history: Sequence[HistoryRow] = ()
    probe_accuracy: float | None = None
    plan: Sequence[PlanRow] = ()
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    total_seconds: float | None = None
    peak_memory_bytes: int | None = None
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    backbone: BackboneFacts = field(default_factory=dict)
    parity: Sequence[ParityRow] = ()
    comparison: Sequence[ComparisonRow] = ()
    recipe: str = ""
    created: str = ""

    def __post_init__(self) -> None:
        counted = {index for split in self.counts.values() for index in split}
        if unknown := sorted(counted - set(range(len(self.class_names))), key=str):
            raise DataError(
                f"Counts of images are given for {unknown[:5]}, but the keys must be indices of "
                f"the {len(self.class_names)} class names, from 0."
            )

    @property
    def verdict_split(self) -> str | None:
        """The split that gives the verdict: "test", else "validation", None without either."""
        for name in ("test", "validation"):
            metrics = getattr(self, name)
            if metrics and metrics["n"]:
                return name
        return None

    @property
    def verdict(self) -> Metrics | None:
        """The metrics of `verdict_split`."""
        return getattr(self, self.verdict_split) if self.verdict_split else None
