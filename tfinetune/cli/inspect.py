"""`tfinetune inspect`: what a backbone is, before anything is trained."""

from typing import Annotated, Any

import typer
from rich.table import Table

from tfinetune.cli.console import results, session
from tfinetune.cli.options import Trust, parse_range, warn_of
from tfinetune.cli.tables import print_json

_SHOWN_BELOW = ("groups", "inputs", "input_shape", "notes", "warnings")


def command(
    model: Annotated[
        str, typer.Argument(help="A file or folder of a model, or a keras.applications name.")
    ],
    weights: Annotated[
        str, typer.Option(help="imagenet, none (random) or a weights file.")
    ] = "imagenet",
    input_range: Annotated[
        str | None, typer.Option(help="LO,HI or a convention, where it cannot be detected.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Layer to end with, or output of a SavedModel.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Function or signature to call of a SavedModel.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Rebuild it at this size.")] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show layer groups, parameters, input range, BatchNorm policy and warnings."""
    given_range = input_range and parse_range(input_range)
    with session() as console:
        warn_of(trust, console)
        from tfinetune.backbones import load_backbone
        from tfinetune.backbones.describe import describe

        backbone = load_backbone(
            model,
            weights=weights,
            image_size=image_size,
            input_range=given_range,
            features=features,
            endpoint=endpoint,
            trust=trust,
        )
        facts = describe(backbone)
        if as_json:
            print_json(facts)
        else:
            _show(facts)


def _show(facts: dict[str, Any]) -> None:
    console = results()
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # A hash or path that is cut short is of no use.
    for name, value in facts.items():
        if (
            name not in ("groups", "inputs", "input_shape", "notes", "warnings")
            and value is not None
        ):
            table.add_row(name.replace("_", " "), _text(value))
    for tensor in facts["inputs"]:
        table.add_row(f"input {tensor['name']}", f"{_text(tensor['shape'])} {tensor['dtype']}")
    console.print(table)
    groups = Table("group", "layers", "parameters", "output shape")
    for row in facts["groups"]:
        groups.add_row(
            row["name"], str(row["depth"]), f"{row['parameters']:,}", _text(row["output_shape"])
        )
    console.print(groups)
    for kind in ("notes", "warnings"):
        for sentence in facts[kind]:
            console.print(f"{kind.removesuffix('s')}: {sentence}")


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return " x ".join("?" if part is None else str(part) for part in value) or "scalar"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    return str(value)
