"""Searches in several processes, on KerasTuner's chief and workers, which speak gRPC.

The chief has the oracle and gives out trials; workers train them and write results into the folder
of the search, which they all see. A worker that dies is replaced, and its trial is given out again.
"""

import os
import socket
import subprocess
import sys
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
from tfinetune.search.client import SEARCH, SIGN_SECONDS, split_address
from tfinetune.search.folder import SearchFolder
from tfinetune.search.leaderboard import Result, outcome
from tfinetune.search.oracles import MOST_LOSSES, Durable, varied
from tfinetune.search.setup import Setup
from tfinetune.security.saved_model import is_trusting

# KerasTuner 1.4 prints a value of every condition that it sends: a line of debugging that was left
# in. There `print` now does nothing; to redirect standard output would take that of all threads.
conditions.print = lambda *values: None

LOOPBACK = "127.0.0.1:0"
"""A free port that only this machine reaches."""

MOST_IDLE_DEATHS = 2
"""Workers in a row that may end without having got a trial before no other is started."""

SILENCE_SECONDS = 6 * SIGN_SECONDS
"""After which a worker counts as lost."""

POLL_SECONDS = 0.2


class Listener(OracleServicer):
    """KerasTuner's service, and when each worker was heard of last.

    Args:
        oracle: gives out trials.
        search: identity of the search, which workers must have the folder of; None asks for none.

    Attributes:
        given: how often a trial was given out.
    """

    def __init__(self, oracle: Durable, search: str | None = None) -> None:
        super().__init__(oracle)
        self._search = search
        self._heard: dict[str, float] = {}
        self.given = 0

    def CreateTrial(self, request: Any, context: Any) -> Any:
        """Give a worker a trial."""
        if self._search is not None and (SEARCH, self._search) not in context.invocation_metadata():
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                "its search is not the one in the worker's --output.",
            )
        self._heard[request.tuner_id] = time.monotonic()
        response = super().CreateTrial(request, context)
        self._heard[response.trial.trial_id] = time.monotonic()
        self.given += request.tuner_id in self.oracle.ongoing_trials
        return response

    def GetTrial(self, request: Any, context: Any) -> Any:
        """Tell about a trial; workers ask for their own to say that they are alive."""
        self._heard[request.trial_id] = time.monotonic()
        return super().GetTrial(request, context)

    def is_needed(self) -> bool:
        """Whether a worker is at work, or one that comes may be given a trial."""
        oracle = self.oracle
        if oracle.ongoing_trials or oracle.tuner_ids:
            return True
        return not oracle.is_over and (oracle.is_waiting or not self.stop_triggered)

    def silent(self) -> list[str]:
        """Return the workers that were not heard of for too long."""
        oldest = time.monotonic() - SILENCE_SECONDS
        return [name for name in list(self.oracle.tuner_ids) if self._last_heard(name) < oldest]

    def _last_heard(self, name: str) -> float:
        # A trial is running before it was heard of: while it is made its worker counts.
        trial = self.oracle.ongoing_trials.get(name)
        heard = self._heard.get(name, 0.0)
        return max(heard, self._heard.get(trial.trial_id, 0.0)) if trial else heard


