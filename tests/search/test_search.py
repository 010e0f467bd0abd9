"""Whole searches, small: what wins, what fails, what is repeated, what is refused."""

import json
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import keras
import keras_tuner as kt
import numpy as np
import pytest

import tfinetune as ft
from tfinetune import workflow
from tfinetune.errors import SearchError
from tfinetune.reporting import Reporter
from tfinetune.search import Result, SearchFolder, Workbench, describe, job, run
from tfinetune.search.job import finish, open_search, run_trials
from tfinetune.search.ranking import Ranked
from tfinetune.search.setup import Setup, read_ranking, worth_searching
from tfinetune.search.tuner import RecipeTuner, TrialEnded, Watch
from tfinetune.training import Checkpoint, FeatureCache
from tfinetune.training.checkpoint import TrainingState


@pytest.fixture(scope="module")
def finished(search_recipe, workbench, tmp_path_factory):
    """One search that the tests look at from all sides."""
    folder = tmp_path_factory.mktemp("finished") / "s"
    return run(search_recipe(trials=4, oracle="random"), folder, workbench=workbench)


@pytest.fixture
def trials(workbench, tmp_path):
    """Run the trials of a search without making a run of the winner; return the leaderboard."""

    def board(asked, *, resume=False, deadline=None, name="s"):
        folder = open_search(asked, tmp_path / name, resume=resume)
        folder.write_deadline(deadline)
        run_trials(folder, workbench)
        return folder.leaderboard()

    return board


@pytest.fixture
def clock(monkeypatch):
    """Let a second pass with each epoch, and none between."""
    call, started, epochs = Watch.__call__, time.time(), []

    def tick(watch, history):
        epochs.append(history)
        call(watch, history)

    monkeypatch.setattr(Watch, "__call__", tick)
    monkeypatch.setattr(time, "time", lambda: started + len(epochs))


@pytest.fixture
def shipped(monkeypatch):
    """What runs of the winners would go on from, in place of these runs and the reports."""
    states = []

    def train(recipe, path, *, checkpoint, **options):
        states.append(Checkpoint(checkpoint).load())
        return SimpleNamespace(metrics={"shipped": "head"})

    monkeypatch.setattr(workflow, "train", train)
    monkeypatch.setattr(job, "write_search_report", lambda *arguments: None)
    return states


@pytest.fixture
def give(workbench):
    """Run a trial of the default's values and what a test adds; return its result and what the
    oracle is told."""

    def run_one(setup, **values):
        trial = setup.oracle.create_trial(f"tuner{len(setup.oracle.trials)}")
        trial.hyperparameters.values = setup.oracle.hyperparameters.values | values
        told = setup.tuner(workbench).run_trial(trial)
        return setup.folder.result(trial.trial_id), told

    return run_one


class Listening(Reporter):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, sentence):
        self.said.append(sentence)


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


def test_backbones_of_the_space_need_no_other_to_start_from(world, search_recipe, tmp_path):
    candidates = [str(world.other_backbone), str(world.backbone)]
    asked = search_recipe(space={"backbone": candidates}, oracle="grid")
    asked = asked.replace(recipe=asked.recipe.replace(backbone=""))
    reporter = Listening()
    folder = open_search(asked, tmp_path / "s", reporter=reporter)
    assert reporter.said == []
    assert folder.recipe().recipe.backbone == candidates[0]
    assert open_search(asked, tmp_path / "s", resume=True).recipe() == folder.recipe()
    first = Setup.of(folder).oracle.hyperparameters.values
    assert first == {"backbone": candidates[0]}


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


