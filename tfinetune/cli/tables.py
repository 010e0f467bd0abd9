"""Tables that commands show, and the same numbers as JSON on standard output."""

import json
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from tfinetune.cli.console import results

if TYPE_CHECKING:  # a real import would load TensorFlow
    from tfinetune.workflow import Run


def show_run(run: "Run", *, as_json: bool) -> None:
    """Show what a run reached and where it lies."""
    if as_json:
        print_json({"run": str(run.folder.path), **run.metrics})
        return
    metrics = run.metrics
    table = Table(title=str(run.folder.path), show_header=False, title_justify="left")
    for name in ("test", "validation"):
        measured = metrics[name]
        if measured:
            table.add_row(f"accuracy, {name}", accuracy_text(measured))
            table.add_row(f"macro F1, {name}", f"{measured['macro_f1']:.3f}")
    if metrics["calibration"]:
        before, after = (metrics["calibration"][key] for key in ("ece_before", "ece_after"))
        table.add_row("calibration error", f"{before:.3f}, {after:.3f} after temperature")
    table.add_row("shipped", metrics["shipped_because"])
    table.add_row("time", f"{metrics['total_seconds']:.0f} s")
    if metrics["peak_memory_bytes"]:
        table.add_row("memory", f"{metrics['peak_memory_bytes'] / 2**30:.1f} GiB at most")
    table.add_row("report", str(run.folder.report_path))
    table.add_row("Keras model", str(run.folder.model_path))
    table.add_row("SavedModel", str(run.folder.saved_model_path))
    results().print(table)


def show_metrics(metrics: dict[str, Any]) -> None:
    """Show accuracy and per-class figures."""
    table = Table(title=f"accuracy {accuracy_text(metrics)}", title_justify="left")
    for column in ("class", "precision", "recall", "F1", "photos"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for row in metrics["per_class"]:
        numbers = (row[key] for key in ("precision", "recall", "f1"))
        table.add_row(row["name"], *(_number(n) for n in numbers), str(row["support"]))
    results().print(table)


def show_plan(plan: dict[str, Any]) -> None:
    """Show what would be trained and for how long."""
    height, width = plan["image_size"]
    results().print(
        f"{plan['photos']} photos of {len(plan['class_names'])} classes, "
        f"{plan['set_aside']} set aside, {plan['stray_files']} stray files; "
        f"{height}x{width} pixels; backbone input {plan['input_range']} "
        f"({plan['input_range_origin']}).",
        soft_wrap=True,
    )
    table = Table(title="plan", title_justify="left")
    for column in ("phase", "group", "parameters", "trains", "learning rate"):
        table.add_column(column)
    for row in plan["plan"]:
        rate = row["learning_rate"]
        table.add_row(
            row["phase"],
            row["group"],
            f"{row['parameters']:,}",
            "yes" if row["trainable"] else "no",
            f"{rate:.2g}" if rate else "",
        )
    results().print(table)
    for sentence in plan["frozen_work"]:
        results().print(sentence, soft_wrap=True)
    for name, seconds in plan["estimated_seconds"].items():
        results().print(f"{name}: about {seconds:.0f} s")


def accuracy_text(metrics: dict[str, Any]) -> str:
    """Return accuracy with its 95% interval and the number of photos."""
    if not metrics["n"]:
        return "not measured: no photo"
    low, high = metrics["accuracy_interval"]
    return f"{metrics['accuracy']:.1%} ({low:.1%} to {high:.1%}, n={metrics['n']})"


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
