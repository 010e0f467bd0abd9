"""Whole searches, small: what wins, what fails, what is repeated, what is refused."""

import json
import shutil
import time
from typing import ClassVar

import keras
import pytest

import tfinetune as ft
from tfinetune.errors import SearchError
from tfinetune.reporting import Reporter
from tfinetune.search import Result, SearchFolder, Workbench, run
from tfinetune.search.job import finish, open_search, run_trials
from tfinetune.search.ranking import Ranked
from tfinetune.search.setup import read_ranking, worth_searching
from tfinetune.search.tuner import RecipeTuner
from tfinetune.training import Checkpoint, FeatureCache


@pytest.fixture(scope="module")
def finished(search_recipe, workbench, tmp_path_factory):
    """One search that the tests look at from all sides."""
    folder = tmp_path_factory.mktemp("finished") / "s"
    return run(search_recipe(trials=4, oracle="random"), folder, workbench=workbench)


@pytest.fixture
def trials(workbench, tmp_path):
    """Run the trials of a search without making a run of the winner; return the leaderboard."""

    def board(asked, *, resume=False, deadline=None):
        folder = open_search(asked, tmp_path / "s", resume=resume)
        folder.write_deadline(deadline)
        run_trials(folder, workbench)
        return folder.leaderboard()

    return board


def outcomes(leaderboard):
    return [(r.trial, r.status, r.values, r.metrics.get("val_loss")) for r in leaderboard]


def test_first_trial_is_the_default_recipe(finished):
    asked = finished.folder.recipe().recipe
    first = ft.Recipe.load(finished.folder.trial_path("0") / "recipe.yaml")
    filled = ft.strategies.Head(**asked.strategy_parameters).parameters()
    assert first.precision in ("float32", "mixed_bfloat16", "mixed_float16")
    assert first == asked.replace(strategy_parameters=filled, precision=first.precision)


def test_winner_is_an_ordinary_run_that_predicts_no_worse_than_the_default(finished):
    accuracy = {r.trial: r.metrics["val_accuracy"] for r in finished.leaderboard}
    assert len(accuracy) == 4
    assert accuracy[finished.leaderboard[0].trial] == max(accuracy.values()) >= accuracy["0"]
    opened = ft.open_run(finished.folder.best_path)
    assert opened.metrics["validation"]["accuracy"] >= max(accuracy.values()) - 1e-6
    assert (finished.folder.best_path / "saved_model/1/saved_model.pb").exists()
    assert opened.metrics["test"]["n"] > 0


def test_leaderboard_and_results_are_files_that_say_what_was_drawn(finished):
    board = json.loads(finished.folder.leaderboard_path.read_text())
    assert [row["trial"] for row in board] == [r.trial for r in finished.leaderboard]
    for result in finished.leaderboard:
        recipe = ft.Recipe.load(finished.folder.trial_path(result.trial) / "recipe.yaml")
        assert recipe.dropout == result.values["dropout"]
        assert recipe.strategy_parameters["learning_rate"] == result.values["learning_rate"]
        assert [row["share"] for row in result.history] == [0.5, 1.0]


def test_same_seed_gives_the_same_trials_and_results(finished, trials):
    assert outcomes(trials(finished.folder.recipe())) == outcomes(finished.leaderboard)


def test_trial_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(search_recipe, trials):
    asked = search_recipe(space={"trainable": ["all", "stage_99"], "epochs": 1}, oracle="grid",
                          recipe={"strategy": "full"})  # fmt: skip
    good, bad = trials(asked)
    assert (good.status, bad.status) == ("completed", "failed")
    assert "No layer matches 'stage_99'" in bad.reason
    assert not bad.metrics


def test_search_without_a_trial_that_succeeds_says_why(search_recipe, trials, workbench, tmp_path):
    asked = search_recipe(space={"trainable": ["stage_98", "stage_99"]}, oracle="grid",
                          recipe={"strategy": "full"})  # fmt: skip
    trials(asked)
    with pytest.raises(SearchError, match="No trial succeeded. trial 0: No layer matches"):
        finish(SearchFolder.open(tmp_path / "s"), workbench)


def test_time_is_up_after_the_epoch_in_which_it_passes(search_recipe, trials, tmp_path):
    asked = search_recipe(recipe={"strategy_parameters": {"epochs": 2000}}, trials=9)
    started = time.monotonic()
    (only,) = trials(asked, deadline=time.time() + 3)
    assert only.status == "stopped" and 0 < len(only.history) < 2000
    # The winner of such a search trains no more: it ships what it has.
    state = Checkpoint(tmp_path / "s/trials/trial_0/checkpoint.npz").load()
    assert state.phase > 1 and state.candidates[-1].accuracy == only.metrics["val_accuracy"]
    assert time.monotonic() - started < 60