def test_time_is_up_after_the_epoch_in_which_it_passes_and_goes_on_with_more_time(
    search_recipe, trials, workbench, tmp_path, clock, shipped
):
    asked = search_recipe(
        recipe={"strategy_parameters": {"epochs": 5}},
        trials=2,
        oracle="random",
        objectives=("val_loss",),
    )
    (only,) = trials(asked, deadline=time.time() + 3)
    assert only.status == "stopped" and len(only.history) == 3
    # The winner of such a search trains no more: it ships what it has.
    finish(SearchFolder.open(tmp_path / "s"), workbench)
    assert shipped[0].phase > 1
    assert shipped[0].candidates[-1].accuracy == only.metrics["val_accuracy"]
    # It was no fair trial: the search that goes on ends as one that nobody stopped.
    goes_on = trials(None, resume=True)
    whole = next(r for r in goes_on if r.trial == "0")
    assert whole.history[:3] == only.history and whole.seconds > only.seconds
    record = json.loads((tmp_path / "s/trials/trial_0/trial.json").read_text())
    assert record["score"] == whole.metrics["val_loss"]
    assert outcomes(goes_on) == outcomes(trials(asked, name="whole"))


def test_no_trial_starts_when_time_is_up(search_recipe, workbench, tmp_path):
    with pytest.raises(SearchError, match="None was started in time"):
        run(search_recipe(), tmp_path / "s", max_time=0, workbench=workbench)


def test_trial_that_ends_by_itself_is_not_one_that_time_was_up_for():
    rows = [{"val_accuracy": 0.1}] * 2
    for watch, status in [
        (Watch(4, budget=2, deadline=0.0), "paused"),
        (Watch(4, budget=4, deadline=0.0, others=[Watch(2, 2).rows(rows)] * 4), "stopped"),
        (Watch(4, budget=4, others=[Watch(2, 2).rows([{"val_accuracy": 0.2}] * 2)] * 4), "pruned"),
    ]:
        with pytest.raises(TrialEnded, match=status):
            watch(rows)
    assert Watch(2, budget=2, deadline=0.0)(rows) is None


