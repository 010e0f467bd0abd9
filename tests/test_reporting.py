"""Progress and log: markup is text, nothing is lost before the log has a file."""

import contextlib
import io
import signal

import pytest
from rich.console import Console

from tfinetune.reporting import Reporter, sure_interrupts


def test_log_keeps_what_was_said_before_it_had_a_file(tmp_path):
    reporter = Reporter()
    reporter.say("first")
    reporter.log_to(tmp_path / "log.txt")
    reporter.say("second")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["first", "second"]


def test_sentences_are_shown_as_they_are_on_one_line():
    stream = io.StringIO()
    with Reporter(Console(file=stream, width=20)) as reporter:
        reporter.say("[red]a class named [/red] that is longer than the window")
    assert stream.getvalue() == "[red]a class named [/red] that is longer than the window\n"


def test_short_work_shows_no_bar_and_a_pipe_gets_no_blank_lines():
    stream = io.StringIO()
    with Reporter(Console(file=stream)) as reporter, reporter.bar("reading") as advance:
        advance(1, 2)
        advance(2, 2)
    assert stream.getvalue() == ""


def test_log_that_cannot_be_written_does_not_end_the_run(tmp_path):
    reporter = Reporter()
    reporter.log_to(tmp_path / "missing" / "log.txt")
    reporter.say("still here")


def test_interrupt_that_python_dropped_ends_the_next_step():
    with Reporter() as reporter, reporter.bar("training") as advance, sure_interrupts():
        with contextlib.suppress(KeyboardInterrupt):  # as a finalizer does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            advance(1, 2)
        advance(2, 2)
