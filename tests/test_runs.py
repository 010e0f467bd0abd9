"""Run folders: taken, resumed, opened and verified."""

import json

import pytest

from tfinetune.errors import RecipeError, RunError
from tfinetune.recipe import Recipe
from tfinetune.runs import RunFolder


@pytest.fixture
def finished(tmp_path) -> RunFolder:
    folder = RunFolder.create(tmp_path / "run")
    Recipe(data="d", backbone="b").save(folder.recipe_path)
    folder.model_path.write_bytes(b"model")
    folder.metrics_path.write_text("{}")
    folder.write_manifest()
    return folder


def test_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty.*choose another --output"):
        RunFolder.create(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_folder_of_an_unfinished_run_hints_at_resume(tmp_path):
    Recipe(data="d", backbone="b").save(tmp_path / "recipe.yaml")
    with pytest.raises(RunError, match="--resume"):
        RunFolder.create(tmp_path)
    with pytest.raises(RunError, match="is not finished"):
        RunFolder.open(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(RunError, match=r"Cannot use .*file"):
        RunFolder.create(path)


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(RunError, match="no run to resume"):
        RunFolder.resume(tmp_path)


def test_resume_removes_what_a_killed_write_left(finished):
    partial = finished.path / "saved_model" / ".1-0a1b2c3d.partial"
    (partial / "variables").mkdir(parents=True)
    (partial / "variables" / "half").write_text("half")
    (finished.path / ".model-0a1b2c3d.partial.keras").write_text("half")
    RunFolder.resume(finished.path)
    assert not list(finished.path.rglob("*partial*"))
    assert finished.model_path.exists()


def test_resume_refuses_another_recipe(finished):
    with pytest.raises(RecipeError, match="seed: 3, not 0"):
        finished.check_same_recipe(Recipe(data="d", backbone="b", seed=3))
    finished.check_same_recipe(Recipe(data="d", backbone="b"))


def test_changed_or_missing_artifact_is_named(finished):
    assert RunFolder.open(finished.path).finished
    finished.model_path.write_bytes(b"other")
    with pytest.raises(RunError, match=r"model\.keras .*changed"):
        RunFolder.open(finished.path)
    finished.model_path.unlink()
    with pytest.raises(RunError, match=r"model\.keras"):
        finished.verify()


def test_history_has_fixed_columns_and_empty_cells(finished):
    finished.write_history([{"phase": "full", "epoch": 1, "loss": 0.5, "seconds": 2.5}])
    assert finished.history_path.read_text() == (
        "phase,epoch,loss,accuracy,val_loss,val_accuracy,learning_rate,seconds\n"
        "full,1,0.5,,,,,2.5\n"
    )


def test_changed_photos_and_phases_are_named_on_resume(finished):
    started = {"fingerprint": "a", "backbone_sha256": None, "phases": [{"epochs": 3}]}
    finished.phases_path.write_text(json.dumps(started))
    finished.check_same_start(started)
    with pytest.raises(RunError, match="The photos and the phases changed since"):
        finished.check_same_start({**started, "fingerprint": "b", "phases": []})


def test_manifest_written_for_one_folder_keeps_what_is_listed_of_the_rest(finished):
    (finished.path / "saved_model").mkdir()
    (finished.path / "saved_model" / "new").write_text("new")
    finished.model_path.write_bytes(b"damaged")
    finished.write_manifest(below="saved_model/")
    finished.verify(["saved_model/new"])
    with pytest.raises(RunError, match=r"model\.keras"):
        finished.verify()