def test_interrupted_search_keeps_what_was_finished_and_repeats_the_rest(
    finished, trials, workbench, tmp_path, monkeypatch
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
    listening = Listening()
    monkeypatch.setattr(workbench, "reporter", listening)
    board = trials(None, resume=True)
    assert ["Trial 2 is repeated" in said for said in listening.said[:2]] == [True, False]
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


@pytest.mark.parametrize(
    ("prune", "status", "epochs"), [(True, "pruned", 1), (False, "completed", 3)]
)
def test_trial_without_hope_ends_early_but_never_the_default(
    prune, status, epochs, search_recipe, workbench, tmp_path
):
    asked = search_recipe(trials=2, prune=prune, recipe={"strategy_parameters": {"epochs": 3}})
    folder = open_search(asked, tmp_path / "s")
    history = [{"share": share, "val_accuracy": 1.1} for share in (0.1, 1.0)]
    metrics = {"val_accuracy": 1.1, "val_loss": 0.0}
    for name in ("90", "91", "92", "93"):
        folder.write_result(Result(name, "completed", {}, metrics, history=history))
    run_trials(folder, workbench)
    default, other = folder.results()[:2]
    assert (default.trial, default.status, len(default.history)) == ("0", "completed", 3)
    assert (other.trial, other.status, len(other.history)) == ("1", status, epochs)


@pytest.mark.parametrize(
    ("oracle", "objective", "told"),
    [
        ("hyperband", "val_accuracy", 0.7),
        ("hyperband", "val_loss", 0.8),
        ("random", "val_loss", 0.5),
    ],
)
def test_hyperband_compares_trials_by_their_epochs_not_by_their_probe(
    oracle, objective, told, search_recipe, give, tmp_path
):
    setup = Setup.of(
        open_search(search_recipe(oracle=oracle, objectives=(objective,)), tmp_path / "s")
    )
    metrics = {"val_accuracy": 0.9, "val_loss": 0.5}
    curve = [(0.6, 0.8), (0.7, 0.9), (0.8, None)]  # the last of which diverged
    rows = [{"val_accuracy": accuracy, "val_loss": loss} for accuracy, loss in curve]
    for number, (history, expected) in enumerate([(rows, told), ([], metrics[objective])]):
        setup.folder.write_result(Result(str(number), "paused", {}, metrics, history=history))
        result, received = give(setup)
        assert received == {objective: expected}
        assert result.metrics == metrics  # what would ship


def test_hyperband_promotes_no_trial_without_a_single_sound_epoch(search_recipe, give, tmp_path):
    setup = Setup.of(open_search(search_recipe(oracle="hyperband"), tmp_path / "s"))
    history = [{"val_accuracy": 0.3, "val_loss": None}]
    probed = Result("0", "completed", {}, {"val_accuracy": 0.9}, history=history, reason="diverged")
    setup.folder.write_result(probed)
    with pytest.raises(kt.errors.FailedTrialError, match="diverged"):
        give(setup)


def test_budget_of_hyperband_is_a_part_of_the_epochs_that_a_recipe_has(
    search_recipe, give, tmp_path
):
    asked = search_recipe(
        oracle="hyperband", recipe={"strategy_parameters": {"epochs": 6}}, space={"epochs": [6, 3]}
    )
    setup = Setup.of(open_search(asked, tmp_path / "s"))
    first, _ = give(setup, **{"epochs": 3, "tuner/epochs": 1})
    second, _ = give(setup, **{"epochs": 3, "tuner/epochs": 2, "tuner/trial_id": "0"})
    third, _ = give(setup, **{"epochs": 3, "tuner/epochs": 3, "tuner/trial_id": "1"})
    assert [r.status for r in (first, second, third)] == ["paused"] * 3
    assert [row["share"] for row in first.history] == [1 / 3]
    assert second.history == first.history  # its budget is not an epoch more
    assert third.history[:1] == first.history  # to the millisecond: it was not done again
    assert [row["share"] for row in third.history] == [1 / 3, 2 / 3]
    # Of its training every epoch counts, whichever trial did it.
    assert third.metrics["seconds"] >= 0.999 * sum(row["seconds"] for row in third.history)


def test_seconds_are_those_of_training_not_of_features_that_trials_share(
    search_recipe, give, tmp_path, monkeypatch
):
    def slow(cache, *arguments, **options):
        time.sleep(0.2)
        return features(cache, *arguments, **options)

    features = FeatureCache.features
    monkeypatch.setattr(FeatureCache, "features", slow)
    asked = search_recipe(recipe={"strategy": "linear_probe", "strategy_parameters": {}},
                          space={"batch_size": [8, 16]})  # fmt: skip
    result, _ = give(Setup.of(open_search(asked, tmp_path / "s")))
    assert 0 < result.metrics["seconds"] < result.seconds - 0.4  # of training and validation


def test_trial_with_nothing_left_to_train_can_be_promoted(search_recipe, give, tmp_path):
    asked = search_recipe(oracle="hyperband", recipe={"strategy": "linear_probe",
                          "strategy_parameters": {}}, space={"batch_size": [8, 16]})  # fmt: skip
    setup = Setup.of(open_search(asked, tmp_path / "s"))
    first, _ = give(setup)
    second, _ = give(setup, **{"tuner/epochs": 1, "tuner/trial_id": "0"})
    assert first.status == second.status == "completed"
    assert second.metrics["val_loss"] == first.metrics["val_loss"]


def test_promoted_trial_whose_weights_are_gone_repeats_its_epochs_and_says_so(
    search_recipe, give, tmp_path, monkeypatch, workbench
):
    reporter = Listening()
    monkeypatch.setattr(workbench, "reporter", reporter)
    setup = Setup.of(open_search(search_recipe(oracle="hyperband"), tmp_path / "s"))
    first, _ = give(setup, **{"tuner/epochs": 1})
    setup.folder.checkpoint_path("0").unlink()
    second, _ = give(setup, **{"tuner/epochs": 2, "tuner/trial_id": "0"})
    assert "trial 1: the weights of trial 0 are gone; its epochs are repeated." in reporter.said
    assert second.history[0]["val_loss"] == first.history[0]["val_loss"]
    assert len(second.history) == 2


def test_repeated_trial_begins_anew_whatever_weights_are_in_its_folder(
    finished, search_recipe, give, tmp_path
):
    asked = search_recipe(trials=4, oracle="random")
    setup = Setup.of(open_search(asked, tmp_path / "s"))
    other = finished.folder.checkpoint_path(finished.leaderboard[0].trial)
    setup.folder.trial_path("0").mkdir(parents=True)
    shutil.copyfile(other, setup.folder.checkpoint_path("0"))
    result, _ = give(setup, learning_rate=1e-5)
    assert result.history[0]["val_loss"] not in {
        r.history[0]["val_loss"] for r in finished.leaderboard
    }


def test_trial_that_fails_leaves_no_weights_of_an_earlier_try(search_recipe, give, tmp_path):
    asked = search_recipe(
        recipe={"strategy": "full"}, space={"trainable": ["stage_98", "stage_99"]}
    )
    setup = Setup.of(open_search(asked, tmp_path / "s"))
    Checkpoint(setup.folder.checkpoint_path("0")).save(TrainingState(epoch=1))
    with pytest.raises(kt.errors.FailedTrialError, match="No layer matches"):
        give(setup)
    assert not setup.folder.checkpoint_path("0").exists()


def test_trial_that_goes_on_is_not_pruned_by_what_it_did_itself(search_recipe, give, tmp_path):
    setup = Setup.of(open_search(search_recipe(), tmp_path / "s"))
    for name, status, accuracy in [
        ("0", "completed", 1.1), ("2", "completed", 1.1), ("3", "completed", 1.1),
        ("1", "stopped", 0.3),
    ]:  # fmt: skip
        rows = [{"share": share, "val_accuracy": accuracy} for share in (0.5, 1.0)]
        metrics = {"val_accuracy": accuracy, "val_loss": 0.5}
        setup.folder.write_result(Result(name, status, {}, metrics, history=rows))
    give(setup)
    result, _ = give(setup)
    assert (result.trial, result.status, len(result.history)) == ("1", "completed", 2)


@pytest.mark.parametrize(
    ("strategy", "status", "reason"),
    [
        # What the probe offers is sound.
        ("lpft", "completed", "the loss was not finite after epoch 1 of finetune"),
        ("head", "failed", "Training diverged: the validation loss is not a finite number."),
    ],
)
def test_diverged_trial_says_so_and_its_files_are_json(
    strategy, status, reason, search_recipe, trials, tmp_path
):
    hot = {"strategy": strategy, "strategy_parameters": {"epochs": 2, "learning_rate": 1e20}}
    (only,) = trials(search_recipe(recipe=hot, space={"dropout": [0.2, 0.5]}, trials=1))
    assert only.status == status and only.reason.startswith(reason)
    assert only.reason in describe(only, [only])

    def refuse(constant):
        raise AssertionError(constant)

    for path in (tmp_path / "s").rglob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)


