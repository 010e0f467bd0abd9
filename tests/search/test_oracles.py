"""Oracles without trainings: what is drawn, given out again, and recorded."""

import threading
import time

import keras_tuner as kt
import pytest

from tfinetune.errors import StorageError
from tfinetune.search.oracles import MOST_LOSSES, ORACLES, build_oracle

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
