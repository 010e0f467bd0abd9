"""Oracles without trainings: what is drawn, given out again, and recorded."""

import itertools
import math
import threading
import time

import keras_tuner as kt
import pytest

import tfinetune as ft
from tfinetune.errors import StorageError
from tfinetune.search.job import open_search
from tfinetune.search.oracles import MOST_LOSSES, ORACLES, build_oracle, varied
from tfinetune.search.setup import prepare
from tfinetune.search.space import Space

TRIALS = 6


@pytest.fixture
def oracle(tmp_path):
    def build(kind, folder="search"):
        parameters = kt.HyperParameters()
        parameters.Float("rate", 1e-3, 0.1, sampling="log", default=1e-2)
        parameters.Choice("size", [96, 128, 160, 192], default=128)
        parameters.Choice("augmentation", ["none", "light", "strong"])
        if kind == "grid":
            parameters.space.pop(0)
        built = build_oracle(
            kind, parameters, objective="val_accuracy", trials=TRIALS, epochs=3, seed=0
        )
        built._set_project_dir(str(tmp_path / folder), "trials")
        return built

    return build


def end(oracle, trial, score=0.5):
    oracle.update_trial(trial.trial_id, {"val_accuracy": score})
    trial.status = "COMPLETED"
    oracle.end_trial(trial)


def draw(oracle, count):
    """Return the values of the next trials, each of which gives another score."""
    drawn = []
    for _ in range(count):
        trial = oracle.create_trial("worker")
        drawn.append(dict(trial.hyperparameters.values))
        end(oracle, trial, score=0.1 + 0.7 * (int(trial.trial_id) * 5 % TRIALS) / TRIALS)
    return drawn


@pytest.mark.parametrize("kind", ORACLES)
def test_oracle_that_is_read_back_draws_what_an_uninterrupted_one_draws(kind, oracle):
    uninterrupted = draw(oracle(kind, "uninterrupted"), TRIALS)
    drawn = draw(oracle(kind), 4)
    again = oracle(kind)
    again.reload()
    drawn += draw(again, TRIALS - 4)
    assert drawn == uninterrupted
    assert len({tuple(values.items()) for values in drawn}) == TRIALS
    assert again.create_trial("worker").status == "STOPPED"


def test_trial_that_a_lost_worker_ends_after_all_is_not_begun_again(oracle):
    chief = oracle("random")
    trial = chief.create_trial("lost")
    chief.take_back("lost")
    end(chief, trial)
    assert chief.create_trial("other").trial_id == "1"
    end(chief, trial)
    assert chief.end_order == ["0"]


def test_chief_that_is_restarted_repeats_a_trial_only_until_its_worker_ends_it(oracle):
    before = oracle("random")
    trial = before.create_trial("by hand")
    end(before, before.create_trial("other"))
    chief = oracle("random")
    chief.reload()
    end(chief, trial)
    assert [chief.create_trial(name).trial_id for name in ("by hand", "third")] == ["2", "3"]


def test_no_trial_is_given_out_once_the_time_is_up_not_even_a_second_time(oracle):
    chief = oracle("random")
    running, lost = chief.create_trial("one"), chief.create_trial("two")
    chief.take_back("two")
    chief.deadline = time.time()
    assert chief.create_trial("three").status == "STOPPED"
    assert chief.create_trial("one") is running and chief.tuner_ids == {"one"}
    chief.deadline = None
    assert chief.create_trial("three") is lost


def test_disk_that_is_full_stops_no_later_call(oracle, monkeypatch):
    def save():
        raise StorageError("the disk is full")

    chief = oracle("random")
    for _ in range(MOST_LOSSES - 1):
        chief.create_trial("one")
        chief.take_back("one")
    chief.create_trial("one")
    with monkeypatch.context() as patch:
        patch.setattr(chief, "save", save)
        with pytest.raises(StorageError, match="the disk is full"):
            chief.create_trial("two")
        with pytest.raises(StorageError, match="the disk is full"):
            chief.take_back("one")  # one call within the other
    later = threading.Thread(target=chief.create_trial, args=("three",), daemon=True)
    later.start()
    later.join(timeout=20)
    assert not later.is_alive()


@pytest.fixture
def over(tmp_path):
    """Build an oracle over a space."""

    def build(kind, *, trials, epochs=10, folder="search", **domains):
        base = ft.Recipe(data="photos", backbone="base.h5")
        parameters = Space(**domains).hyperparameters(base)
        options = {"objective": "val_accuracy", "trials": trials, "epochs": epochs, "seed": 0}
        built = build_oracle(kind, parameters, **options)
        built._set_project_dir(str(tmp_path / folder), "trials")
        return built

    return build


def finish(chief, *, score=lambda values: 0.5, workers=1, again=None):
    """Run trials until there are none; return their values. `again` reads the oracle back."""
    drawn, names = [], [f"worker {number}" for number in range(workers)]
    while True:
        trials = [chief.create_trial(name) for name in names]
        if not any(trial.status == "RUNNING" for trial in trials):
            assert {trial.status for trial in trials} == {"STOPPED"}
            return drawn
        for trial in trials:
            if trial.status == "RUNNING":
                drawn.append(dict(trial.hyperparameters.values))
                end(chief, trial, score(trial.hyperparameters.values))
        if again is not None:
            chief = again()
            chief.reload()


