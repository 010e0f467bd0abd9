"""`tfinetune cache`: what frozen layers left on the disk, and the way to remove it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from tfinetune.cli.console import results, session
from tfinetune.cli.tables import print_json

app = typer.Typer(help="List or clear the cached outputs of frozen layers.", no_args_is_help=True)
Folder = Annotated[
    Path | None,
    typer.Option(help="Where they lie [$TFINETUNE_CACHE, else ~/.cache/tfinetune]."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_entries(folder: Folder = None, as_json: AsJson = False) -> None:
    """List cached features, the ones used last first."""
    with session():
        from tfinetune.array_store import ArrayStore

        store = ArrayStore(folder)
        entries = store.entries()
        if as_json:
            print_json([vars(entry) for entry in entries])
            return
        table = Table("features", "size", "key")
        for entry in entries:
            table.add_row(entry.description, decimal(entry.size), entry.key[:12])
        results().print(table)
        total = decimal(sum(entry.size for entry in entries))
        limit = f"at most {decimal(store.capacity)} are kept."
        results().print(f"{total} in {store.folder}; {limit}", soft_wrap=True)


@app.command()
def clear(folder: Folder = None, as_json: AsJson = False) -> None:
    """Remove all cached features. They are computed again when they are needed."""
    with session():
        from tfinetune.array_store import ArrayStore

        store = ArrayStore(folder)
        removed = store.clear()
        size = sum(entry.size for entry in removed)
        if as_json:
            print_json({"removed": len(removed), "bytes": size})
        else:
            sentence = f"Removed {len(removed)} entries, {decimal(size)}, in {store.folder}."
            results().print(sentence, soft_wrap=True)