def test_weights_of_all_but_the_best_trials_are_removed(
    search_recipe, trials, tmp_path, monkeypatch
):
    monkeypatch.setattr("tfinetune.search.folder.KEPT_CHECKPOINTS", 1)
    winner, *_ = trials(search_recipe(oracle="random"))
    folder = SearchFolder.open(tmp_path / "s")
    assert list(folder.path.rglob("checkpoint.npz")) == [folder.checkpoint_path(winner.trial)]
    # One that time was up for goes on when the search does.
    folder.write_result(Result("9", "stopped", {}, {"val_accuracy": 0.0, "val_loss": 9.0}))
    folder.checkpoint_path("9").touch()
    folder.drop_checkpoints()
    assert folder.checkpoint_path("9").exists()


@pytest.mark.parametrize(("seconds", "kept"), [(None, 1), (60, 1), (-1, 3)])
def test_weights_that_hyperband_may_go_on_with_are_kept_while_more_time_may_be_given(
    seconds, kept, search_recipe, workbench, tmp_path, monkeypatch, shipped
):
    monkeypatch.setattr("tfinetune.search.folder.KEPT_CHECKPOINTS", 1)
    asked = search_recipe(oracle="hyperband")
    folder = open_search(asked, tmp_path / "s")
    folder.write_deadline(seconds and time.time() + seconds)
    for name in "012":
        metrics = {"val_accuracy": 0.5, "val_loss": 0.5}
        folder.write_result(Result(name, "paused", {}, metrics))
        asked.recipe.save(folder.trial_path(name) / "recipe.yaml")
        Checkpoint(folder.checkpoint_path(name)).save(TrainingState(epoch=1))
    finish(folder, workbench)
    assert len(list(folder.path.rglob("checkpoint.npz"))) == kept
    # Past a limit of time the winner trains no more; Hyperband may still go on with it.
    assert (shipped[0].phase > 0) == (seconds is not None)
    assert Checkpoint(folder.checkpoint_path("0")).load().phase == 0


