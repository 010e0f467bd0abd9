"""Options that several commands take, from text to values."""

import os
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

if TYPE_CHECKING:
    from rich.console import Console

Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Let a SavedModel read, write and execute what it likes: only if you know its maker.",
    ),
]

Distribute = Annotated[
    str | None,
    typer.Option(
        help="none (default), mirrored (shares each step out among all GPUs that the process sees: "
        "CUDA_VISIBLE_DEVICES) or tpu."
    ),
]


def warn_of(trust: bool, console: "Console") -> None:
    """Say what `--trust` means, where it was given."""
    if trust:
        console.print(
            "Warning: with --trust a SavedModel may read, write and execute whatever you may. "
            "Nothing of it is checked for that."
        )


def parse_range(text: str) -> tuple[float, float] | str:
    """Return (low, high), or the name of a convention of keras.applications.

    Raises:
        typer.BadParameter: if it is neither.
    """
    from tfinetune.recipe import Preset  # pydantic is too slow for --help

    if text in get_args(Preset):
        return text
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"--input-range takes LO,HI such as -1,1, or one of {', '.join(get_args(Preset))}; "
            f"got {text!r}."
        ) from None
    return low, high


def absolute(name: str) -> str:
    """Return the absolute path of a file or folder; the name of anything else as it is."""
    is_path = os.path.isfile(name) or (os.path.isdir(name) and not _is_name(name))
    return os.path.abspath(name) if is_path else name


def _is_name(name: str) -> bool:
    """Whether a name is that of an architecture or weights, even beside a folder of that name."""
    from tfinetune.backbones.applications import find_application

    return name.lower() in ("imagenet", "none") or find_application(name) is not None


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Return names and YAML values of NAME=VALUE.

    Raises:
        typer.BadParameter: if one is something else.
    """
    import yaml

    parameters = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set takes NAME=VALUE; got {setting!r}.")
        try:
            parameters[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise typer.BadParameter(f"--set {name}: {value!r} is not a value.") from None
    return parameters
