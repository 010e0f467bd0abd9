"""A worker of a search in several processes: it trains what its chief gives out."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import keras_tuner as kt

from tfinetune.errors import SearchError
from tfinetune.reporting import Reporter
from tfinetune.search.folder import SearchFolder
from tfinetune.search.setup import Setup
from tfinetune.search.tuner import RecipeTuner
from tfinetune.search.workbench import Workbench
from tfinetune.security.saved_model import trusting

REACH_SECONDS = 60.0
"""How long a worker waits for its chief to answer."""

SIGN_SECONDS = 10.0
"""How often a worker that trains lets its chief hear of it."""

SEARCH = "search"
"""Metadata of a call: the identity of the search that the worker has the folder of."""

_PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
"""What a call ends with if the chief ends, or has too much to do, in the middle of it."""


class ChiefError(SearchError, kt.errors.FatalError):
    """A worker has no chief any more. Another error KerasTuner would take for that of a trial."""


def work(
    chief: str, output: str | Path, *, trust: bool = False, reporter: Reporter | None = None
) -> None:
    """Train for a chief, on this or another machine that sees its folder, until it has no more.

    Args:
        chief: `HOST:PORT`.
        output: folder of the search.
        trust: see `load_backbone`; needed where the search was started with it.
        reporter: shows progress; None is silent.

    Raises:
        SearchError: if there is no search in the folder, the chief does not answer, or its search
            is another.
        RecipeError: if the search was started with trust that is not given here.
    """
    split_address(chief)
    name = f"worker-{socket.gethostname()}-{os.getpid()}"
    with trusting(trust), reporter or Reporter() as reporter:
        run_worker(chief, name, SearchFolder.open(output), reporter=reporter)


def run_worker(
    address: str, name: str, folder: SearchFolder, *, reporter: Reporter | None = None
) -> None:
    """Train trials that a chief gives out, until it has no more.

    Args:
        address: `HOST:PORT` of the chief.
        name: unique among the workers.
        folder: of the search, the one that the chief has.
        reporter: shows progress; None is silent.

    Raises:
        SearchError: if the chief does not answer in time, or its search is another.
    """
    reach(address)
    setup = Setup.of(folder)
    workbench = Workbench(reporter=reporter)
    setup.read_photos(workbench)
    with _told(address, name):
        tuner = setup.tuner(workbench)
    tuner.oracle.stub = Patient(tuner.oracle.stub, address, search=folder.identity())
    with _signs_of_life(tuner):
        tuner.search()


@contextmanager
def _told(address: str, name: str) -> Iterator[None]:
    """Make tuners, while the block runs, that ask a chief: KerasTuner reads the environment."""
    host, port = split_address(address)
    variables = {
        "KERASTUNER_ORACLE_IP": host,
        "KERASTUNER_ORACLE_PORT": str(port),
        "KERASTUNER_TUNER_ID": name,
    }
    before = {variable: os.environ.get(variable) for variable in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value


class Patient:
    """KerasTuner's calls to a chief, which may be restarted meanwhile; its own wait for an hour.

    Args:
        stub: of KerasTuner's service.
        address: `HOST:PORT` of the chief.
        search: identity of the worker's search; the chief refuses any but its own.
        seconds: to wait for a chief that is gone.
    """

    def __init__(
        self, stub: Any, address: str, *, search: str = "", seconds: float = REACH_SECONDS
    ) -> None:
        self._stub, self._address, self._seconds = stub, address, seconds
        self._metadata = [(SEARCH, search)]

    def __getattr__(self, method: str) -> Callable[..., Any]:
        """Return a method of the service, which raises `ChiefError`."""
        ask = getattr(self._stub, method)

        def patiently(request: Any, **_: Any) -> Any:
            while True:
                reach(self._address, seconds=self._seconds)
                try:
                    return ask(
                        request,
                        wait_for_ready=True,
                        timeout=self._seconds,
                        metadata=self._metadata,
                    )
                except grpc.RpcError as error:
                    if error.code() not in _PASSING:
                        raise ChiefError(
                            f"The chief at {self._address} sends this worker home: "
                            f"{error.details()}"
                        ) from None

        return patiently


@contextmanager
def _signs_of_life(tuner: RecipeTuner) -> Iterator[None]:
    """Ask the chief for the present trial again and again while the block runs."""
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(SIGN_SECONDS):
            if (trial := tuner.running) is not None:
                with contextlib.suppress(ChiefError):
                    tuner.oracle.get_trial(trial)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def reach(address: str, *, seconds: float = REACH_SECONDS) -> None:
    """Wait until a chief answers.

    Raises:
        ChiefError: if it does not in `seconds`.
    """
    # A connection of its own: one that was lost is tried again after a pause that gets longer.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            raise ChiefError(
                f"No chief answers at {address} within {seconds:.0f} s. Start one with `tfinetune "
                "search … --chief HOST:PORT`, wait until it says that it listens, and check that "
                "the port can be reached from here."
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