def distinct(drawn):
    return len({tuple(sorted(varied(values).items())) for values in drawn})


CONDITIONAL = {
    "strategy": ["head", "lpft"],
    "trainable": ["all", "-2:"],  # with lpft
    "head_units": [0, 64],  # with head
}
"""Four different trainings."""


def prefers_lpft(values):
    return 0.5 + 0.1 * (values["strategy"] == "lpft")


def test_bayesian_search_trains_nothing_twice_and_ends_with_its_space_interrupted_or_not(over):
    def build(folder):
        return over("bayesian", trials=9, folder=folder, **CONDITIONAL)

    whole = finish(build("whole"), score=prefers_lpft)
    assert (len(whole), distinct(whole)) == (4, 4)
    assert finish(build("parts"), score=prefers_lpft, again=lambda: build("parts")) == whole


def test_two_workers_of_a_bayesian_search_get_no_equal_trials(over):
    drawn = finish(over("bayesian", trials=9, **CONDITIONAL), score=prefers_lpft, workers=2)
    assert (len(drawn), distinct(drawn)) == (4, 4)


def test_number_that_hardly_differs_makes_no_other_trial(over):
    def score(values):
        """The best is at the end of the range: the process comes back to it, but for noise."""
        return round(0.8 + 0.05 * math.log10(values["learning_rate"]), 4)

    chief = over("bayesian", trials=9, learning_rate={"low": 1e-4, "high": 3e-3, "log": True})
    rates = sorted(values["learning_rate"] for values in finish(chief, score=score))
    assert len(rates) == 9
    assert all(below * 1.001 < above for below, above in itertools.pairwise(rates))


def test_whole_of_a_small_space_is_searched(over):
    few = {"dropout": {"low": 0.0, "high": 0.5, "step": 0.1}, "batch_size": [16, 32, 64]}
    drawn = finish(over("random", trials=30, **few))
    assert (len(drawn), distinct(drawn)) == (18, 18)


def test_grid_gives_a_worker_its_next_combination_while_another_is_at_work(over):
    one, several = (over("grid", trials=9, folder=name, dropout=[0.1, 0.2, 0.3, 0.4], views=[1, 2])
                    for name in ("one", "several"))  # fmt: skip
    trial, slow = (several.create_trial(name) for name in ("quick", "slow"))
    drawn = [trial.hyperparameters.values, slow.hyperparameters.values]
    for _ in range(6):
        end(several, trial)
        trial = several.create_trial("quick")
        drawn.append(trial.hyperparameters.values)
    end(several, trial)
    assert several.create_trial("quick").status == "IDLE"  # the slow one may be lost
    end(several, slow)
    assert several.create_trial("quick").status == "STOPPED"
    assert drawn == finish(one)


@pytest.mark.parametrize(
    ("trials", "epochs", "budgets"),
    [
        (8, 10, [4] * 6 + [10]),  # the smallest bracket with a promotion, up to its first
        (13, 10, [4] * 6 + [10, 10] + [10] * 4),
        (18, 10, [2] * 12 + [4] * 4 + [10]),  # the largest
        (5, 3, [1] * 3 + [3]),
    ],
)
def test_hyperband_begins_with_a_bracket_that_its_trials_can_finish(trials, epochs, budgets, over):
    chief = over("hyperband", trials=trials, epochs=epochs, dropout={"low": 0.0, "high": 0.5})
    default, *drawn = finish(chief, score=lambda values: values["dropout"])
    assert default == {"dropout": 0.2} and not chief.remark
    assert [values["tuner/epochs"] for values in drawn] == budgets
    first = drawn[: budgets.count(budgets[0])]
    best = max(values["dropout"] for values in first)
    promoted = [values for values in drawn if values["tuner/round"] > 0]
    assert promoted and promoted[0]["dropout"] == best


@pytest.mark.parametrize(
    ("trials", "epochs", "domains", "missing"),
    [
        (7, 10, {"dropout": {"low": 0.0, "high": 0.5}}, "8 trials"),
        (20, 2, {"dropout": {"low": 0.0, "high": 0.5}}, "3 epochs"),
        (20, 10, {"dropout": [0.1, 0.2, 0.3], "views": [1, 2]}, "7 combinations to draw from"),
    ],
)
def test_hyperband_that_could_promote_nothing_trains_all_whole_and_says_why(
    trials, epochs, domains, missing, over
):
    chief = over("hyperband", trials=trials, epochs=epochs, **domains)
    assert f"no trial go on with fewer than {missing}: trials are drawn" in chief.remark
    drawn = finish(chief)
    assert len(drawn) == distinct(drawn) == (6 if "views" in domains else trials)
    assert not any("tuner/epochs" in values for values in drawn)


def test_search_says_at_its_start_what_its_oracle_does_not_do(
    search_recipe, workbench, monkeypatch, tmp_path
):
    said = []
    monkeypatch.setattr(workbench.reporter, "say", said.append)
    prepare(open_search(search_recipe(oracle="hyperband"), tmp_path / "s"), workbench)
    assert said == [
        "Hyperband lets no trial go on with fewer than 3 epochs: trials are drawn at random and "
        "trained whole instead."
    ]
