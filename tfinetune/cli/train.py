"""`tfinetune train`: photos and a backbone in, a finished run folder out."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfinetune.cli.console import resume_hint, session
from tfinetune.cli.options import Distribute, Trust, absolute, parse_range, parse_settings, warn_of
from tfinetune.cli.tables import show_plan, show_run

if TYPE_CHECKING:
    from tfinetune.reporting import Reporter
    from tfinetune.training import FeatureCache


def command(
    source: Annotated[
        Path | None,
        typer.Argument(help="Folder of photos: DIR/class/* or DIR/{train,val,test}/class/*."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="A .h5 or .keras file, or a keras.applications name."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder to write.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Reproduce a recipe.yaml.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and its time; train nothing.")
    ] = False,
    strategy: Annotated[
        str | None,
        typer.Option(help="lpft (default), linear_probe, head, gradual_unfreezing or full."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of fine-tuning [10].")] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, any parameter of the strategy; repeatable."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Pixels [the backbone's own size].")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="What to build on: auto (compares depths on your photos), a group (stage_3) "
            "or a layer [all but the top]."
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Function or signature to call of a SavedModel.")
    ] = None,
    trust: Trust = False,
    aspect: Annotated[str | None, typer.Option(help="stretch (default), crop or pad.")] = None,
    input_range: Annotated[
        str | None,
        typer.Option(
            help="LO,HI that pixels 0 and 255 become for the backbone, or a convention of "
            "keras.applications: tf, unit, raw, torch, caffe [detected]."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="imagenet (default), none (random) or a weights file.")
    ] = None,
    validation: Annotated[
        float | None, typer.Option(help="Share held out to choose the model [0.15].")
    ] = None,
    test: Annotated[float | None, typer.Option(help="Share held out to measure it [0.15].")] = None,
    augmentation: Annotated[
        str | None,
        typer.Option(
            help="light (default), no_flip, standard, strong, none, or operations such as "
            "'flip, rotate=15, mixup=0.2'."
        ),
    ] = None,
    class_weights: Annotated[
        str | None, typer.Option(help="auto (default: past 3:1), always or never.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Rate before the last layer [0.2].")] = None,
    head_units: Annotated[
        int | None,
        typer.Option(help="Outputs of a hidden layer before the last one [0: no such layer]."),
    ] = None,
    head_activation: Annotated[
        str | None, typer.Option(help="Of the hidden layer: relu (default), gelu, silu or tanh.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="float32 (default), mixed_bfloat16, mixed_float16, or auto: the fastest here."
        ),
    ] = None,
    distribute: Distribute = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Photos a step, all devices together [32].")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of split, order, augmentation and head [0].")
    ] = None,
    cache_memory: Annotated[
        float | None,
        typer.Option(
            help="GiB of memory for outputs of frozen layers; more is read from disk [2]."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Fine-tune a pretrained model on a folder of photos."""
    if output is None and (resume or not dry_run):
        raise typer.BadParameter("--output RUN is needed: where the run folder is written.")
    if resume and recipe is not None:
        raise typer.BadParameter(
            "--resume continues with the run's own recipe; leave out --recipe."
        )
    if source is None and recipe is None and not resume:
        raise typer.BadParameter("name a folder of photos, or --recipe FILE, or --resume.")
    given = {
        "data": source and os.path.abspath(source),
        "backbone": backbone and absolute(backbone),
        "weights": weights and absolute(weights),
        "image_size": image_size,
        "features": features,
        "endpoint": endpoint,
        "input_range": input_range and parse_range(input_range),
        "aspect": aspect,
        "validation": validation,
        "test": test,
        "strategy": strategy,
        "augmentation": augmentation,
        "class_weights": class_weights,
        "dropout": dropout,
        "head_units": head_units,
        "head_activation": head_activation,
        "precision": precision,
        "distribute": distribute,
        "batch_size": batch_size,
        "seed": seed,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    strategy_parameters = parse_settings(parameters or [])
    if epochs is not None:
        strategy_parameters["epochs"] = epochs
    log = output / "log.txt" if output else None
    with session(log=log, on_interrupt=resume_hint(output) if output else "") as console:
        warn_of(trust, console)

        from tfinetune.recipe import Recipe
        from tfinetune.runs import RunFolder

        from_file = RunFolder.resume(output).recipe_path if resume else recipe
        base = Recipe.load(from_file) if from_file else None
        if strategy_parameters:
            kept = base.strategy_parameters if base and strategy in (None, base.strategy) else {}
            fields["strategy_parameters"] = {**kept, **strategy_parameters}
        elif base and strategy not in (None, base.strategy):
            fields["strategy_parameters"] = {}

        from tfinetune import workflow
        from tfinetune.reporting import Reporter

        reporter = Reporter(console)
        cache = _feature_cache(cache_memory, reporter)
        wanted = base.replace(**fields) if base else Recipe(**fields)
        if dry_run:
            show_plan(workflow.plan(wanted, trust=trust, cache=cache, reporter=reporter))
            return
        run = workflow.train(
            wanted, output, resume=resume, trust=trust, cache=cache, reporter=reporter
        )
        show_run(run, as_json=as_json)


def _feature_cache(gibibytes: float | None, reporter: "Reporter") -> "FeatureCache":
    from tfinetune.array_store import ArrayStore
    from tfinetune.training.feature_cache import DEFAULT_MEMORY, FeatureCache

    memory = DEFAULT_MEMORY if gibibytes is None else int(gibibytes * 2**30)
    return FeatureCache(ArrayStore(), memory=memory, reporter=reporter)
