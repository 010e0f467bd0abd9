"""Workers in this process, with a real chief beside them."""

import os
import socket
import threading
import time
from functools import partial

import pytest
from keras_tuner.src import protos

from tfinetune.errors import SearchError
from tfinetune.search import client, service, worker
from tfinetune.search.client import ChiefError, Patient, reach, run_worker, work
from tfinetune.search.service import LOOPBACK, serve
from tfinetune.search.tuner import RecipeTuner


@pytest.fixture(autouse=True)
def shared_workbench(workbench, monkeypatch):
    """Spare every worker of these tests its own."""
    monkeypatch.setattr(client, "Workbench", lambda: workbench)


@pytest.fixture
def nobody():
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_worker_trains_every_trial_and_leaves_the_process_as_it_was(prepared):
    folder, before = prepared.folder, dict(os.environ)
    left = folder.trial_path("0") / ".checkpoint-1.partial.npz"  # by a worker that was killed
    left.parent.mkdir(parents=True)
    left.touch()
    with serve(prepared.oracle, LOOPBACK) as (address, listener):
        run_worker(address, "worker", folder)
        assert not listener.is_needed()
    assert [r.status for r in folder.results()] == ["completed"] * 3
    assert dict(os.environ) == before and not left.exists()


def test_worker_in_a_long_trial_is_heard_of(prepared, monkeypatch):
    monkeypatch.setattr(client, "SIGN_SECONDS", 0.2)
    monkeypatch.setattr(service, "SILENCE_SECONDS", 2.0)
    silent = []

    def train(self, name, *_):
        if name == "0":
            time.sleep(3)
            silent.extend(listener.silent())
        raise SearchError("it is no real trial")

    monkeypatch.setattr(RecipeTuner, "_train", train)
    with serve(prepared.oracle, LOOPBACK) as (address, listener):
        run_worker(address, "worker", prepared.folder)
    assert not silent and len(prepared.folder.results()) == 3


def test_worker_whose_chief_is_gone_ends_and_fails_no_trial_for_it(prepared, monkeypatch):
    monkeypatch.setattr(client, "Patient", partial(Patient, seconds=1))
    monkeypatch.setattr(client, "reach", lambda *a, **k: reached.append(a) or reach(*a, **k))
    reached, train = [], RecipeTuner._train

    def last(*arguments):
        stop.set()
        while stopped.is_alive():
            time.sleep(0.01)
        return train(*arguments)

    monkeypatch.setattr(RecipeTuner, "_train", last)
    stop, bound = threading.Event(), []

    def be_chief():
        with serve(prepared.oracle, LOOPBACK) as (address, _):
            bound.append(address)
            stop.wait()

    stopped = threading.Thread(target=be_chief)
    stopped.start()
    while not bound:
        time.sleep(0.01)
    with pytest.raises(SearchError, match=f"No chief answers at {bound[0]} within 1 s"):
        run_worker(bound[0], "worker", prepared.folder)
    assert len(reached) == 3  # for the search, for a trial, and, in vain, for what that gave
    # The result waits for the chief that is started next.
    assert [r.status for r in prepared.folder.results()] == ["completed"]


def test_call_to_a_chief_that_is_restarted_is_answered(prepared, nobody, monkeypatch):
    answers, asked, ended = [], threading.Event(), threading.Event()

    def never_answer(name):
        asked.set()
        ended.wait()

    request = protos.get_service().CreateTrialRequest(tuner_id="worker")
    with client.grpc.insecure_channel(nobody) as channel:
        stub = Patient(protos.get_service_grpc().OracleStub(channel), nobody)
        asking = threading.Thread(target=lambda: answers.append(stub.CreateTrial(request)))
        with monkeypatch.context() as patch, serve(prepared.oracle, nobody):
            patch.setattr(prepared.oracle, "create_trial", never_answer)
            asking.start()
            asked.wait()
        ended.set()
        assert not answers
        with serve(prepared.oracle, nobody):
            asking.join()
    assert answers[0].trial.trial_id == "0"


def test_chief_that_fails_is_said_to(prepared, monkeypatch):
    def full(tuner_id):
        raise OSError("the disk is full")

    monkeypatch.setattr(prepared.oracle, "create_trial", full)
    with (
        serve(prepared.oracle, LOOPBACK) as (address, _),
        pytest.raises(ChiefError, match=f"chief at {address} failed: .*the disk is full"),
    ):
        run_worker(address, "worker", prepared.folder)


def test_chief_that_does_not_answer_is_said_to(tmp_path, nobody):
    with pytest.raises(SearchError, match=f"No chief answers at {nobody} within 1 s"):
        reach(nobody, seconds=1)
    with pytest.raises(SearchError, match="There is no search in"):
        work(nobody, tmp_path)


def test_worker_ends_when_its_parent_is_gone(prepared, monkeypatch):
    ended = threading.Event()

    monkeypatch.setattr(worker.os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(worker, "run_worker", lambda *arguments: ended.wait(60))
    worker.main("127.0.0.1:1", "worker", prepared.folder.path, str(os.getppid() + 1))
    assert ended.is_set()
