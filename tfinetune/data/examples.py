"""Where the examples of a split lie, and how a batch of them gets into the graph."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfinetune.data.decode import plan_jpegs
from tfinetune.data.fit import Aspect
from tfinetune.data.pixels import Pixels, take
from tfinetune.data.scan import decode_files, file_decoder
from tfinetune.errors import DataError

_NO_PHOTO = -1


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos of one size: files that are decoded when asked for, or pixels kept.

    Attributes:
        image_size: height and width of the decoded photos.
        aspect: as for `decode_image`.
        paths: the files; none where the pixels came from arrays.
        pixels: uint8 [m, H, W, 3] shared between splits, in memory or in a mapped file, or None
            where they did not fit.
        rows: the rows of `pixels` that are these examples.
        extents: int [n, 2], height and width of the files that are JPEGs without EXIF data, zeros
            for others; None where there are no files.
    """

    image_size: tuple[int, int]
    aspect: Aspect
    paths: tuple[Path, ...]
    pixels: Pixels | None
    rows: np.ndarray
    extents: np.ndarray | None = None

    def images(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Return photos, uint8 [n, height, width, 3], without augmentation.

        Args:
            indices: which; all where not given.

        Raises:
            DataError: if a file has become unreadable since the folder was read.
        """
        chosen = np.arange(len(self.rows)) if indices is None else np.asarray(indices, int)
        if self.pixels is not None:
            return np.asarray(self.pixels)[self.rows[chosen]]
        paths = [self.paths[index] for index in chosen]
        images, failures = decode_files(paths, image_size=self.image_size, aspect=self.aspect)
        if failures:
            index, reason = next(iter(failures.items()))
            raise DataError(
                f"{len(failures)} photos can no longer be read, first {paths[index]}: {reason}. "
                "Read the folder again to set them aside."
            )
        return images

    def load(self, batches: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """Turn (indices, *rest) into (uint8 images, indices, *rest)."""
        if self.pixels is not None:
            return _gather(self.pixels, self.rows, batches)
        files = (tf.constant([os.fsencode(path) for path in self.paths]),)
        if self.extents.all():
            files += (plan_jpegs(self.extents, image_size=self.image_size, aspect=self.aspect),)
        decode = file_decoder(self.image_size, self.aspect)
        blank = tf.zeros([*self.image_size, 3], tf.uint8)

        @tf.autograph.experimental.do_not_convert
        def fill(*batch):
            places, count = tf.range(batch_size), tf.shape(batch[0])[0]
            rows = tf.minimum(places, count - 1)
            indices, *rest = (tf.gather(part, rows) for part in batch)
            filled = tf.where(places < count, indices, _NO_PHOTO), *rest
            chosen = tf.nest.map_structure(lambda part: tf.gather(part, indices), files)
            return tf.data.Dataset.from_tensor_slices((chosen, *filled))

        @tf.autograph.experimental.do_not_convert
        def read(file, index, *rest):
            image = tf.cond(index == _NO_PHOTO, lambda: blank, lambda: decode(*file))
            return image, index, *rest

        @tf.autograph.experimental.do_not_convert
        def trim(images, indices, *rest):
            count = tf.math.count_nonzero(indices != _NO_PHOTO)
            return tuple(part[:count] for part in (images, indices, *rest))

        # Photo by photo, which keeps all processors busy. An epoch may end with a smaller batch.
        # (`unbatch` kills the process where a part has no columns.)
        photos = batches.flat_map(fill).map(read, num_parallel_calls=tf.data.AUTOTUNE)
        return photos.batch(batch_size).map(trim)


@dataclass(frozen=True, eq=False)
class Arrays:
    """Examples in memory: one array, or one for each named input.

    Attributes:
        values: a tensor [m, …] or a dict of them, shared between splits.
        rows: the rows that are these examples.
    """

    values: tf.Tensor | dict[str, tf.Tensor]
    rows: np.ndarray

    paths: tuple[Path, ...] = ()

    def load(self, batches: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """Turn (indices, *rest) into (values, indices, *rest)."""
        return _gather(self.values, self.rows, batches)


def _gather(
    values: Pixels | dict[str, tf.Tensor], rows: np.ndarray, batches: tf.data.Dataset
) -> tf.data.Dataset:
    rows = tf.constant(rows)

    @tf.autograph.experimental.do_not_convert
    def gather(indices, *rest):
        chosen = tf.gather(rows, indices)
        picked = tf.nest.map_structure(lambda value: take(value, chosen), values)
        return picked, indices, *rest

    return batches.map(gather, num_parallel_calls=tf.data.AUTOTUNE)
