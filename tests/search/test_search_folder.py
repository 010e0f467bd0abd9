"""One search at a time in a folder, and what writers that were killed left there."""

import subprocess
import sys

import pytest

from tfinetune.errors import SearchError
from tfinetune.search import SearchFolder, run
from tfinetune.search.setup import prepare


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


def test_folder_of_a_search_that_had_no_trial_can_be_used_again(search_recipe, workbench, tmp_path):
    nothing_held_out = search_recipe(recipe={"validation": 0})
    with pytest.raises(SearchError, match="none are held out"):
        run(nothing_held_out, tmp_path / "s", workbench=workbench)
    first = SearchFolder.open(tmp_path / "s")
    with first.held(), pytest.raises(SearchError, match="searched by another process"):
        SearchFolder.create(first.path, search_recipe())
    identity = first.identity()
    again = SearchFolder.create(first.path, search_recipe())
    assert again.recipe() == search_recipe() and again.identity() != identity
    assert {path.name for path in again.path.iterdir()} == {"search.yaml", "identity.txt"}
    notes = again.path / "notes.txt"
    notes.write_text("of the user")
    with pytest.raises(SearchError, match="is not empty. Nothing was changed there"):
        SearchFolder.create(first.path, search_recipe())
    assert again.recipe() == search_recipe() and notes.exists()
    notes.unlink()
    again.trial_path("0").mkdir(parents=True)
    with pytest.raises(SearchError, match="is not empty.*add --resume"):
        SearchFolder.create(first.path, search_recipe())


def test_photos_that_changed_since_the_search_began_are_noticed(prepared, workbench):
    assert len(prepared.folder.photos_path.read_text()) == 64
    prepare(prepared.folder, workbench)
    prepared.folder.photos_path.write_text("of other photos")
    with pytest.raises(SearchError, match="photos in .* changed since the search"):
        prepare(prepared.folder, workbench)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_time_that_is_none_is_refused_before_the_folder_is_made(seconds, search_recipe, tmp_path):
    with pytest.raises(SearchError, match=f"is 0 seconds or more; got {seconds}"):
        run(search_recipe(), tmp_path / "s", max_time=seconds)
    assert not (tmp_path / "s").exists()


def test_objective_that_is_named_twice_counts_once(search_recipe):
    asked = search_recipe(objectives=["val_loss", "seconds", "val_loss"])
    assert asked.objectives == ("val_loss", "seconds")
