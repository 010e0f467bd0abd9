"""A folder of arrays shared by processes: checked when opened, capped in size, the oldest go first.

Each entry is a folder of `.npy` files that are memory-mapped for reading, and an `entry.json` that
is their size, checksum and description. It appears whole or not at all, under a lock: one process
writes an entry, others that want the same wait for it.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from tfinetune.errors import DamagedError, StorageError
from tfinetune.storage import atomic_path, sha256_file, write_json

DEFAULT_CAPACITY = 10 * 2**30
FOLDER_VARIABLE = "TFINETUNE_CACHE"
_INDEX = "entry.json"


@dataclass(frozen=True)
class Entry:
    """What is known of one entry.

    Attributes:
        key: its name.
        description: what its writer said of it.
        size: bytes of its arrays.
        used: when it was last opened, in seconds since 1970.
    """

    key: str
    description: str
    size: int
    used: float


class ArrayStore:
    """Arrays by key in one folder.

    Args:
        folder: made when first written to; None takes `$TFINETUNE_CACHE`, else
            `~/.cache/tfinetune`.
        capacity: bytes; past it, the entries that were not used for the longest time go.
    """

    def __init__(self, folder: str | Path | None = None, *, capacity: int = DEFAULT_CAPACITY):
        self.folder = Path(folder or default_folder())
        self.capacity = capacity

    @contextlib.contextmanager
    def lock(self, key: str, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the right to write `key`; whoever else wants it waits.

        Args:
            key: of the entry.
            on_wait: called where another process holds it.

        Raises:
            StorageError: if the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / f"{key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                on_wait()
                lock.acquire()
        except OSError as error:
            raise StorageError(f"Cannot write in {self.folder}: {error.strerror}.") from None
        try:
            yield
        finally:
            lock.release()

    def open(self, key: str) -> list[np.ndarray] | None:
        """Return the arrays of an entry, memory-mapped and read-only; None where there is none.

        Raises:
            DamagedError: if a file is not what was written; the entry is removed.
        """
        folder = self.folder / key
        try:
            index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            files = [folder / name for name in index["sha256"]]
            sound = [sha256_file(file) for file in files] == list(index["sha256"].values())
            arrays = [np.load(file, mmap_mode="r", allow_pickle=False) for file in files]
        except FileNotFoundError:
            if not folder.exists():
                return None
            sound = False
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            shutil.rmtree(folder, ignore_errors=True)
            raise DamagedError(f"The stored arrays in {folder} were damaged and are removed.")
        with contextlib.suppress(OSError):  # a read-only store serves too
            os.utime(folder / _INDEX)
        return arrays

    def write(
        self,
        key: str,
        batches: Iterable[Sequence[np.ndarray]],
        *,
        rows: int,
        description: str,
    ) -> None:
        """Write an entry batch by batch, so that memory does not grow with it. Hold its lock.

        Args:
            key: of the entry.
            batches: arrays `[b, …]` that together have `rows` rows, as many in each batch.
            rows: in all.
            description: shown by `entries`.

        Raises:
            StorageError: if the disk is full, refuses, or the entry exceeds the capacity.
        """
        self._remove_partials(key)  # of a writer that was killed
        with atomic_path(self.folder / key) as folder, contextlib.ExitStack() as stack:
            folder.mkdir()
            files, paths = [], []
            for batch in batches:
                if not files:
                    size = rows * sum(array[0].nbytes for array in batch)
                    if size > self.capacity:
                        raise StorageError(
                            f"{size:,} bytes exceed the capacity of {self.folder}, "
                            f"{self.capacity:,} bytes."
                        )
                    paths = [folder / f"{index}.npy" for index in range(len(batch))]
                    files = [stack.enter_context(open(path, "wb")) for path in paths]
                    for file, array in zip(files, batch, strict=True):
                        _write_header(file, rows, array)
                for file, array in zip(files, batch, strict=True):
                    file.write(np.ascontiguousarray(array).data)
            stack.close()
            write_json(
                folder / _INDEX,
                {
                    "description": description,
                    "size": sum(path.stat().st_size for path in paths),
                    "sha256": {path.name: sha256_file(path) for path in paths},
                },
            )
        self._evict(keep=key)

    def entries(self) -> list[Entry]:
        """Return every whole entry, the one used last first."""
        found = []
        for path in self.folder.glob(f"*/{_INDEX}"):
            with contextlib.suppress(OSError, ValueError, KeyError):  # another process removes it
                index = json.loads(path.read_text(encoding="utf-8"))
                used = path.stat().st_mtime
                found.append(Entry(path.parent.name, index["description"], index["size"], used))
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> list[Entry]:
        """Remove every entry that nobody writes at the moment; return what was removed."""
        removed = self.entries()
        for entry in removed:
            shutil.rmtree(self.folder / entry.key, ignore_errors=True)
        for path in self.folder.glob("*.lock"):
            lock = FileLock(path)
            with contextlib.suppress(Timeout, OSError), lock.acquire(timeout=0):
                self._remove_partials(path.stem)
                path.unlink(missing_ok=True)
        return removed

    def _remove_partials(self, key: str) -> None:
        for partial in self.folder.glob(f".{key}-*.partial"):
            shutil.rmtree(partial, ignore_errors=True)

    def _evict(self, *, keep: str) -> None:
        """Remove the entries used longest ago until the rest fits, but not `keep`.

        A process that has one mapped goes on reading it: its files live until they are unmapped.
        """
        room = self.capacity
        for entry in sorted(self.entries(), key=lambda entry: entry.key != keep):
            room -= entry.size
            if room < 0 and entry.key != keep:
                shutil.rmtree(self.folder / entry.key, ignore_errors=True)


def default_folder() -> Path:
    """Return where arrays are kept unless told otherwise."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "tfinetune"


def _write_header(file: Any, rows: int, like: np.ndarray) -> None:
    """Begin a `.npy` file of `rows` rows like those of an array."""
    header = {
        "descr": np.lib.format.dtype_to_descr(like.dtype),
        "fortran_order": False,
        "shape": (rows, *like.shape[1:]),
    }
    np.lib.format.write_array_header_2_0(file, header)
