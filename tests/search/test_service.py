"""Searches in several processes: real workers on the loopback, some of them killed."""

import json
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
from tfinetune.search import run, service
from tfinetune.search.client import reach, split_address
from tfinetune.search.job import open_search
from tfinetune.search.service import LOOPBACK, Crew, Listener, run_chief, serve
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
        trials=5, oracle="hyperband", recipe={"strategy_parameters": {"epochs": 3}}
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
        """Kill the worker that trains the first trial, in the middle of it."""
        while not (folder.trial_path("0") / "recipe.yaml").exists():
            time.sleep(0.02)
        state = json.loads((folder.trials_path / "oracle.json").read_text())
        (name,) = (name for name, trial in state["ongoing_trials"].items() if trial == "0")
        killed.append(crew[int(name.rpartition("-")[2]) - 1])
        killed[0].send_signal(signal.SIGKILL)

    reporter = Listening()
    thread = threading.Thread(target=kill_one)
    thread.start()
    run_chief(folder, workers=2, reporter=reporter)
    thread.join()
    assert "A worker ended with code -9: trial 0 is given out again." in reporter.said
    told = [said for said in reporter.said if said.startswith("trial ")]
    assert len(told) == 5 and all(", val_accuracy " in said for said in told)
    by_trial = {r.trial: r for r in folder.leaderboard()}
    epochs = {trial: (r.status, len(r.history)) for trial, r in sorted(by_trial.items())}
    # The best of the first round of three goes on, whichever worker paused it.
    assert epochs.pop("0") == ("completed", 3) and epochs.pop("4") == ("completed", 3)
    assert epochs == dict.fromkeys("123", ("paused", 1))


def test_trial_of_a_silent_worker_goes_to_the_next_that_asks(prepared):
    chief = prepared.oracle
    with serve(chief, LOOPBACK) as (address, listener):
        reach(address)
        first = chief.create_trial("one")
        chief.create_trial("two")
        assert sorted(listener.silent()) == ["one", "two"]
        fates = [service.take_back(prepared, name) for name in ("one", "two")]
        assert fates == ["trial 0 is given out again", "trial 1 is given out again"]
        assert listener.is_needed() and not listener.silent()
        assert chief.create_trial("three").trial_id in ("0", "1")
        assert first.trial_id == "0" and chief.create_trial("four").trial_id in ("0", "1")


def test_trial_that_is_just_being_given_out_is_not_lost(prepared, monkeypatch):
    chief, lost = prepared.oracle, []
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


def test_trial_that_loses_its_workers_fails_whoever_asks_meanwhile(prepared):
    chief = prepared.oracle
    for name in ("one", "another"):
        assert chief.create_trial(name).trial_id == "0"
        assert service.take_back(prepared, name) == "trial 0 is given out again"
    assert chief.create_trial("two").trial_id == "0"
    assert "trial 0 counts as failed" in service.take_back(prepared, "two")
    assert chief.create_trial("three").trial_id == "1"  # the lock is free, trial 0 not in line
    assert chief.trials["0"].status == "FAILED" and chief.end_order == ["0"]
    assert service.take_back(prepared, "two") is None
    (failed,) = prepared.folder.results()
    assert failed.status == "failed" and "3 workers were lost" in failed.reason


def test_trial_that_fails_by_its_workers_says_what_was_drawn_without_hyperbands_own(
    search_recipe, workbench, tmp_path
):
    asked = search_recipe(
        trials=5, oracle="hyperband", recipe={"strategy_parameters": {"epochs": 3}}
    )
    setup = prepare(open_search(asked, tmp_path / "s"), workbench)
    setup.oracle.create_trial("zero")
    for name in ("one", "two", "three"):
        assert "tuner/epochs" in setup.oracle.create_trial(name).hyperparameters.values
        service.take_back(setup, name)
    (failed,) = setup.folder.results()
    assert failed.trial == "1" and failed.values.keys() == {"learning_rate", "dropout"}


