"""Write files so that a reader finds the old one, the new one, or none: never half of one.

Everything is written beside its destination and renamed, so a full disk or a killed process leaves
what was there before.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfinetune.errors import StorageError, TfinetuneError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place when the block succeeds.

    Serves a file and a folder alike: whatever the block creates there takes the place of `path`.
    The temporary name keeps the suffix, since Keras chooses a format by it.

    Raises:
        StorageError: if the system refuses to write (full disk, size limit, permission). What was
            at `path` is untouched and the partial file is removed.
    """
    path = Path(path).resolve()
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if path.is_dir():
            # A non-empty folder cannot be renamed over: move it aside first.
            aside = temporary.with_name(temporary.name + ".old")
            path.rename(aside)
            try:
                temporary.rename(path)
            except OSError:
                aside.rename(path)
                raise
            shutil.rmtree(aside, ignore_errors=True)
        else:
            temporary.replace(path)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise StorageError(
                f"Could not write {path}: {error.strerror or error}. Nothing was changed there. "
                "Free some space or choose another --output."
            ) from error
        raise


def claim_folder(path: Path, *, resumable: Path, error_class: type[TfinetuneError]) -> None:
    """Make a folder, or take one that is empty.

    Args:
        path: of the folder.
        resumable: what is in it where something was begun that can go on.
        error_class: what is raised.

    Raises:
        TfinetuneError: of that class, if there is something in the folder, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as error:
        raise error_class(f"Cannot use the folder {path}: {error.strerror}.") from None
    if taken:
        way_out = "add --resume to go on with what is there, or " if resumable.exists() else ""
        raise error_class(
            f"{path} is not empty. Nothing was changed there: {way_out}choose another --output."
        )


def remove_partials(folder: str | Path, *, recursive: bool = True) -> None:
    """Remove what writes that were killed left in `folder`; no other process may write there.

    Args:
        folder: looked through.
        recursive: whether the folders in it are, too.
    """
    pattern = "**/.*.partial*" if recursive else ".*.partial*"
    for path in sorted(Path(folder).glob(pattern)):
        _remove(path)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically and flushed to the disk."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256_file(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
