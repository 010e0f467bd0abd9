"""Find the photos of a folder: which file belongs to which class and which split."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfinetune.errors import DataError

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_LITTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "icon\r"})


@dataclass(frozen=True)
class Candidate:
    """A file that lies where a photo is expected.

    Attributes:
        id: path relative to the data folder, with forward slashes; bytes of a name that are not
            UTF-8 are written as \\xNN.
        class_name: name of the class folder.
        split: "train", "validation", "test", or None where the folders do not say.
    """

    id: str
    path: Path
    class_name: str
    split: str | None


def find_candidates(directory: Path) -> tuple[list[Candidate], list[str]]:
    """List the files of `directory/class/*` or `directory/{train,validation,test}/class/*`.

    Sub-folders of a class belong to it. Split folders are recognized in any case, also as `val`,
    `valid`, `training` and `testing`. Class names are normalized (NFC), so that folders written on
    different systems agree.

    Returns:
        Candidates sorted by id, and the ids of the strays: hidden files, litter of operating
        systems, and files outside a class folder.

    Raises:
        DataError: if the folder or one below it cannot be read, or split folders lie beside others.
    """
    class_folders, strays = _class_folders(directory)
    candidates = []
    for split, folders in class_folders.items():
        for folder in folders:
            for file in _files(folder):
                id = _id(file, directory)
                if any(_is_litter(part) for part in file.relative_to(folder).parts):
                    strays.append(id)
                else:
                    candidates.append(Candidate(id, file, _class_name(folder), split))
    return sorted(candidates, key=lambda candidate: candidate.id), sorted(strays)


def find_classes(directory: Path) -> tuple[str, ...]:
    """Return the names of all class folders, sorted, also of those that hold no file.

    Raises:
        DataError: as `find_candidates`.
    """
    class_folders, _ = _class_folders(directory)
    return tuple(
        sorted({_class_name(folder) for split in class_folders.values() for folder in split})
    )


def _class_folders(directory: Path) -> tuple[dict[str | None, list[Path]], list[str]]:
    """Return the class folders of each split, and the ids of the files outside of them."""
    if not directory.is_dir():
        state = "is not a folder" if directory.exists() else "does not exist"
        raise DataError(
            f"Cannot read photos: {directory} {state}. Pass a folder with one sub-folder per class."
        )
    folders, beside = _subfolders(directory)
    by_split = defaultdict(list)
    for folder in folders:
        by_split[_SPLIT_NAMES.get(folder.name.casefold())].append(folder)
    others = by_split.pop(None, [])
    found, inner = defaultdict(list), []
    for split, parents in by_split.items():
        for parent in parents:
            classes, files = _subfolders(parent)
            found[split] += classes
            inner += files
    # A class may be called "train" or "test", too: then it holds photos and no folders.
    if not any(found.values()):
        return {None: folders}, [_id(file, directory) for file in beside]
    if others:
        names = ", ".join(sorted(folder.name for folder in others))
        raise DataError(
            f"{directory} holds split folders beside others: {names}. Keep only train, validation "
            "and test there, each with one sub-folder per class."
        )
    return found, [_id(file, directory) for file in beside + inner]


def _subfolders(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders in `folder`, sorted, and all files outside of them."""
    try:
        children = [(child, child.is_dir()) for child in sorted(folder.iterdir())]
    except OSError as error:
        raise DataError(f"Cannot read the folder {folder}: {error.strerror}.") from error
    folders, files = [], []
    for child, is_folder in children:
        if not is_folder:
            files.append(child)
        elif _is_litter(child.name):
            files += _files(child)
        else:
            folders.append(child)
    return folders, files


def _files(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder`; links to files are followed, links to folders are not."""

    def refuse(error: OSError) -> None:
        path = Path(error.filename)
        if not any(_is_litter(part) for part in path.relative_to(folder.parent).parts):
            raise DataError(f"Cannot read the folder {path}: {error.strerror}.") from error

    for parent, subfolders, names in os.walk(folder, onerror=refuse):
        subfolders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def _id(file: Path, directory: Path) -> str:
    return printable(file.relative_to(directory).as_posix())


def _class_name(folder: Path) -> str:
    return unicodedata.normalize("NFC", printable(folder.name))


def printable(name: str) -> str:
    """Spell out what is not UTF-8: such a name can be opened, but neither printed nor saved."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _LITTER


def find_files(paths: Sequence[str | Path]) -> list[tuple[Path, bool]]:
    """List files and everything below folders, hidden files and litter left out.

    Returns:
        (file, whether it was named itself) in the order given; below folders, sorted.

    Raises:
        DataError: if a path does not exist, or a folder cannot be read.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            found += [
                (file, False)
                for file in _files(path)
                if not any(_is_litter(part) for part in file.relative_to(path).parts)
            ]
        elif path.exists():
            found.append((path, True))
        else:
            raise DataError(f"{path} does not exist. Name image files or folders of them.")
    return found
