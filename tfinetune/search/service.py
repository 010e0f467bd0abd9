"""Searches in several processes, on KerasTuner's chief and workers, which speak gRPC.

The chief has the oracle and gives out trials; workers train them and write results into the folder
of the search, which they all see. A worker that dies is replaced, and its trial is given out again.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from keras_tuner.src import protos
from keras_tuner.src.distribute.oracle_chief import OracleServicer
from keras_tuner.src.engine import conditions

from tfinetune.errors import SearchError
from tfinetune.reporting import Reporter
from tfinetune.search.folder import SearchFolder
from tfinetune.search.leaderboard import Result
from tfinetune.search.oracles import Durable
from tfinetune.search.setup import Setup
from tfinetune.search.tuner import RecipeTuner
from tfinetune.search.workbench import Workbench
from tfinetune.security.saved_model import is_trusting, trusting

# KerasTuner 1.4 prints a value of every condition that it sends: a line of debugging that was left
# in. There `print` now does nothing; to redirect standard output would take that of all threads.
conditions.print = lambda *values: None

LOOPBACK = "127.0.0.1:0"
"""A free port that only this machine reaches."""

REACH_SECONDS = 60.0
"""How long a worker waits for its chief to answer."""

MOST_DEATHS = 2
"""Processes that a trial may take with it before it counts as failed."""

SILENCE_SECONDS = 60.0
"""After which a worker counts as lost."""

POLL_SECONDS = 0.2


class Listener(OracleServicer):
    """KerasTuner's service, and when each worker was heard of last."""

    def __init__(self, oracle: Durable) -> None:
        super().__init__(oracle)
        self._heard: dict[str, float] = {}

    def CreateTrial(self, request: Any, context: Any) -> Any:
        """Give a worker a trial."""
        self._heard[request.tuner_id] = time.monotonic()
        response = super().CreateTrial(request, context)
        self._heard[response.trial.trial_id] = time.monotonic()
        return response

    def GetTrial(self, request: Any, context: Any) -> Any:
        """Tell about a trial; workers ask for their own to say that they are alive."""
        self._heard[request.trial_id] = time.monotonic()
        return super().GetTrial(request, context)

    def is_needed(self) -> bool:
        """Whether a worker is at work, or none was told yet that there is no more."""
        oracle = self.oracle
        return bool(oracle.ongoing_trials or oracle.tuner_ids) or not self.stop_triggered

    def take_back_lost(self) -> list[str]:
        """Line up the trials of workers that were not heard of for too long; return their ids."""
        oldest = time.monotonic() - SILENCE_SECONDS
        silent = [name for name in list(self.oracle.tuner_ids) if self._last_heard(name) < oldest]
        return list(filter(None, map(self.oracle.take_back, silent)))

    def _last_heard(self, name: str) -> float:
        # A trial is running before it was heard of: while it is made its worker counts.
        trial = self.oracle.ongoing_trials.get(name)
        heard = self._heard.get(name, 0.0)
        return max(heard, self._heard.get(trial.trial_id, 0.0)) if trial else heard


@contextmanager
def serve(oracle: Durable, address: str) -> Iterator[tuple[str, Listener]]:
    """Answer workers while the block runs.

    Args:
        oracle: gives out trials.
        address: `HOST:PORT`; port 0 takes a free one. Whoever reaches it can give and take trials:
            beyond the loopback only on a network that is trusted.

    Yields:
        The address with its port, and what answers.

    Raises:
        SearchError: if it cannot be listened at.
    """
    host, port = split_address(address)
    server = grpc.server(ThreadPoolExecutor(max_workers=1), options=[("grpc.so_reuseport", 0)])
    listener = Listener(oracle)
    protos.get_service_grpc().add_OracleServicer_to_server(listener, server)
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise SearchError(f"The chief cannot listen at {address}: {error}.") from None
    server.start()
    try:
        yield f"{host}:{bound}", listener
    finally:
        server.stop(grace=1).wait()


def run_chief(
    folder: SearchFolder,
    *,
    workers: int,
    address: str = LOOPBACK,
    reporter: Reporter | None = None,
) -> None:
    """Give out the trials that are missing, to workers of its own and to others that ask.

    Args:
        folder: of a search whose backbones are chosen.
        workers: processes to start here.
        address: `HOST:PORT` to listen at.
        reporter: told of workers that die.

    Raises:
        SearchError: if workers cannot start.
    """
    reporter = reporter or Reporter()
    setup = Setup.of(folder)
    setup.start_oracle()
    with serve(setup.oracle, address) as (bound, listener):
        reporter.say(f"The chief of the search listens at {bound}.")
        crew = Crew(folder, setup.oracle, bound, reporter=reporter)
        try:
            crew.start(workers)
            while crew.tend() or listener.is_needed():
                for trial in listener.take_back_lost():
                    reporter.say(f"Nothing was heard of trial {trial}: it is given out again.")
                time.sleep(POLL_SECONDS)
        finally:
            crew.stop()


