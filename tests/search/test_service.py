"""Searches in several processes: real workers on the loopback, some of them killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from keras_tuner.src import protos
from keras_tuner.src.engine.trial import Trial

import tfinetune as ft
from tfinetune.errors import SearchError
from tfinetune.search import service
from tfinetune.search.client import reach, split_address, work
from tfinetune.search.job import open_search
from tfinetune.search.service import LOOPBACK, run_chief, serve
from tfinetune.search.setup import Setup, prepare


class Listening(ft.Reporter):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, sentence):
        self.said.append(sentence)


@pytest.mark.slow
def test_worker_that_is_killed_is_replaced_and_its_trial_given_out_again(
    search_recipe, workbench, tmp_path, monkeypatch, world
):
    monkeypatch.setenv("TFINETUNE_CACHE", str(world.cache))
    asked = search_recipe(
        trials=3, oracle="random", recipe={"strategy_parameters": {"epochs": 20}}, prune=False
    )
    folder = open_search(asked, tmp_path / "s")
    prepare(folder, workbench)
    killed, crew = [], []
    start = subprocess.Popen

    def remember(*arguments, **options):
        crew.append(start(*arguments, **options))
        return crew[-1]

    monkeypatch.setattr("tfinetune.search.service.subprocess.Popen", remember)

    def kill_one() -> None:
        """Kill the first worker that trains."""
        while not list(folder.trials_path.glob("trial_*/recipe.yaml")):
            time.sleep(0.05)
        killed.append(crew[0].pid)
        os.kill(killed[0], signal.SIGKILL)

    reporter = Listening()
    thread = threading.Thread(target=kill_one)
    thread.start()
    run_chief(folder, workers=2, reporter=reporter)
    thread.join()
    board = folder.leaderboard()
    assert killed and any("ended with code -9" in sentence for sentence in reporter.said)
    assert [r.status for r in board] == ["completed"] * 3
    assert {r.trial for r in board} == {"0", "1", "2"}


@pytest.fixture
def setup(search_recipe, workbench, tmp_path):
    folder = open_search(search_recipe(trials=3, oracle="random"), tmp_path / "s")
    prepare(folder, workbench)
    setup = Setup.of(folder)
    setup.start_oracle()
    return setup


@pytest.fixture
def chief(setup):
    return setup.oracle


def test_trial_of_a_silent_worker_goes_to_the_next_that_asks(setup):
    chief = setup.oracle
    with serve(chief, LOOPBACK) as (address, listener):
        reach(address)
        first = chief.create_trial("one")
        chief.create_trial("two")
        assert sorted(listener.silent()) == ["one", "two"]
        fates = [service.take_back(setup, name) for name in ("one", "two")]
        assert fates == ["trial 0 is given out again", "trial 1 is given out again"]
        assert listener.is_needed() and not listener.silent()
        assert chief.create_trial("three").trial_id in ("0", "1")
        assert first.trial_id == "0" and chief.create_trial("four").trial_id in ("0", "1")


def test_trial_that_is_just_being_given_out_is_not_lost(chief, monkeypatch):
    lost = []
    with serve(chief, LOOPBACK) as (_, listener):
        create = chief.create_trial

        def create_slowly(name):
            trial = create(name)
            lost.extend(listener.silent())  # as the chief's own loop may at this moment
            return trial

        monkeypatch.setattr(chief, "create_trial", create_slowly)
        request = protos.get_service().CreateTrialRequest(tuner_id="one")
        assert listener.CreateTrial(request, None).trial.trial_id == "0"
    assert not lost


def test_trial_that_loses_its_workers_fails_whoever_asks_meanwhile(setup):
    chief = setup.oracle
    assert chief.create_trial("one").trial_id == "0"
    assert service.take_back(setup, "one") == "trial 0 is given out again"
    assert chief.create_trial("two").trial_id == "0"
    assert "trial 0 has failed" in service.take_back(setup, "two")
    assert chief.create_trial("three").trial_id == "1"  # the lock is free, trial 0 not in line
    assert chief.trials["0"].status == "FAILED" and chief.end_order == ["0"]
    assert service.take_back(setup, "two") is None
    (failed,) = setup.folder.results()
    assert failed.status == "failed" and "2 workers were lost" in failed.reason


def test_trial_that_fails_by_its_workers_says_what_was_drawn_but_not_hyperbands_notes(
    search_recipe, workbench, tmp_path
):
    asked = search_recipe(oracle="hyperband", recipe={"strategy_parameters": {"epochs": 3}})
    setup = prepare(open_search(asked, tmp_path / "s"), workbench)
    setup.oracle.create_trial("zero")
    for name in ("one", "two"):
        assert "tuner/epochs" in setup.oracle.create_trial(name).hyperparameters.values
        service.take_back(setup, name)
    (failed,) = setup.folder.results()
    assert failed.trial == "1" and failed.values.keys() == {"learning_rate", "dropout"}


def end(oracle, trial, score=0.5):
    oracle.update_trial(trial.trial_id, {"val_accuracy": score})
    trial.status = "COMPLETED"
    oracle.end_trial(trial)


def test_trial_that_a_lost_worker_ends_after_all_is_not_begun_again(chief):
    trial = chief.create_trial("lost")
    chief.take_back("lost")
    end(chief, trial)
    assert chief.create_trial("other").trial_id == "1"
    end(chief, trial)
    assert chief.end_order == ["0"]


def test_restarted_chief_repeats_a_trial_only_until_its_worker_ends_it(setup):
    before = setup.oracle.create_trial("by hand")
    setup.oracle.create_trial("other")
    again = Setup.of(setup.folder)
    again.start_oracle()
    assert not again.oracle.ongoing_trials
    end(again.oracle, before)
    assert again.oracle.create_trial("by hand").trial_id == "1"
    assert again.oracle.create_trial("third").trial_id == "2"


def test_chief_that_does_not_answer_is_said_to(tmp_path, search_recipe):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(SearchError, match=f"No chief answers at {address} within 1 s"):
        reach(address, seconds=1)
    with pytest.raises(SearchError, match="There is no search in"):
        work(address, tmp_path)


def test_address_in_use_or_malformed_is_refused(chief):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(SearchError, match=f"cannot listen at 127.0.0.1:{port}"),
            serve(chief, f"127.0.0.1:{port}"),
        ):
            pass
    for address in ("localhost", "host:", ":80", "host:99999"):
        with pytest.raises(SearchError, match="named HOST:PORT"):
            split_address(address)


def test_workers_that_cannot_start_are_an_error(search_recipe, workbench, tmp_path, monkeypatch):
    folder = open_search(search_recipe(), tmp_path / "s")
    prepare(folder, workbench)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(SearchError, match=r"Workers cannot start: .*code 1.*worker-2\.txt"):
        run_chief(folder, workers=1)


@pytest.mark.slow
def test_worker_started_by_hand_goes_on_with_a_chief_that_was_restarted(
    search_recipe, workbench, tmp_path, world, monkeypatch
):
    monkeypatch.setenv("TFINETUNE_CACHE", str(world.cache))
    folder = open_search(search_recipe(trials=3, oracle="random"), tmp_path / "s")
    prepare(folder, workbench)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tfinetune", "search", "--worker", "--chief", address]
    process = subprocess.Popen([*command, "--output", folder.path])
    try:
        for ended in (1, 3):
            setup = Setup.of(folder)
            setup.start_oracle()
            with serve(setup.oracle, address) as (_, listener):
                while len(setup.oracle.end_order) < ended or (ended == 3 and listener.is_needed()):
                    assert process.poll() in (None, 0)
                    time.sleep(0.02)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert sorted(r.trial for r in folder.leaderboard()) == ["0", "1", "2"]
    assert {r.status for r in folder.leaderboard()} == {"completed"}


def test_what_keras_tuner_sends_is_not_printed(capsys):
    import keras_tuner as kt

    hyperparameters = kt.HyperParameters()
    hyperparameters.Choice("strategy", ["head", "lpft"])
    with hyperparameters.conditional_scope("strategy", ["head"]):
        hyperparameters.Int("head_units", 0, 8)
    assert hyperparameters.to_proto().ByteSize() > 0
    assert capsys.readouterr().out == ""


def test_values_whose_condition_does_not_hold_count_neither_for_worker_nor_chief(
    search_recipe, workbench, tmp_path
):
    space = {"strategy": ["lpft", "head"], "trainable": ["all", "stage_2:"], "batch_size": [8, 16]}
    default = {"strategy": "lpft", "strategy_parameters": {"epochs": 1}}
    folder = open_search(search_recipe(recipe=default, space=space), tmp_path / "s")
    setup = prepare(folder, workbench)
    oracle, tuner = setup.oracle, setup.tuner(workbench)
    trial = oracle.create_trial("worker")
    trial.hyperparameters.values = {"strategy": "head", "batch_size": 8}
    received = Trial.from_proto(trial.to_proto())
    assert received.hyperparameters.values["trainable"] == "all"  # the reason for all this
    assert tuner.run_trial(received)["val_accuracy"] > 0
    assert folder.results()[0].values == {"strategy": "head", "batch_size": 8}
    returned = Trial.from_proto(received.to_proto())
    returned.status = "COMPLETED"
    oracle.update_trial(trial.trial_id, {"val_accuracy": 0.5})
    oracle.end_trial(returned)
    kept = oracle.trials[trial.trial_id].hyperparameters.values
    assert kept == {"strategy": "head", "batch_size": 8}
