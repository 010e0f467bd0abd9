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
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_LITTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "icon\r"})


@dataclass(frozen=True)
class Candidate:
    """A file that lies where a photo is expected.

    Attributes:
        id: path relative to the data folder, with forward slashes.
        class_name: name of the class folder.
        split: "train", "validation", "test", or None where the folders do not say.
    """

    id: str
    path: Path
    class_name: str
    split: str | None


def find_candidates(directory: Path) -> tuple[list[Candidate], list[str]]:
    """List the files of `directory/class/*` or `directory/{train,validation,test}/class/*`.

    Sub-folders of a class belong to it. Split folders are recognized in any case, also as `val` and
    `valid`. Class names are normalized (NFC), so that folders written on different systems agree.

    Returns:
        Candidates sorted by id, and the ids of the strays: hidden files, litter of operating
        systems, and files outside a class folder.

    Raises:
        DataError: if the folder is missing, or holds split folders beside others.
    """
    if not directory.is_dir():
        state = "is not a folder" if directory.exists() else "does not exist"
        raise DataError(
            f"Cannot read photos: {directory} {state}. Pass a folder with one sub-folder per class."
        )
    children = _children(directory)
    folders = [child for child in children if child.is_dir() and not _is_litter(child.name)]
    strays = [
        file.relative_to(directory).as_posix()
        for child in children
        if child not in folders
        for file in ([child] if not child.is_dir() else _files(child))
    ]
    candidates = []
    for split, classes in _class_folders(directory, folders, strays).items():
        for folder in classes:
            class_name = unicodedata.normalize("NFC", folder.name)
            for file in _files(folder):
                id = file.relative_to(directory).as_posix()
                if any(_is_litter(part) for part in file.relative_to(folder).parts):
                    strays.append(id)
                else:
                    candidates.append(Candidate(id, file, class_name, split))
    return sorted(candidates, key=lambda candidate: candidate.id), sorted(strays)


def _class_folders(
    directory: Path, folders: list[Path], strays: list[str]
) -> dict[str | None, list[Path]]:
    """Return the class folders of each split; what lies beside them is added to `strays`."""
    by_split = defaultdict(list)
    for folder in folders:
        by_split[_SPLIT_NAMES.get(folder.name.casefold())].append(folder)
    # A class may be called "train", too: then it holds photos and no folders.
    is_divided = any(
        child.is_dir() and not _is_litter(child.name)
        for folder in by_split.get("train", [])
        for child in _children(folder)
    )
    if not is_divided:
        return {None: folders}
    if others := by_split.pop(None, []):
        names = ", ".join(sorted(folder.name for folder in others))
        raise DataError(
            f"{directory} holds split folders beside others: {names}. Keep only train, validation "
            "and test there, each with one sub-folder per class."
        )
    found: dict[str | None, list[Path]] = {}
    for split, parents in by_split.items():
        found[split] = []
        for child in (child for parent in parents for child in _children(parent)):
            if child.is_dir() and not _is_litter(child.name):
                found[split].append(child)
            else:
                files = _files(child) if child.is_dir() else [child]
                strays.extend(file.relative_to(directory).as_posix() for file in files)
    return found


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"Cannot read the folder {folder}: {error.strerror}.") from error


def _files(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder`; links to files are followed, links to folders are not."""
    for parent, subfolders, names in os.walk(folder):
        subfolders.sort()
        yield from (Path(parent, name) for name in sorted(names))


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _LITTER


def find_files(paths: Sequence[str | Path]) -> list[tuple[Path, bool]]:
    """List files and everything below folders, hidden files and litter left out.

    Returns:
        (file, whether it was named itself) in the order given; below folders, sorted.

    Raises:
        DataError: if a path does not exist.
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