def run_worker(address: str, name: str, folder: SearchFolder) -> None:
    """Train trials that a chief gives out, until it has no more.

    Args:
        address: `HOST:PORT` of the chief.
        name: unique among the workers.
        folder: of the search, the one that the chief has.

    Raises:
        SearchError: if the chief does not answer in time.
    """
    host, port = split_address(address)
    reach(address)
    # KerasTuner reads these when a tuner is made, and asks the chief from then on.
    os.environ |= {
        "KERASTUNER_ORACLE_IP": host,
        "KERASTUNER_ORACLE_PORT": str(port),
        "KERASTUNER_TUNER_ID": name,
    }
    setup = Setup.of(folder)
    workbench = Workbench()
    workbench.tuner(setup.base, precisions=folder.precisions_path)
    while True:
        tuner = setup.tuner(workbench)
        try:
            with _signs_of_life(tuner):
                tuner.search()
            return
        except grpc.RpcError:  # the chief is gone in the middle of a call; it may be restarted
            reach(address)


@contextmanager
def _signs_of_life(tuner: RecipeTuner) -> Iterator[None]:
    """Ask the chief for the present trial again and again while the block runs."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(SILENCE_SECONDS / 6):
            if tuner.running is not None:
                with contextlib.suppress(grpc.RpcError):
                    tuner.oracle.get_trial(tuner.running)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def work(chief: str, output: str | Path, *, trust: bool = False) -> None:
    """Train for a chief, on this or another machine that sees its folder, until it has no more.

    Args:
        chief: `HOST:PORT`.
        output: folder of the search.
        trust: see `load_backbone`; needed where the search was started with it.

    Raises:
        SearchError: if there is no search in the folder, or the chief does not answer.
        RecipeError: if the search was started with trust that is not given here.
    """
    split_address(chief)
    name = f"worker-{socket.gethostname()}-{os.getpid()}"
    with trusting(trust):
        run_worker(chief, name, SearchFolder.open(output))


def reach(address: str, *, seconds: float = REACH_SECONDS) -> None:
    """Wait until a chief answers.

    Raises:
        SearchError: if it does not in `seconds`.
    """
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            raise SearchError(
                f"No chief answers at {address} within {seconds:.0f} s. Start one with `tfinetune "
                "search … --chief HOST:PORT`, and check that the port can be reached from here."
            ) from None


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`.

    Raises:
        SearchError: if it is none.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise SearchError(f"A chief is named HOST:PORT, such as 127.0.0.1:8000; got {address!r}.")
    return host, int(port)


class Crew:
    """The worker processes of this machine."""

    def __init__(
        self,
        folder: SearchFolder,
        oracle: Durable,
        address: str,
        *,
        reporter: Reporter,
    ) -> None:
        self._folder, self._oracle, self._address = folder, oracle, address
        self._reporter = reporter
        self._processes: dict[str, subprocess.Popen] = {}
        self._deaths: Counter[str | None] = Counter()
        self._started = 0

    def start(self, count: int) -> None:
        """Start more workers."""
        for _ in range(count):
            name = f"worker-{socket.gethostname()}-{os.getpid()}-{self._started}"
            self._started += 1
            command = [sys.executable, "-m", "tfinetune.search.worker", self._address, name]
            command += [str(self._folder.path), str(os.getpid())]
            command += ["--trust"] * is_trusting()
            with open(self._folder.path / f"worker-{self._started}.txt", "ab") as log:
                self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def tend(self) -> bool:
        """Replace workers that died; return whether any is at work."""
        for name, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self._processes[name]
            if code:
                self._bury(name, code)
        return bool(self._processes)

    def stop(self) -> None:
        """End what still runs."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait()

    def _bury(self, name: str, code: int) -> None:
        trial = self._oracle.take_back(name)
        self._deaths[trial] += 1
        what = f"while it ran trial {trial}" if trial else "before it had a trial"
        self._reporter.say(f"A worker ended with code {code} {what}.")
        if self._deaths[trial] >= MOST_DEATHS:
            if trial is None:
                raise SearchError(
                    f"Workers cannot start: the last ended with code {code}. Their output is in "
                    f"{self._folder.path / f'worker-{self._started}.txt'}."
                )
            values = dict(self._oracle.trials[trial].hyperparameters.values)
            reason = f"{MOST_DEATHS} processes that ran it were killed; memory may have run out"
            self._folder.write_result(Result(trial, "failed", values, reason=reason))
            self._oracle.give_up(trial)
        self.start(1)
