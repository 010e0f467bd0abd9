"""A killed run that is resumed ends bit-identical to one that was never interrupted."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("fit_small.py")


@pytest.fixture
def job(tmp_path, small_cnn, photo_folder):
    """Return a function that starts one fit; the same name continues the same checkpoint."""
    photos = photo_folder(per_class=16)
    backbone = tmp_path / "backbone.keras"
    small_cnn().save(backbone)

    def start(name: str, *arguments: str) -> subprocess.Popen:
        checkpoint, weights = tmp_path / name / "last.npz", tmp_path / f"{name}.npz"
        return subprocess.Popen(
            [sys.executable, SCRIPT, photos, backbone, checkpoint, weights, *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )

    start.weights = lambda name: np.load(tmp_path / f"{name}.npz")
    return start


def assert_same_weights(first, second):
    assert first.files == second.files
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.slow
def test_killed_and_resumed_runs_are_bit_identical_to_an_uninterrupted_one(job):
    whole = job("whole")
    killed = job("killed after two of four epochs", "2")
    assert whole.wait() == 0
    assert killed.wait() == -signal.SIGKILL
    resumed = job("killed after two of four epochs")
    often = job("killed at random moments")
    output, _ = resumed.communicate()
    assert resumed.returncode == 0
    # The probe and two epochs are not done again: only epochs 3 and 4 report, then the end.
    assert output.split() == ["3", "4", "4"]
    assert_same_weights(job.weights("whole"), job.weights("killed after two of four epochs"))

    moments = random.Random(0)
    for _ in range(2):
        often.stdout.readline()  # something was saved, or the process is done
        time.sleep(moments.uniform(0, 1))
        often.kill()
        often.wait()
        often = job("killed at random moments")
    assert often.wait() == 0
    assert_same_weights(job.weights("whole"), job.weights("killed at random moments"))
