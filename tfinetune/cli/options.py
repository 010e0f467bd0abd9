"""Options that several commands take, from text to values."""

from typing import get_args

import typer


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
