"""One search at a time in a folder, and what writers that were killed left there."""

import subprocess
import sys

import pytest

from tfinetune.errors import SearchError
from tfinetune.search import SearchFolder, run


@pytest.fixture
def folder(search_recipe, tmp_path):
    return SearchFolder.create(tmp_path / "s", search_recipe())


def test_second_search_in_a_folder_is_refused(folder):
    with (
        folder.held(),
        pytest.raises(SearchError, match="s is being searched by another process. Wait"),
    ):
        run(None, folder.path, resume=True)


def test_search_that_was_killed_leaves_its_folder_free(folder):
    hold = "import sys, time, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire()\n"
    hold += "print('held', flush=True); time.sleep(600)"
    path = str(folder.path / "search.lock")
    process = subprocess.Popen([sys.executable, "-c", hold, path], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(SearchError, match="another process"), folder.held():
            pass
    finally:
        process.kill()
        process.wait()
    with folder.held():
        pass


def test_what_killed_writers_left_goes_but_not_what_workers_may_be_writing(folder):
    left = [folder.path / ".report-1.partial.html", folder.trials_path / ".oracle-1.partial.json"]
    written = folder.trial_path("0") / ".checkpoint-1.partial.npz"
    for path in (*left, written):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with folder.held():
        assert not any(path.exists() for path in left) and written.exists()
