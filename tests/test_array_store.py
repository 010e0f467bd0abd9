"""The array store: whole or not at all, checked, capped, shared by processes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tfinetune.array_store import ArrayStore, default_folder
from tfinetune.errors import DamagedError, StorageError

VALUES = np.arange(60, dtype="float32").reshape(10, 6)
TOKENS = np.arange(10, dtype="int32")


def write(store, key, values=VALUES):
    batches = ([values[start : start + 4], TOKENS[start : start + 4]] for start in (0, 4, 8))
    with store.lock(key):
        store.write(key, batches, rows=len(values), description=f"the values of {key}")


def test_arrays_come_back_as_they_were_mapped_and_read_only(tmp_path):
    store = ArrayStore(tmp_path)
    assert store.open("a") is None
    write(store, "a")
    values, tokens = store.open("a")
    np.testing.assert_array_equal(values, VALUES)
    np.testing.assert_array_equal(tokens, TOKENS)
    assert isinstance(values, np.memmap) and not values.flags.writeable
    (entry,) = store.entries()
    assert (entry.key, entry.description) == ("a", "the values of a")
    assert entry.size == sum(file.stat().st_size for file in (tmp_path / "a").glob("*.npy"))


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "index"])
def test_damaged_entry_is_refused_and_removed(tmp_path, damage):
    store = ArrayStore(tmp_path)
    write(store, "a")
    file = tmp_path / "a" / "0.npy"
    if damage == "flip":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        os.truncate(file, 100)
    elif damage == "missing":
        file.unlink()
    else:
        (tmp_path / "a" / "entry.json").write_text('{"sha256": [')
    with pytest.raises(DamagedError, match="a were damaged"):
        store.open("a")
    assert store.open("a") is None


def test_entries_used_longest_ago_give_way(tmp_path):
    store = ArrayStore(tmp_path, capacity=1200)  # room for two
    for age, key in enumerate("ab"):
        write(store, key)
        moment = time.time() - 100 + age
        os.utime(tmp_path / key / "entry.json", (moment, moment))
    store.open("a")  # used last
    write(store, "c")
    assert [entry.key for entry in store.entries()] == ["c", "a"]


def test_entry_larger_than_the_capacity_is_refused_before_it_is_written(tmp_path):
    store = ArrayStore(tmp_path, capacity=100)
    with pytest.raises(StorageError, match="exceed the capacity"):
        write(store, "a")
    assert store.entries() == [] and list(tmp_path.glob(".a-*")) == []


def test_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path):
    script = (
        "import resource, sys, numpy as np\n"
        "from tfinetune.array_store import ArrayStore\n"
        "from tfinetune.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "store = ArrayStore(sys.argv[1])\n"
        "try:\n"
        "    store.write('a', [[np.zeros((100, 100))]], rows=100, description='')\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys, time, numpy as np
from tfinetune.array_store import ArrayStore
store = ArrayStore(sys.argv[1])
def batches():
    yield [np.zeros((1, 8), "float32")]
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
    yield [np.ones((1, 8), "float32")]
with store.lock("a"):
    store.write("a", batches(), rows=2, description="")
"""


def start_writer(folder, seconds):
    command = [sys.executable, "-c", WRITER, str(folder), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def test_killed_writer_leaves_no_entry_and_no_lock(tmp_path):
    process = start_writer(tmp_path, 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = ArrayStore(tmp_path)
    assert store.open("a") is None and list(tmp_path.glob(".a-*.partial"))
    write(store, "a")
    assert store.open("a") is not None and not list(tmp_path.glob(".a-*.partial"))


def test_second_process_waits_for_the_writer_and_finds_the_entry(tmp_path):
    process = start_writer(tmp_path, 0.5)
    store, waited = ArrayStore(tmp_path), []
    with store.lock("a", on_wait=lambda: waited.append(True)):
        (values,) = store.open("a")
    assert waited and values.sum() == 8
    assert process.wait() == 0


def test_clear_spares_what_another_process_is_writing(tmp_path):
    store = ArrayStore(tmp_path)
    write(store, "b")
    process = start_writer(tmp_path, 0.5)
    assert [entry.key for entry in store.clear()] == ["b"]
    assert process.wait() == 0
    assert [entry.key for entry in store.entries()] == ["a"]


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="Cannot write in"),
        ArrayStore(tmp_path / "file").lock("a"),
    ):
        pass


def test_folder_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TFINETUNE_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("TFINETUNE_CACHE")
    assert default_folder().parts[-2:] == (".cache", "tfinetune")


def test_index_is_readable_json(tmp_path):
    write(ArrayStore(tmp_path), "a")
    index = json.loads((tmp_path / "a" / "entry.json").read_text())
    assert set(index) == {"description", "size", "sha256"}
