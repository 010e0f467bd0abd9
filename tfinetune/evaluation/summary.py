"""The first paragraph of a report: what the model is worth and what to doubt, in plain words."""

from collections.abc import Sequence
from dataclasses import dataclass

from tfinetune.evaluation.formatting import percent, plural
from tfinetune.evaluation.metrics import Metrics, most_confused
from tfinetune.evaluation.report_data import ReportData


@dataclass(frozen=True)
class Summary:
    """`headline` is one sentence, `findings` what follows from it, `caveats` what limits it.

    `baseline` is the accuracy of always answering the most frequent class, None without a verdict.
    """

    headline: str
    findings: tuple[str, ...]
    caveats: tuple[str, ...]
    baseline: float | None


def summarize(data: ReportData) -> Summary:
    """Put the verdict of `data` into words."""
    metrics = data.verdict
    if metrics is None:
        return Summary(
            headline="How good this model is on new images is not known: none were held out.",
            findings=tuple(_shipped(data)),
            caveats=("Hold some out with --validation 0.15 --test 0.15 to find out.",),
            baseline=None,
        )
    baseline = max(row["support"] for row in metrics["per_class"]) / metrics["n"]
    return Summary(
        headline=_headline(metrics, str(data.verdict_split)),
        findings=(
            *_shipped(data),
            *_against_others(data),
            *_against_baseline(metrics, baseline),
            *_confusion(metrics),
        ),
        caveats=tuple(_caveats(data, metrics)),
        baseline=baseline,
    )


def _headline(metrics: Metrics, split: str) -> str:
    text = f"Right on {percent(metrics['accuracy'])} of {plural(metrics['n'], f'{split} image')}"
    if metrics["accuracy_interval"]:
        low, high = metrics["accuracy_interval"]
        text += f"; on new images like these, expect {percent(low)} to {percent(high)}"
    return text + "."


def _shipped(data: ReportData) -> list[str]:
    if data.shipped_because:
        return [data.shipped_because]
    shipped = next((row for row in data.candidates if row.get("shipped")), None)
    if shipped is None:
        return []
    score = shipped.get("accuracy")
    on_validation = f" ({percent(score)} on the validation images)" if score is not None else ""
    return [f"Shipped: {shipped['name']}{on_validation}."]


def _against_others(data: ReportData) -> list[str]:
    measured = [row for row in data.comparison if row["accuracy"] is not None]
    findings = []
    for other in measured[1:]:
        reference = measured[0]
        points = (reference["accuracy"] - other["accuracy"]) * 100
        text = (
            f"{reference['name']} against {other['name']}: {percent(reference['accuracy'])} "
            f"against {percent(other['accuracy'])}, {points:+.1f} points"
        )
        if _overlap(reference.get("interval"), other.get("interval")):
            text += "; their intervals overlap, so more images might turn this around"
        findings.append(text + ".")
    return findings


def _overlap(first: Sequence[float] | None, second: Sequence[float] | None) -> bool:
    return bool(first and second) and first[0] <= second[1] and second[0] <= first[1]


def _against_baseline(metrics: Metrics, baseline: float) -> list[str]:
    low = (metrics["accuracy_interval"] or [metrics["accuracy"]])[0]
    text = f"Always answering the most frequent class would be right on {percent(baseline)}"
    if low <= baseline:
        return [text + ": this model is not shown to be better than that."]
    return [text + "."]


def _confusion(metrics: Metrics) -> list[str]:
    pairs = most_confused(metrics["confusion"], limit=1)
    if not pairs:
        return ["It made no mistake on these images."]
    pair, rows = pairs[0], metrics["per_class"]
    return [
        f"Its most frequent mistake: {_isolated(rows[pair.true]['name'])} taken for "
        f"{_isolated(rows[pair.predicted]['name'])} ({pair.count} of {pair.support})."
    ]


def _isolated(name: str) -> str:
    """Keep a name written from right to left from reordering the sentence around it."""
    return f"\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}"


def _caveats(data: ReportData, metrics: Metrics) -> list[str]:
    caveats = []
    if data.verdict_split == "validation":
        caveats.append(
            "There was no test set. The same validation images chose what shipped and how "
            "confident it is, so this number flatters; --test 0.15 holds a test set out."
        )
    shared = [row for row in data.duplicates if data.verdict_split in row["splits"]]
    leaking = [row for row in shared if len(set(row["splits"])) > 1]
    if leaking:
        caveats.append(
            plural(len(leaking), "group of duplicates reaches", "groups of duplicates reach")
            + f" across the given folders into the {data.verdict_split} set: this number flatters."
        )
    absent = sum(not row["support"] for row in metrics["per_class"])
    if absent:
        caveats.append(
            f"{plural(absent, 'class has', 'classes have')} no {data.verdict_split} image: "
            "nothing is known about them."
        )
    return caveats
