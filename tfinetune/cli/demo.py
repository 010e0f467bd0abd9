"""`tfinetune demo`: the whole job on data and a backbone that ship with tfinetune."""

from pathlib import Path
from typing import Annotated

import typer

from tfinetune.cli.console import results, resume_hint, session
from tfinetune.cli.tables import show_run


def command(
    output: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Which 20 digits of each class are learned.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Learn handwritten digits from 20 examples each, with and without a pretrained backbone."""
    with session(log=output / "log.txt", on_interrupt=resume_hint(output)) as console:
        from tfinetune import demo
        from tfinetune.reporting import Reporter

        run = demo.run_demo(output, seed=seed, reporter=Reporter(console))
        show_run(run, as_json=as_json)
        scratch = run.metrics["comparison"][0]["accuracy"]
        reached = run.metrics["test"]["accuracy"]
        (console if as_json else results()).print(
            f"What transfer was worth with 20 labels a class and {demo.EPOCHS} epochs: "
            f"{100 * (reached - scratch):+.1f} points of accuracy ({reached:.1%} against "
            f"{scratch:.1%} by the same architecture from scratch).",
            soft_wrap=True,
        )
