"""`tfinetune cache`: what is kept, how much, and gone when asked."""

import json

import numpy as np
import pytest

from tfinetune.array_store import ArrayStore


@pytest.fixture
def store(tmp_path):
    store = ArrayStore(tmp_path)
    for key in ("first", "second"):
        values = np.ones((3, 1000), "float32")
        with store.lock(key):
            store.write(key, [[values]], rows=3, description=f"features of {key}")
    return store


def test_list_names_features_and_their_size(here, store):
    done = here("cache", "list", "--folder", store.folder)
    assert done.returncode == 0
    assert "features of first" in done.stdout and "features of second" in done.stdout
    assert "24.3 kB in" in done.stdout and "at most 10.7 GB" in done.stdout
    rows = json.loads(here("cache", "list", "--folder", store.folder, "--json").stdout)
    assert {row["key"]: row["size"] for row in rows} == {"first": 12_128, "second": 12_128}


def test_clear_removes_all_and_says_how_much(here, store):
    done = here("cache", "clear", "--folder", store.folder)
    assert "Removed 2 entries, 24.3 kB" in done.stdout
    assert list(store.folder.iterdir()) == []
    assert json.loads(here("cache", "clear", "--folder", store.folder, "--json").stdout) == {
        "removed": 0,
        "bytes": 0,
    }


def test_folder_comes_from_the_environment_where_none_is_named(here, store, monkeypatch):
    monkeypatch.setenv("TFINETUNE_CACHE", str(store.folder))
    assert "features of first" in here("cache", "list").stdout
