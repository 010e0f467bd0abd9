"""What a long job tells the person who waits: bars, sentences and a log."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int, int], None]  # (done, total)

_interrupted = threading.Event()


@contextlib.contextmanager
def sure_interrupts() -> Iterator[None]:
    """Let Ctrl-C end what runs inside at the next step of a bar at the latest.

    Python drops the KeyboardInterrupt of a signal that arrives while a finalizer or a callback from
    C runs, and TensorFlow spends much of its time there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        _interrupted.clear()


class Reporter:
    """Show progress on a console and keep every sentence in a log file.

    Args:
        console: where to show; None shows nothing (the log is still kept).
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._log: Path | None = None
        self._waiting: list[str] = []

    def log_to(self, path: Path) -> None:
        """Write the log to a file from now on, what was said before included."""
        self._log = path
        waiting, self._waiting = self._waiting, []
        for line in waiting:
            self._append(line)

    def say(self, sentence: str) -> None:
        """Show one sentence and log it."""
        if self._console is not None:
            target = self._progress.console if self._progress else self._console
            target.print(sentence, markup=False, highlight=False, soft_wrap=True)
        self._write(sentence)

    @contextlib.contextmanager
    def bar(self, title: str) -> Iterator[Advance]:
        """Show a progress bar that appears only when the work lasts over two seconds.

        Yields:
            A function of (steps done, steps in all) to call as the work goes on.

        Raises:
            KeyboardInterrupt: from that function, where `sure_interrupts` noticed Ctrl-C.
        """
        started = time.monotonic()
        task = None

        def advance(done: int, total: int) -> None:
            nonlocal task
            if _interrupted.is_set():
                _interrupted.clear()  # what cleans up may show bars of its own
                raise KeyboardInterrupt
            if self._progress is None:
                return
            if task is None and (done >= total or time.monotonic() - started < 2):
                return
            if task is None:
                task = self._progress.add_task(title)
            self._progress.update(task, completed=done, total=total)

        try:
            yield advance
        finally:
            if task is not None and self._progress is not None:
                self._progress.remove_task(task)
            self._write(f"{title}: {time.monotonic() - started:.1f} s")

    def __enter__(self) -> "Reporter":
        # In a pipe or a log file bars would only leave blank lines.
        interactive = self._console and (self._console.is_terminal or self._console.is_jupyter)
        if interactive and self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _write(self, line: str) -> None:
        self._append(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

    def _append(self, line: str) -> None:
        if self._log is None:
            self._waiting.append(line)
            return
        # A log that cannot be written (full disk) must not end the run it describes.
        with contextlib.suppress(OSError), open(self._log, "a", encoding="utf-8") as file:
            file.write(line)
