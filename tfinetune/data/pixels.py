"""Where decoded photos wait for the next epoch: in memory, or in a scratch file on the disk."""

import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

Pixels = tf.Tensor | np.memmap
"""uint8 [n, height, width, 3]."""


class PixelStore(Protocol):
    """Takes photos in batches and gives all of them back."""

    def append(self, images: tf.Tensor) -> None:
        """Add uint8 [b, height, width, 3]."""

    def finish(self) -> Pixels | None:
        """Return all photos, or None where they could not be kept."""


class MemoryStore:
    """Keep photos in memory.

    Args:
        image_size: height and width.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        self._batches = [tf.zeros([0, *image_size, 3], tf.uint8)]

    def append(self, images: tf.Tensor) -> None:
        """Add photos."""
        self._batches.append(images)

    def finish(self) -> tf.Tensor:
        """Return all photos."""
        with tf.device("CPU:0"):
            return tf.concat(self._batches, axis=0)


class DiskStore:
    """Keep photos in a file without a name, which vanishes with the process whatever ends it.

    Args:
        folder: where there is room.
        image_size: height and width.

    Attributes:
        failure: why the disk refused the photos, or None.
    """

    def __init__(self, folder: str | Path, image_size: tuple[int, int]) -> None:
        self._shape = (*image_size, 3)
        self.failure: str | None = None
        try:
            # Unbuffered: what a full disk refuses is known at once, and nothing is left to flush.
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            self.failure = error.strerror

    def append(self, images: tf.Tensor) -> None:
        """Add photos; after a failure, forget them."""
        if self.failure is not None:
            return
        # Written, not mapped: on a full disk that is an error, and through a map a dead process.
        rest = memoryview(images.numpy().tobytes())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.failure = error.strerror
            self._file.close()

    def finish(self) -> np.memmap | None:
        """Map the file."""
        if self.failure is not None or self._file.tell() == 0:
            return None
        with self._file:
            return np.memmap(self._file, np.uint8, mode="r").reshape(-1, *self._shape)


def take(values: tf.Tensor | np.memmap, rows: tf.Tensor) -> tf.Tensor:
    """Return some rows, int [n], of a tensor or of a mapped file, in graph."""
    if not isinstance(values, np.memmap):
        return tf.gather(values, rows)
    # TensorFlow maps no file: a constant would read all of it into memory.
    taken = tf.numpy_function(lambda rows: values[rows], [rows], values.dtype, stateful=False)
    return tf.ensure_shape(taken, [None, *values.shape[1:]])
