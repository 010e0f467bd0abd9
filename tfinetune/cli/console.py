"""What all commands share: the consoles, quiet start-up, errors in one paragraph, exit codes.

Results go to standard output, everything else to standard error.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from tfinetune.errors import TfinetuneError
from tfinetune.reporting import sure_interrupts

DEBUG_FLAG = "--debug"


def debugging() -> bool:
    """Whether the user asked for tracebacks and TensorFlow's own messages."""
    return DEBUG_FLAG in sys.argv or bool(os.environ.get("TFINETUNE_DEBUG"))


@contextlib.contextmanager
def session(*, log: Path | None = None, on_interrupt: str = "") -> Iterator[Console]:
    """Give a console for messages, and end the process with the right exit code.

    While the block runs, what native libraries write to standard error (TensorFlow's start-up
    noise) goes to `log` instead of the user. A `TfinetuneError` is shown as one paragraph with exit
    code 1, Ctrl-C likewise; any other exception is a bug of ours and said to be one.

    Args:
        log: file to append the noise to when the block ends, if it exists by then.
        on_interrupt: how to go on after Ctrl-C.

    Raises:
        SystemExit: with code 1 where the block failed.
    """
    if debugging():
        yield Console(stderr=True, markup=False, highlight=False)
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    sys.stderr.flush()
    visible = os.dup(2)
    with (
        os.fdopen(visible, "w", encoding="utf-8", errors="replace") as stream,
        tempfile.TemporaryFile() as noise,
    ):
        # No markup: file and class names may look like it.
        console = Console(file=stream, markup=False, highlight=False)
        os.dup2(noise.fileno(), 2)
        try:
            with sure_interrupts():
                yield console
        except TfinetuneError as error:
            _fail(console, f"Error: {error}")
        except KeyboardInterrupt:
            _fail(console, f"Interrupted. {on_interrupt}".rstrip())
        except OSError as error:
            _fail(console, f"Error: {error}.")
        except Exception as error:
            # By name: TensorFlow's own class must not be imported here.
            if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
                _fail(
                    console,
                    "Memory ran out. Try half the --batch-size, or a smaller --image-size.",
                )
            _fail(
                console,
                f"Internal error ({type(error).__name__}: {_short(error)}). "
                f"This is a bug: run again with {DEBUG_FLAG} and report the traceback.",
            )
        finally:
            sys.stderr.flush()
            os.dup2(visible, 2)
            _keep(noise, log)


def resume_hint(output: Path) -> str:
    """Return how to go on with an interrupted run."""
    return f"Continue with `tfinetune train --resume --output {output}`, if an epoch was finished."


def results() -> Console:
    """Return the console for results: standard output."""
    return Console(markup=False, highlight=False)


def _fail(console: Console, message: str) -> None:
    console.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    raise SystemExit(1)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _keep(noise: "tempfile._TemporaryFileWrapper", log: Path | None) -> None:
    if log is None or not log.is_file():  # no run was started there
        return
    noise.seek(0)
    text = noise.read().decode("utf-8", errors="replace")
    with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
        file.write(text)