def test_finished_search_is_returned_as_it_is(finished, workbench, tmp_path):
    shutil.copytree(finished.folder.path, tmp_path / "s")
    (tmp_path / "s/best/notes.txt").write_text("mine")
    again = run(None, tmp_path / "s", resume=True, workbench=workbench)
    assert (tmp_path / "s/best/notes.txt").read_text() == "mine"
    assert again.to_dict()["leaderboard"] == finished.to_dict()["leaderboard"]
    assert again.best.metrics == finished.best.metrics


def test_search_that_changed_makes_its_run_anew_and_says_so(
    finished, workbench, tmp_path, shipped, monkeypatch
):
    shutil.copytree(finished.folder.path, tmp_path / "s")
    folder, reporter = SearchFolder.open(tmp_path / "s"), Listening()
    monkeypatch.setattr(workbench, "reporter", reporter)
    folder.write_result(Result("4", "failed", {}, reason="no memory"))
    finish(folder, workbench)
    assert reporter.said[0] == f"The search went on: {folder.best_path} is made anew."
    assert len(shipped) == 1 and not folder.best_path.exists()
    assert len(json.loads(folder.leaderboard_path.read_text())) == 5


def test_leaderboard_is_written_once_the_run_of_the_winner_is_there(
    finished, workbench, tmp_path, shipped, monkeypatch
):
    shutil.copytree(finished.folder.path, tmp_path / "s")
    folder = SearchFolder.open(tmp_path / "s")
    folder.leaderboard_path.unlink()

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        finish(folder, workbench)
    assert not folder.leaderboard_path.exists()


def test_pareto_front_of_a_search_is_of_its_objectives(finished):
    one, other = finished.leaderboard[:2]
    best = {"val_accuracy": 1.0, "val_loss": 0.0}
    search = replace(finished, leaderboard=[replace(one, metrics=best), other])
    assert search.pareto == search.leaderboard[:1]
    assert search.to_dict()["pareto"] == [one.trial]


def test_trial_that_trains_the_backbone_leaves_the_next_what_it_was(
    search_recipe, world, trials, workbench
):
    strategy = {"strategy": "full", "strategy_parameters": {"epochs": 1, "learning_rate": 0.01}}
    asked = search_recipe(recipe=strategy, space={"dropout": [0.2, 0.5]}, trials=1)
    trials(asked)
    shared = workbench.backbone(asked.recipe).model.get_weights()
    for received, expected in zip(
        shared, keras.models.load_model(world.backbone).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(received, expected)


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
    (latency,) = {r.metrics["latency_ms"] for r in board}  # rate and dropout do not change it
    assert latency > 0


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


def test_verdict_tells_of_a_soup_that_ships(finished):
    metrics = {"shipped": "soup", "shipped_because": "soup ships: 90% on validation."}
    said = replace(finished, best=SimpleNamespace(metrics=metrics)).verdict
    assert said.endswith("The mean of its weights and those of others is kept: soup ships: 90% on "
                         "validation.")  # fmt: skip


def test_each_trial_says_what_it_gave_and_what_holds_for_all_is_said_once(
    search_recipe, world, tmp_path
):
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
