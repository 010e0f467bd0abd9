"""The `tfinetune` command. Each subcommand is a module that parses, calls and prints.

No module here imports TensorFlow before its command runs, so that `--help` answers at once.
"""

import sys

import typer

from tfinetune.cli import cache, demo, evaluate, export, inspect, predict, search, train
from tfinetune.cli.console import DEBUG_FLAG

app = typer.Typer(
    name="tfinetune",
    help="Fine-tune pretrained Keras models: photos in, a servable model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=f"Any command takes {DEBUG_FLAG}: it shows tracebacks and TensorFlow's own messages.",
)
app.command("demo")(demo.command)
app.command("train")(train.command)
app.command("search")(search.command)
app.command("evaluate")(evaluate.command)
app.command("predict")(predict.command)
app.command("inspect")(inspect.command)
app.command("export")(export.command)
app.add_typer(cache.app, name="cache")


def main() -> None:
    """Run the command line; `--debug` may stand anywhere."""
    app(args=[argument for argument in sys.argv[1:] if argument != DEBUG_FLAG])
