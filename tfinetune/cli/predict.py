"""`tfinetune predict`: classify image files with a finished run."""

import csv
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tfinetune.cli.console import results, session
from tfinetune.cli.options import Trust, warn_of
from tfinetune.cli.tables import print_json


def command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    files: Annotated[list[Path], typer.Argument(help="Image files or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Classes shown for each photo.")] = 3,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Classify photos. A file that cannot be read gets a line with the reason."""
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv.")
    with session() as console:
        warn_of(trust, console)
        from tfinetune import workflow
        from tfinetune.reporting import Reporter

        opened = workflow.open_run(run, trust=trust)
        with Reporter(console) as reporter:
            rows = workflow.predictions(opened, files, top=top, reporter=reporter)
        if as_json:
            print_json(rows)
        elif as_csv:
            _print_csv(rows)
        else:
            table = Table("file", "prediction")
            for row in rows:
                best = ", ".join(f"{p['label']} {p['probability']:.1%}" for p in row["predictions"])
                table.add_row(row["file"], row["error"] or best)
            results().print(table)
        failed = sum(1 for row in rows if row["error"])
        if failed:
            console.print(f"{failed} of {len(rows)} files could not be read.")


def _print_csv(rows: list[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "rank", "label", "probability", "error"])
    for row in rows:
        if row["error"]:
            writer.writerow([row["file"], "", "", "", row["error"]])
        for rank, guess in enumerate(row["predictions"], start=1):
            writer.writerow([row["file"], rank, guess["label"], guess["probability"], ""])
