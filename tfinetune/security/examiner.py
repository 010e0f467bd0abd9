"""Have foreign files looked into by a process of their own: no TensorFlow, little memory and time.

One child process is kept, which imports h5py once and forks for every file: a fork takes
milliseconds where a process takes a fifth of a second. No two files share a fork, and the child
itself never touches one. `confinement` is what runs there.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tfinetune import errors
from tfinetune.errors import BackboneError, UnsafeModelError

WALL_SECONDS, BYTES_PER_WALL_SECOND = 20.0, 4 * 2**20
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # Its threads reserve memory that nothing here uses.
    "HDF5_PLUGIN_PRELOAD": "::",  # A file must not choose libraries to load.
    "HDF5_USE_FILE_LOCKING": "FALSE",  # The parent may hold the file open.
}


class Examiner:
    """The child process that looks into files, started when it is first needed."""

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):
            # Two processes that talked through the same pipes would get each other's answers.
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the process unless it runs; it gets ready while the caller goes on.

        Raises:
            OSError: if no process can be started.
        """
        with self._lock:
            self._start()

    def stop(self) -> None:
        """End the process, whatever it does. The next file starts another."""
        with self._lock:
            self._stop()

    def examine(self, task: str, path: Path) -> dict[str, Any]:
        """Return what `task` of `tfinetune.security.containers` finds in the file at `path`.

        Raises:
            TfinetuneError: whatever the task raised.
            UnsafeModelError: if it crashed or ran out of memory or time.
            BackboneError: if no process can be started.
        """
        timeout = WALL_SECONDS + path.stat().st_size / BYTES_PER_WALL_SECOND
        folder = None if path.is_absolute() else os.getcwd()
        request = {"task": task, "path": os.fspath(path), "folder": folder}
        with self._lock:
            try:
                self._start()
            except OSError as error:
                raise BackboneError(
                    f"{path} could not be checked: no child process can be started ({error})."
                ) from error
            try:
                reply, hung = self._ask(json.dumps(request).encode() + b"\n", timeout)
                code = int(reply.partition(b" ")[0]) if reply else self._process.wait()
                last_words = self._last_words()
            except BaseException:  # An answer that nobody waited for would pass for the next one.
                self._stop()
                raise
        if hung:
            raise UnsafeModelError(ended_badly(path, f"hung for {timeout:.0f} s"))
        answer = _parsed(reply.partition(b" ")[2])
        if code != 0 or answer is None:
            raise UnsafeModelError(ended_badly(path, _death(code, last_words)))
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        return answer

    def _ask(self, request: bytes, timeout: float) -> tuple[bytes, bool]:
        """Return the line that answers, empty if the process died, and whether it was too late."""
        process, late = self._process, threading.Event()

        def end() -> None:
            late.set()
            _kill(process)

        timer = threading.Timer(timeout, end)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # It died before; nothing will be read.
                process.stdin.write(request)
                process.stdin.flush()
            reply = process.stdout.readline()
        finally:
            timer.cancel()
            timer.join()  # It must not end the process over the next file.
        complete = reply.endswith(b"\n")
        return (reply if complete else b""), late.is_set() and not complete

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        # -P, and no empty entry: what lies in the working directory is no module.
        command = [sys.executable, "-P", "-m", "tfinetune.security.confinement"]
        package_parent = os.fspath(Path(__file__).parents[2])
        search_path = [entry for entry in (*sys.path, package_parent) if entry]
        environment = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(search_path)}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process lives)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent; and one signal ends every fork.
        )

    def _stop(self) -> None:
        if self._process is not None:
            _kill(self._process)
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._errors):
                with contextlib.suppress(OSError):
                    stream.close()
            self._process = None

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2]


EXAMINER = Examiner()
"""The one of this process."""
atexit.register(EXAMINER.stop)


def ended_badly(path: Path, how: str) -> str:
    """Return the message for a file that could not be looked into."""
    return (
        f"{path} was refused: looking into it in a process of its own {how}. It is damaged, or "
        "made to do harm. Download or save it again."
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _parsed(answer: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _death(code: int, last_words: str) -> str:
    if hasattr(signal, "SIGPROF") and code == -signal.SIGPROF:
        return "took more processor time than a file of its size can need"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"crashed ({signal.Signals(-code).name})"
    return f"ended with code {code}" + (f": {last_words[:200]}" if last_words else "")
