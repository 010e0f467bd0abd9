"""Run by test_resume.py in a process of its own: fit a small model and write its weights.

Usage: fit_small.py PHOTOS BACKBONE CHECKPOINT WEIGHTS [KILL_AFTER_EPOCHS]
"""

import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import tfinetune as ft


def main(photos: str, backbone: str, checkpoint: str, weights: str, kill_after: int = 0) -> None:
    splits = ft.data.from_image_folder(photos, image_size=16, validation=0.25, test=0, seed=1)
    tuner = ft.FineTuner(backbone, splits.spec, dropout=0.5, seed=1)

    def watch(history: list) -> None:
        print(len(history), flush=True)
        if kill_after and len(history) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)

    tuner.fit(
        splits,
        ft.strategies.LPFT(epochs=4, learning_rate=1e-2),
        batch_size=4,
        augment="standard",
        checkpoint=checkpoint,
        on_epoch=watch,
    )
    np.savez(weights, *tuner.assembly.get_weights(), temperature=tuner.assembly.temperature)


if __name__ == "__main__":
    main(*sys.argv[1:5], *map(int, sys.argv[5:]))
