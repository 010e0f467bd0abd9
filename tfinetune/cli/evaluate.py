"""`tfinetune evaluate`: measure a finished run on other labelled photos."""

from pathlib import Path
from typing import Annotated

import typer

from tfinetune.cli.console import session
from tfinetune.cli.options import Trust, warn_of
from tfinetune.cli.tables import print_json, show_metrics


def command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    source: Annotated[Path, typer.Argument(help="Folder DIR/class/* of labelled photos.")],
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a run on labelled photos; unknown and missing classes are counted."""
    with session() as console:
        warn_of(trust, console)
        from tfinetune import workflow
        from tfinetune.reporting import Reporter

        opened = workflow.open_run(run, trust=trust)
        with Reporter(console) as reporter:
            result = workflow.evaluate_folder(opened, source, reporter=reporter)
        if as_json:
            print_json(result)
            return
        show_metrics(result["metrics"])
        if result["split"]:
            console.print(f"Measured on the {result['split']} part of {source} only.")
        for name, count in result["unknown_classes"].items():
            console.print(f"{name}: {count} files of a class the model does not know, not counted.")
        if result["missing_classes"]:
            console.print(f"No photo of {', '.join(result['missing_classes'])}.")
        if result["stray_files"]:
            console.print(f"{result['stray_files']} stray files ignored.")
        for row in result["set_aside"]:
            console.print(f"{row['path']}: {row['reason']}")