def test_chief_ends_with_the_time_though_no_worker_ever_came(search_recipe, workbench, tmp_path):
    with pytest.raises(SearchError, match="No trial succeeded. None was started in time"):
        run(search_recipe(), tmp_path / "s", workers=0, chief=LOOPBACK, max_time=0,
            workbench=workbench)  # fmt: skip


def test_chief_waits_for_a_worker_as_long_as_a_trial_is_to_be_repeated(prepared):
    listener = Listener(prepared.oracle)
    prepared.oracle.create_trial("killed")
    listener.stop_triggered = True  # another worker was told that there is no more
    service.take_back(prepared, "killed")
    assert listener.is_needed()
    prepared.oracle.deadline = time.time()
    assert not listener.is_needed()


@pytest.fixture
def crew(prepared, monkeypatch):
    """Start workers that are not Python: each runs a shell command after `begin` was called."""
    listener, start, begun = Listener(prepared.oracle), subprocess.Popen, []

    def ask(name):
        """Take a trial as the worker does that is called so."""
        request = protos.get_service().CreateTrialRequest(tuner_id=name)
        return Trial.from_proto(listener.CreateTrial(request, None).trial)

    def tend(count, begin):
        """Tend `count` workers until all have ended; return what was said."""

        def popen(command, **options):
            begun.append(command[4])
            return start(["sh", "-c", begin(len(begun), command[4])], **options)

        monkeypatch.setattr(service.subprocess, "Popen", popen)
        reporter = Listening()
        crew = Crew(prepared, listener, "127.0.0.1:1", reporter=reporter)
        try:
            crew.start(count)
            while crew.tend():
                time.sleep(0.01)
        finally:
            crew.stop()
        return reporter.said

    tend.ask, tend.begun = ask, begun
    return tend


def test_trial_that_kills_its_workers_is_given_up_and_the_next_one_run(crew, prepared):
    def begin(number, name):
        trial = crew.ask(name)
        return "kill -9 $$" if trial.trial_id == "0" else "exit 0"

    said = crew(1, begin)
    assert len(crew.begun) == 4 and len(said) == 3
    assert "code -9: trial 0 is given out again" in said[0] and "0 counts as failed" in said[2]
    (failed,) = prepared.folder.results()
    assert failed.trial == "0" and "memory may have run out" in failed.reason


def test_workers_that_die_between_trials_now_and_then_do_not_end_the_search(crew, prepared):
    def begin(number, name):
        if number in (2, 3):
            trial = crew.ask(name)
            trial.status = "FAILED"
            prepared.oracle.end_trial(trial)
        return "exit 1" if number < 4 else "exit 0"

    assert len(crew(1, begin)) == 3 and len(crew.begun) == 4


def test_workers_that_cannot_start_leave_the_others_alone_and_name_their_output(crew, prepared):
    commands = {1: "sleep 0.3; echo last; exit 7"}  # the others die at once
    with pytest.raises(SearchError, match=r"the last ended with code 7.*worker-1\.txt"):
        crew(2, lambda number, name: commands.get(number, "exit 1"))
    assert len(crew.begun) == 3
    assert (prepared.folder.path / "worker-1.txt").read_text() == "last\n"


def test_workers_that_cannot_start_are_an_error(search_recipe, workbench, tmp_path, monkeypatch):
    folder = open_search(search_recipe(), tmp_path / "s")
    prepare(folder, workbench)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(SearchError, match="Workers cannot start: the last ended with code 1"):
        run_chief(folder, workers=1)


def test_address_in_use_or_malformed_is_refused(prepared):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(SearchError, match=f"cannot listen at 127.0.0.1:{port}"),
            serve(prepared.oracle, f"127.0.0.1:{port}"),
        ):
            pass
    for address in ("localhost", "host:", ":80", "host:99999"):
        with pytest.raises(SearchError, match="named HOST:PORT"):
            split_address(address)


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
