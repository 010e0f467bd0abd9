"""`tfinetune search`: the best recipe for a data set, and the run that it makes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tfinetune.cli.console import results, session
from tfinetune.cli.options import (
    Distribute,
    Trust,
    absolute,
    parse_range,
    parse_settings,
    warn_of,
)
from tfinetune.cli.tables import print_json

if TYPE_CHECKING:  # a real import would load TensorFlow
    from tfinetune.search import Search, SearchRecipe, Space


_OF_THE_CALL = (
    *("source", "output", "resume", "max_time", "workers"),
    *("chief", "worker", "trust", "as_json"),
)
"""What does not describe the search, and may be another each time that it goes on."""

_OF_A_WORKER = ("output", "chief", "worker", "trust")
"""What a worker takes beside what its chief gives out."""

_FILES = ("backbone", "weights")
"""Parameters that may name a file."""


def command(
    context: typer.Context,
    source: Annotated[Path | None, typer.Argument(help="Folder of photos, as for train.")] = None,
    backbones: Annotated[
        list[str] | None,
        typer.Option("--backbone", help="As for train; several are ranked first; repeatable."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the search.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search in --output.")
    ] = False,
    trials: Annotated[
        int | None, typer.Option(help="At most; the first is the default recipe [20].")
    ] = None,
    oracle: Annotated[
        str | None, typer.Option(help="bayesian (default), random, hyperband or grid.")
    ] = None,
    objectives: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            help="val_accuracy (default), val_loss, seconds, parameters or latency_ms; repeatable: "
            "the first guides the search and decides, the table marks what none beats in all.",
        ),
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="YAML of what varies, in place of the default space.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="NAME=VALUE fixes a parameter, NAME=[A, B] or NAME={low: A, high: B, log: true} "
            "restricts or adds one; repeatable.",
        ),
    ] = None,
    keep: Annotated[int | None, typer.Option(help="Backbones to search over [2].")] = None,
    prune: Annotated[
        bool | None, typer.Option("--prune/--no-prune", help="End trials without hope [yes].")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Standard errors of its accuracy by which a trial must lead the default recipe "
            "to win; 0 takes the best [1]. Where the objective is another, the best wins."
        ),
    ] = None,
    max_time: Annotated[
        float | None, typer.Option(min=0, help="Minutes after which no epoch is started.")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            help="Processes that train at the same time; with --distribute each takes all devices."
        ),
    ] = 1,
    chief: Annotated[
        str | None,
        typer.Option(help="HOST:PORT to give trials out at; with --worker, to take them from."),
    ] = None,
    worker: Annotated[
        bool,
        typer.Option(
            "--worker",
            help="Train for the --chief whose folder is --output; start it once that listens.",
        ),
    ] = False,
    strategy: Annotated[str | None, typer.Option(help="Of the first trial [lpft].")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of every trial [10].")] = None,
    image_size: Annotated[int | None, typer.Option(help="As for train.")] = None,
    aspect: Annotated[str | None, typer.Option(help="As for train.")] = None,
    input_range: Annotated[str | None, typer.Option(help="As for train.")] = None,
    weights: Annotated[str | None, typer.Option(help="As for train.")] = None,
    validation: Annotated[
        float | None, typer.Option(help="Share held out to compare trials [0.15].")
    ] = None,
    test: Annotated[
        float | None, typer.Option(help="Share held out to measure the winner [0.15].")
    ] = None,
    distribute: Distribute = None,
    seed: Annotated[int | None, typer.Option(help="Of the search and every trial [0].")] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Find the best recipe for a folder of photos; the first trial is the default one."""
    if output is None:
        raise typer.BadParameter("--output FOLDER is needed: where the search is written.")
    if worker and chief is None:
        raise typer.BadParameter("--worker needs --chief HOST:PORT, which gives it trials.")
    if source is None and not (resume or worker):
        raise typer.BadParameter("name a folder of photos, or --resume.")
    if worker and (ignored := _given_besides(_OF_A_WORKER, context)):
        raise typer.BadParameter(
            "--worker trains what its chief gives out, one trial at a time: leave out "
            f"{', '.join(ignored)}."
        )
    if source is None and (ignored := _given_besides(_OF_THE_CALL, context)):
        raise typer.BadParameter(
            "without a folder of photos the search in --output goes on as it was asked for: leave "
            f"out {', '.join(ignored)}, or start a new search with another --output."
        )
    fields = {
        "data": source and os.path.abspath(source),
        "weights": weights and absolute(weights),
        "strategy": strategy,
        "image_size": image_size,
        "aspect": aspect,
        "input_range": input_range and parse_range(input_range),
        "validation": validation,
        "test": test,
        "distribute": distribute,
        "seed": seed,
        "strategy_parameters": {"epochs": epochs} if epochs is not None else None,
    }
    asked = {
        "oracle": oracle,
        "objectives": objectives or None,
        "keep": keep,
        "prune": prune,
        "margin": margin,
        "trials": trials,
    }
    names = [absolute(name) for name in backbones or []]
    varied = parse_settings(settings or [])
    log = output / "log.txt"
    hint = f"Continue with `tfinetune search --resume --output {output}`."
    with session(log=log, on_interrupt=hint) as console:
        warn_of(trust, console)
        from tfinetune import search
        from tfinetune.reporting import Reporter

        if worker:
            search.work(chief, output, trust=trust, reporter=Reporter(console))
            return
        question = None
        if source is not None:
            question = _question(_given(fields), names, space, varied, _given(asked))
        found = search.run(
            question,
            output,
            resume=resume,
            max_time=None if max_time is None else 60 * max_time,
            workers=workers,
            chief=chief,
            trust=trust,
            reporter=Reporter(console),
        )
        if as_json:
            print_json(found.to_dict())
        else:
            show_search(found)