def test_interrupted_search_keeps_what_was_finished_and_repeats_the_rest(
    finished, trials, tmp_path, monkeypatch
):
    train = RecipeTuner._train

    def interrupted(self, name, *arguments):
        if name == "2":
            raise KeyboardInterrupt
        return train(self, name, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RecipeTuner, "_train", interrupted)
        trials(finished.folder.recipe())
    folder = SearchFolder.open(tmp_path / "s")
    kept = {r.trial: r.seconds for r in folder.results()}
    assert kept.keys() == {"0", "1"}
    board = trials(None, resume=True)
    assert outcomes(board) == outcomes(finished.leaderboard)
    assert {r.trial: r.seconds for r in board if r.trial in kept} == kept


def test_trial_that_was_started_but_not_noted_is_drawn_again(finished, trials, tmp_path):
    shutil.copytree(finished.folder.path, tmp_path / "s")
    state = json.loads((tmp_path / "s/trials/oracle.json").read_text())
    # As if killed between the two files that KerasTuner writes when a trial starts.
    state["start_order"].remove("3")
    (tmp_path / "s/trials/oracle.json").write_text(json.dumps(state))
    (tmp_path / "s/trials/trial_3/result.json").unlink()
    board = trials(None, resume=True)
    assert {r.trial for r in board} == {"0", "1", "2", "3"}
    kept = [r for r in finished.leaderboard if r.trial != "3"]
    assert outcomes(r for r in board if r.trial != "3") == outcomes(kept)


def test_result_that_the_oracle_was_not_told_of_is_not_made_again(finished, trials, tmp_path):
    shutil.copytree(finished.folder.path, tmp_path / "s")
    # As if killed right after the result was written.
    path = tmp_path / "s/trials/trial_3/trial.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "RUNNING"}))
    board = trials(None, resume=True)
    assert board == finished.leaderboard  # to the second that it took
    assert json.loads(path.read_text())["status"] == "COMPLETED"


def test_dtype_policy_is_that_of_the_search_whatever_a_trial_does(
    search_recipe, trials, monkeypatch
):
    seen = []
    train = RecipeTuner._train

    def resetting(self, *arguments):
        seen.append(keras.config.dtype_policy().name)
        keras.config.set_dtype_policy("float64")
        return train(self, *arguments)

    monkeypatch.setattr(RecipeTuner, "_train", resetting)
    before = keras.config.dtype_policy()
    try:
        trials(search_recipe(trials=2))
    finally:
        keras.config.set_dtype_policy(before)
    assert seen == ["float32", "float32"]


@pytest.mark.parametrize(("oracle", "count"), [("bayesian", 5), ("hyperband", 7), ("grid", 3)])
def test_every_oracle_starts_with_the_default_and_ends(
    oracle, count, search_recipe, trials, tmp_path
):
    asked = search_recipe(
        oracle=oracle,
        trials=count,
        recipe={"strategy_parameters": {"epochs": 3}},
    )
    by_trial = {r.trial: r for r in trials(asked)}
    assert len(by_trial) == count
    assert by_trial["0"].values == {"learning_rate": 1e-3, "dropout": 0.2}
    assert not any(r.status == "failed" for r in by_trial.values())
    if oracle == "grid":
        assert len({tuple(r.values.items()) for r in by_trial.values()}) == count
    if oracle == "hyperband":
        assert by_trial["0"].status == "completed" and len(by_trial["0"].history) == 3
        paused = {r.trial: r for r in by_trial.values() if r.status == "paused"}
        assert paused and all(len(r.history) < 3 for r in paused.values())
        drawn = {
            path.parent.name[-1]: json.loads(path.read_text())["hyperparameters"]["values"]
            for path in (tmp_path / "s/trials").glob("trial_*/trial.json")
        }
        goes_on = [
            (by_trial[trial].history, paused[values["tuner/trial_id"]].history)
            for trial, values in drawn.items()
            if "tuner/trial_id" in values
        ]
        # What a trial has done is not done again: its first epochs are those of the one before.
        assert goes_on and all(rows[: len(before)] == before for rows, before in goes_on)
        assert all(len(rows) > len(before) for rows, before in goes_on)


