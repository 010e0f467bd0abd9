"""Look into a foreign file in a child process: little memory, little time, no TensorFlow.

A mutated HDF5 file can hang or crash the HDF5 library, which nothing in the same process can catch.
The child reads everything that the parent will read later; where it ends badly, so would have the
parent. It imports the standard library, numpy and h5py only, which takes a fraction of a second.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tfinetune import errors
from tfinetune.errors import BackboneError, TfinetuneError, UnsafeModelError
from tfinetune.security import containers

MAX_MEMORY_BYTES = 384 * 2**20
CPU_SECONDS, BYTES_PER_CPU_SECOND = 1.0, 32 * 2**20
WALL_SECONDS, BYTES_PER_WALL_SECOND = 20.0, 4 * 2**20
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # Its threads reserve memory that nothing here uses.
    "HDF5_PLUGIN_PRELOAD": "::",  # A file must not choose libraries to load.
    "HDF5_USE_FILE_LOCKING": "FALSE",  # The parent may hold the file open.
}


def examine_confined(task: str, path: Path) -> dict[str, Any]:
    """Return what `task` of `tfinetune.security.containers` finds in the file at `path`.

    Raises:
        TfinetuneError: whatever the task raised.
        UnsafeModelError: if the child crashed or ran out of memory or time.
    """
    timeout = WALL_SECONDS + path.stat().st_size / BYTES_PER_WALL_SECOND
    # -P, and no empty entry: what lies in the working directory is no module.
    command = [sys.executable, "-P", "-m", __name__, task, os.fspath(path)]
    package_parent = os.fspath(Path(__file__).parents[2])
    search_path = [entry for entry in (*sys.path, package_parent) if entry]
    environment = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(search_path)}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnsafeModelError(_ended_badly(path, f"hung for {timeout:.0f} s")) from error
    except OSError as error:
        raise BackboneError(
            f"{path} could not be checked: no child process can be started ({error})."
        ) from error
    answer = _answer(done.stdout)
    if answer is None:
        last_words = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise UnsafeModelError(_ended_badly(path, _death(done.returncode, last_words)))
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return answer


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
        return _error(UnsafeModelError(_ended_badly(path, "ran out of memory")))
    except TfinetuneError as error:
        return _error(error)


def _error(error: TfinetuneError) -> dict[str, str]:
    return {"error": type(error).__name__, "message": str(error)}


def _answer(output: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _death(code: int, last_words: str) -> str:
    if hasattr(signal, "SIGPROF") and code == -signal.SIGPROF:
        return "took more processor time than a file of its size can need"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"crashed ({signal.Signals(-code).name})"
    return f"ended with code {code}" + (f": {last_words[:200]}" if last_words else "")


def _ended_badly(path: Path, how: str) -> str:
    return (
        f"{path} was refused: looking into it in a process of its own {how}. It is damaged, or "
        "made to do harm. Download or save it again."
    )


def main() -> None:
    """Be the child: `python -m tfinetune.security.confinement TASK PATH`."""
    task, path = sys.argv[1], Path(sys.argv[2])
    limit_this_process(path.stat().st_size)
    answer = answer_of(task, path)
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
