"""Atomic writes: the old file, the new one, or none."""

import subprocess
import sys

import pytest

from tfinetune.errors import StorageError
from tfinetune.storage import atomic_path, sha256_file, write_json, write_text


def test_failure_in_the_block_keeps_the_old_file_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="stop"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_folder_replaces_folder(tmp_path):
    folder = tmp_path / "model"
    for content in ("one", "two"):
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            (temporary / "file").write_text(content)
    assert (folder / "file").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_folder_that_fails_keeps_the_old_one(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "file").write_text("old")
    with pytest.raises(StorageError, match="No space left"), atomic_path(folder) as temporary:
        temporary.mkdir()
        raise OSError(28, "No space left on device")
    assert (folder / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_full_disk_is_one_clear_error_and_no_half_file(tmp_path):
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from tfinetune.storage import write_text\n"
        "from tfinetune.errors import StorageError\n"
        "try:\n"
        "    write_text(sys.argv[1], 'x' * 100_000)\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "big.txt"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert "Could not write" in done.stdout and "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_hashes_are_sha256(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_file(tmp_path / "empty") == empty


def test_json_is_readable_text_in_a_folder_made_for_it(tmp_path):
    write_json(tmp_path / "sub" / "a.json", {"é": 1})
    assert (tmp_path / "sub" / "a.json").read_text(encoding="utf-8") == '{\n  "é": 1\n}\n'
