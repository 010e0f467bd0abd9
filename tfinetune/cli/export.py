"""`tfinetune export`: write a finished run's SavedModel again, somewhere else."""

from pathlib import Path
from typing import Annotated

import typer

from tfinetune.cli.console import results, session
from tfinetune.cli.options import Trust, warn_of
from tfinetune.cli.tables import print_json


def command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder to write [RUN/saved_model/1].")
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export a run as SavedModel and check that it predicts what Keras predicts."""
    with session() as console:
        warn_of(trust, console)
        from tfinetune import workflow

        path, rows = workflow.open_run(run, trust=trust).export(output)
        if as_json:
            print_json({"saved_model": str(path), "parity": rows})
            return
        for row in rows:
            results().print(
                f"{row['signature']} through {row['route']}: differs from Keras by at most "
                f"{row['max_difference']:.1e} on {row['examples']} photos"
            )
        results().print(f"Written: {path}")