@contextmanager
def serve(
    oracle: Durable, address: str, search: str | None = None
) -> Iterator[tuple[str, Listener]]:
    """Answer workers while the block runs.

    Args:
        oracle: gives out trials.
        address: `HOST:PORT`; port 0 takes a free one. Whoever reaches it can give and take trials:
            beyond the loopback only on a network that is trusted.
        search: see `Listener`.

    Yields:
        The address with its port, and what answers.

    Raises:
        SearchError: if it cannot be listened at.
    """
    host, port = split_address(address)
    server = grpc.server(ThreadPoolExecutor(max_workers=1), options=[("grpc.so_reuseport", 0)])
    listener = Listener(oracle, search)
    protos.get_service_grpc().add_OracleServicer_to_server(listener, server)
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        reason = str(error).removesuffix(".")
        raise SearchError(f"The chief cannot listen at {address}: {reason}.") from None
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
        reporter: told of trials that end and of workers that die.

    Raises:
        SearchError: if workers cannot start.
    """
    reporter = reporter or Reporter()
    setup = Setup.of(folder)
    setup.start_oracle()
    told = set(setup.oracle.end_order)

    def tell() -> None:
        for trial in setup.oracle.end_order.copy():
            if trial not in told and (result := folder.result(trial)):
                told.add(trial)
                reporter.say(outcome(result, folder.recipe().objectives[0]))

    with serve(setup.oracle, address, folder.identity()) as (bound, listener):
        reporter.say(f"The chief of the search listens at {bound}.")
        crew = Crew(setup, listener, bound, reporter=reporter)
        try:
            crew.start(workers)
            while crew.tend() or listener.is_needed():
                tell()
                for name in listener.silent():
                    if fate := take_back(setup, name):
                        reporter.say(f"Nothing was heard of {name} any more: {fate}.")
                if workers and setup.oracle.is_waiting and not crew.is_busy:
                    crew.start(1)  # its own have gone home, and others took a trial with them
                time.sleep(POLL_SECONDS)
            tell()
        finally:
            crew.stop()


def take_back(setup: Setup, worker: str) -> str | None:
    """Take the trial of a worker that is gone; say what becomes of it, or None if it had none."""
    trial = setup.oracle.take_back(worker)
    if trial is None:
        return None
    if trial.status != "FAILED":
        return f"trial {trial.trial_id} is given out again"
    values = varied(trial.hyperparameters.values)
    reason = f"{MOST_LOSSES} workers were lost while they ran it; memory may have run out"
    setup.folder.write_result(Result(trial.trial_id, "failed", values, reason=reason))
    return f"trial {trial.trial_id} counts as failed, for {MOST_LOSSES} were lost by it"


class Crew:
    """The worker processes of this machine."""

    def __init__(
        self,
        setup: Setup,
        listener: Listener,
        address: str,
        *,
        reporter: Reporter,
    ) -> None:
        self._setup, self._listener, self._address = setup, listener, address
        self._reporter = reporter
        self._processes: dict[int, subprocess.Popen] = {}
        self._idle_deaths: Counter[int] = Counter()
        self._started = 0

    def start(self, count: int) -> None:
        """Start more workers."""
        folder = str(self._setup.folder.path)
        for _ in range(count):
            self._started += 1
            number = self._started
            command = [sys.executable, "-m", "tfinetune.search.worker"]
            command += [self._address, self._name(number), folder, str(os.getpid())]
            command += ["--trust"] * is_trusting()
            with open(self._log(number), "ab") as log:
                self._processes[number] = subprocess.Popen(command, stdout=log, stderr=log)

    def tend(self) -> bool:
        """Replace workers that died; return whether any is at work."""
        for number, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self._processes[number]
            if code:
                self._bury(number, code)
        return bool(self._processes)

    @property
    def is_busy(self) -> bool:
        """Whether any runs."""
        return bool(self._processes)

    def stop(self) -> None:
        """End what still runs."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait()

    def _name(self, number: int) -> str:
        return f"worker-{socket.gethostname()}-{os.getpid()}-{number}"

    def _log(self, number: int) -> Path:
        return self._setup.folder.path / f"worker-{number}.txt"

    def _bury(self, number: int, code: int) -> None:
        fate = take_back(self._setup, self._name(number))
        self._reporter.say(f"A worker ended with code {code}: {fate or 'it had no trial'}.")
        if fate or self._may_start():
            self.start(1)
        elif not self._processes:
            raise SearchError(
                f"Workers cannot start: the last ended with code {code}. Its output is in "
                f"{self._log(number)}."
            )

    def _may_start(self) -> bool:
        """Whether a worker that had no trial is replaced; after too many the others go on alone."""
        given = self._listener.given  # a trial that was given out shows that workers can start
        self._idle_deaths[given] += 1
        return self._idle_deaths[given] < MOST_IDLE_DEATHS