def test_trial_without_hope_ends_early_but_never_the_default(search_recipe, workbench, tmp_path):
    asked = search_recipe(trials=2, recipe={"strategy_parameters": {"epochs": 3}})
    folder = open_search(asked, tmp_path / "s")
    history = [{"share": share, "val_accuracy": 1.1} for share in (0.1, 1.0)]
    metrics = {"val_accuracy": 1.1, "val_loss": 0.0}
    for name in ("90", "91", "92", "93"):
        folder.write_result(Result(name, "completed", {}, metrics, history=history))
    run_trials(folder, workbench)
    default, pruned = folder.results()[:2]
    assert (default.trial, default.status, len(default.history)) == ("0", "completed", 3)
    assert (pruned.trial, pruned.status, len(pruned.history)) == ("1", "pruned", 1)


def test_several_backbones_are_ranked_and_the_best_are_searched(
    search_recipe, world, trials, workbench, tmp_path
):
    missing = str(world.photos / "missing.keras")
    asked = search_recipe(
        backbones=(str(world.other_backbone), missing, str(world.backbone)), keep=1, trials=2
    )
    trials(asked)
    best, second, unusable = read_ranking(SearchFolder.open(tmp_path / "s"))
    assert best.probe_accuracy >= second.probe_accuracy and best.seconds > 0
    assert (
        best.parameters
        == workbench.backbone(asked.recipe.replace(backbone=best.backbone)).model.count_params()
    )
    assert unusable.backbone == missing and "missing.keras" in unusable.reason
    for trial in "01":
        recipe = ft.Recipe.load(tmp_path / f"s/trials/trial_{trial}/recipe.yaml")
        assert recipe.backbone == best.backbone


def test_backbone_far_behind_the_best_is_not_searched_over():
    ranking = [
        Ranked("best", 0.78, log_me=0.3),
        Ranked("behind", 0.6, log_me=0.2),
        Ranked("hopeless", 0.3, log_me=-0.1),
        Ranked("broken", reason="it is no model"),
    ]
    assert [row.backbone for row in worth_searching(ranking)] == ["best", "behind"]


def test_several_objectives_are_measured_and_the_first_decides(search_recipe, trials):
    asked = search_recipe(objectives=("val_loss", "latency_ms"), trials=2)
    board = trials(asked)
    losses = [r.metrics["val_loss"] for r in board]
    assert losses == sorted(losses)
    assert all(r.metrics["latency_ms"] > 0 for r in board)


def test_impossible_questions_are_refused_and_leave_nothing(search_recipe, workbench, tmp_path):
    with pytest.raises(SearchError, match="Nothing called 'val_f1' is measured.*val_accuracy"):
        search_recipe(objectives=("val_f1",))
    with pytest.raises(SearchError, match="trials: .*greater than or equal to 1"):
        search_recipe(trials=0)
    with pytest.raises(SearchError, match="dropout may not be 3.0"):
        run(search_recipe(space={"dropout": 3.0}), tmp_path / "s", workbench=workbench)
    with pytest.raises(SearchError, match="There is no search in .*search.yaml"):
        run(None, tmp_path / "s", resume=True, workbench=workbench)
    with pytest.raises(SearchError, match="compares its trials on validation photos"):
        run(
            search_recipe(recipe={"validation": 0}), tmp_path / "v", workbench=ft.search.Workbench()
        )
    assert not (tmp_path / "s").exists()


def test_folder_of_another_search_is_refused(finished, search_recipe):
    with pytest.raises(SearchError, match="is not empty.*--resume"):
        run(search_recipe(), finished.folder.path)
    with pytest.raises(SearchError, match="another search: trials differ"):
        run(search_recipe(trials=9, oracle="random"), finished.folder.path, resume=True)


def test_each_trial_says_what_it_gave_and_what_holds_for_all_is_said_once(
    search_recipe, world, tmp_path
):
    class Listening(Reporter):
        said: ClassVar[list[str]] = []

        def say(self, sentence):
            self.said.append(sentence)

    reporter = Listening()
    asked = search_recipe(trials=2, oracle="random", recipe={"class_weights": "always"})
    run_trials(open_search(asked, tmp_path / "s"), Workbench(FeatureCache(), reporter=reporter))
    assert [s for s in reporter.said if s.startswith("trial 1: ")][-1].startswith(
        "trial 1: completed, val_accuracy "
    )
    assert reporter.said.count("The loss weighs every class the same.") == 1


def test_trials_with_and_without_dropout_share_features(search_recipe, tmp_path):
    cache = FeatureCache()
    asked = search_recipe(space={"dropout": [0.0, 0.2]}, oracle="grid", trials=2)
    folder = open_search(asked, tmp_path / "s")
    run_trials(folder, Workbench(cache))
    assert {result.values["dropout"] for result in folder.results()} == {0.0, 0.2}
    assert len(cache._held) == 2  # of training and of validation photos
