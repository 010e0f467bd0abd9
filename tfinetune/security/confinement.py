"""Be the process that looks into foreign files for `examiner`: a fork with limits for each file.

A mutated HDF5 file can hang or crash the HDF5 library, which nothing in the same process can catch.
The fork reads everything that the parent will read later; where it ends badly, so would have the
parent. Only the standard library, numpy and h5py are imported.
"""

import contextlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from tfinetune.errors import TfinetuneError, UnsafeModelError
from tfinetune.security import containers
from tfinetune.security.examiner import ended_badly

MAX_MEMORY_BYTES = 384 * 2**20
CPU_SECONDS, BYTES_PER_CPU_SECOND = 1.0, 32 * 2**20


def limit_this_process(size: int) -> None:
    """Bound memory and processor time from here on, for a file of `size` bytes.

    Where the platform has no such limits (Windows; for memory, all but Linux), the parent's timeout
    remains.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (used + MAX_MEMORY_BYTES, hard))
    if hasattr(signal, "setitimer"):
        # Ends the process even inside the HDF5 library. RLIMIT_CPU counts whole seconds only.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS + size / BYTES_PER_CPU_SECOND)


def answer_of(task: str, path: Path) -> dict[str, Any]:
    """Run `task` in this process and return its result, or its error, ready for JSON."""
    try:
        return getattr(containers, task)(path)
    except MemoryError:
        return _error(UnsafeModelError(ended_badly(path, "ran out of memory")))
    except TfinetuneError as error:
        return _error(error)


def _error(error: TfinetuneError) -> dict[str, str]:
    return {"error": type(error).__name__, "message": str(error)}


def main() -> None:
    """Answer the requests on standard input, a line of JSON each, by an exit code and an answer."""
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if not hasattr(os, "fork"):  # Windows: one process for each file.
            _reply(0, _limited_answer(**request))
            return
        _reply(*_answer_of_fork(request))


def _reply(code: int, answer: bytes) -> None:
    sys.stdout.buffer.write(b"%d %b\n" % (code, answer))
    sys.stdout.buffer.flush()


def _answer_of_fork(request: dict[str, Any]) -> tuple[int, bytes]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer_and_exit(request, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), answer


def _answer_and_exit(request: dict[str, Any], writer: int) -> None:
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1):  # The parent's are no business of a file's.
            os.dup2(nothing, stream)
        answer = _limited_answer(**request)
        with open(writer, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _limited_answer(task: str, path: str, folder: str | None) -> bytes:
    if folder:  # The parent's of now, which a relative path starts from.
        os.chdir(folder)
    limit_this_process(Path(path).stat().st_size)
    return json.dumps(answer_of(task, Path(path))).encode()


if __name__ == "__main__":
    main()