def _given_besides(names: tuple[str, ...], context: typer.Context) -> list[str]:
    """Return the options that were given on the command line and have none of these names."""
    origin = context.get_parameter_source
    return [
        option.opts[0]
        for option in context.command.params
        if option.name not in names and origin(option.name).name == "COMMANDLINE"
    ]


def _question(
    fields: dict[str, Any],
    backbones: list[str],
    space: Path | None,
    varied: dict[str, Any],
    asked: dict[str, Any],
) -> "SearchRecipe":
    from tfinetune.recipe import Recipe
    from tfinetune.search import SearchRecipe, Space

    recipe = Recipe(backbone=backbones[0] if backbones else "", **fields)
    drawn = Space.load(space) if space else Space.default(recipe)
    drawn = _from_anywhere(drawn.replace(**varied))
    several = tuple(backbones) if len(backbones) > 1 else ()
    return SearchRecipe(recipe=recipe, space=drawn, backbones=several, **asked)


def _from_anywhere(space: "Space") -> dict[str, Any]:
    """Return what a space is made of, its files found from any folder as that of `--backbone`."""

    def found(name: str, values: list[Any]) -> list[Any]:
        return [absolute(value) for value in values] if name in _FILES else values

    domains = space.to_dict()
    for name, domain in domains.items():
        if "values" in domain:
            domain["values"] = found(name, domain["values"])
        if "when" in domain:
            domain["when"] = {parent: found(parent, of) for parent, of in domain["when"].items()}
    return domains


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def show_search(found: "Search") -> None:
    """Show the ranking of the backbones, the leaderboard and where the winner lies."""
    if found.ranking:
        table = _table("backbones, before training", "backbone", "probe", "LogME", "H-score",
                       "parameters", "seconds")  # fmt: skip
        for row in found.ranking:
            if row.reason:
                table.add_row(row.backbone, "cannot be used: " + row.reason)
            else:
                table.add_row(
                    row.backbone,
                    f"{row.probe_accuracy:.1%}",
                    f"{row.log_me:.3f}",
                    f"{row.h_score:.2f}",
                    f"{row.parameters:,}",
                    f"{row.seconds:.1f}",
                )
        results().print(table)
    from tfinetune.evaluation.formatting import duration
    from tfinetune.search import describe, measured

    objectives = found.folder.recipe().objectives
    front = {result.trial for result in found.pareto} if len(objectives) > 1 else set()
    table = _table("trials", "trial", *objectives, "time", "status", "other than the default")
    for result in found.leaderboard:
        mark = " *" if result.trial in front else ""
        reached = [measured(result, name) for name in objectives]
        told = describe(result, found.leaderboard)
        table.add_row(result.trial + mark, *reached, duration(result.seconds), result.status, told)
    results().print(table)
    if front:
        results().print("* no trial is as good in every objective and better in one.")
    results().print(found.verdict)
    test = found.best.metrics["test"]
    if test:
        results().print(f"accuracy of the winner, test: {test['accuracy']:.1%}")
    results().print(f"the winner is a run: {found.folder.best_path}", soft_wrap=True)


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
