"""Data sets as their users see them: splits of examples, and what is known about them."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfinetune.data.augmentation import (
    Policy,
    augment_batch,
    draw_parameters,
    get_policy,
    mix_batch,
)
from tfinetune.data.decode import DECODER_VERSION, Aspect
from tfinetune.data.scan import decode_files, file_decoder
from tfinetune.errors import DataError


@dataclass(frozen=True)
class DataSpec:
    """What a model must know about its data.

    Attributes:
        image_size: height and width in pixels.
        aspect: "crop", "pad" or "stretch": how photos of other proportions were made to fit.
        class_names: sorted; a label is an index into them.
        counts: examples by split name and class index.
        fingerprint: SHA-256 over the ids, contents, labels and splits of all examples.
    """

    image_size: tuple[int, int]
    aspect: Aspect
    class_names: tuple[str, ...]
    counts: dict[str, dict[int, int]]
    fingerprint: str

    @property
    def task(self) -> str:
        """The kind of target: each example belongs to exactly one class."""
        return "multiclass"

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


@dataclass(frozen=True)
class Quarantined:
    """An example that was set aside, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class DuplicateGroup:
    """Photos that show the same.

    Attributes:
        kind: "exact" if all files have the same bytes, otherwise "near".
        ids: the photos.
        splits: the names of the splits they lie in: one, unless the folders were given so.
        conflicting_labels: whether they are filed under different classes.
    """

    kind: str
    ids: tuple[str, ...]
    splits: tuple[str, ...]
    conflicting_labels: bool


@dataclass(frozen=True, eq=False)
class Split:
    """An ordered, indexable set of labelled photos.

    Attributes:
        name: "train", "validation" or "test".
        ids: paths relative to the data folder, with forward slashes.
        paths: the files.
        labels: int32 [n].
        num_classes: number of classes of the whole data set.
        image_size: height and width of the decoded photos.
        aspect: as for `decode_image`.
        fingerprint: SHA-256 over ids, contents, labels and the way of decoding.
    """

    name: str
    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray
    num_classes: int
    image_size: tuple[int, int]
    aspect: Aspect
    fingerprint: str
    # uint8 [m, H, W, 3] shared between splits, and the rows of it that are this split's.
    _pixels: tf.Tensor | None = field(default=None, repr=False)
    _rows: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def steps(self, batch_size: int) -> int:
        """Return the number of batches in an epoch; the last one may be partial."""
        return -(-len(self) // batch_size)

    def images(self) -> np.ndarray:
        """Return all photos, uint8 [n, height, width, 3], without augmentation.

        Raises:
            DataError: if a file has become unreadable since the folder was read.
        """
        if self._pixels is not None:
            return self._pixels.numpy()[self._rows]
        images, failures = decode_files(self.paths, image_size=self.image_size, aspect=self.aspect)
        if failures:
            index, reason = next(iter(failures.items()))
            raise DataError(
                f"{len(failures)} photos of the {self.name} split can no longer be read, first "
                f"{self.paths[index]}: {reason}. Read the folder again to set them aside."
            )
        return images

    def dataset(
        self,
        batch_size: int = 32,
        *,
        epoch: int | None = None,
        epochs: int = 1,
        shuffle: bool = False,
        augment: str | Policy = "none",
        seed: int = 0,
        start: int = 0,
    ) -> tf.data.Dataset:
        """Return batches as plain `tf.data`.

        Order and augmentation are functions of (seed, epoch, index of the example) alone, so any
        epoch can be had again, from any step, in any process.

        Args:
            batch_size: the last batch of each epoch may be smaller.
            epoch: the epoch to yield. None makes each new iteration over the data set another
                epoch, for a plain `model.fit(dataset, epochs=10)`.
            epochs: with `epoch`, how many to yield one after the other, for
                `fit(dataset, steps_per_epoch=split.steps(batch_size), epochs=epochs)`.
            shuffle: whether to draw a new order in each epoch.
            augment: what `get_policy` takes: a name in `POLICIES`, or operations such as
                "flip, rotate=15".
            seed: any integer.
            start: batches to leave out at the beginning, at no cost: where to resume.

        Returns:
            Batches of (float32 [b, height, width, 3] in 0..255, int32 [b]); where `augment` mixes
            examples, the labels are shares of the classes, float32 [b, num_classes].

        Raises:
            DataError: if an argument is out of range.
            tf.errors.OpError: while iterating, if the photos are not kept in memory and a file was
                removed or spoilt since the folder was read. `images` tells which.

        Example:
            >>> train = from_image_folder("photos/").train
            >>> model.fit(train.dataset(32, shuffle=True, augment="light"), epochs=10)
        """
        policy = get_policy(augment)
        if batch_size < 1 or epochs < 1 or start < 0:
            raise DataError(
                f"Cannot batch the {self.name} split: received batch_size={batch_size}, "
                f"epochs={epochs}, start={start}; sizes and epochs start at 1, `start` at 0."
            )
        if epoch is None and epochs != 1:
            raise DataError(
                f"epochs={epochs} needs a first epoch: pass epoch=0, or leave `epochs` out to make "
                "every iteration another epoch."
            )
        is_plain = policy == Policy()

        @tf.autograph.experimental.do_not_convert
        def batches_of(epoch):
            # Two streams of one seed: the order must not tell the views.
            order_seed, view_seed = (2 * tf.constant(seed, tf.int64) + i for i in range(2))
            order = _order(len(self), seed=order_seed, epoch=epoch, shuffle=shuffle)
            views = tf.zeros([len(self), 0])
            if not is_plain:
                views = draw_parameters(len(self), policy, seed=view_seed, epoch=epoch)
            examples = (order, tf.gather(views, order))
            return tf.data.Dataset.from_tensor_slices(examples).batch(batch_size)

        @tf.autograph.experimental.do_not_convert
        def finish(images, views, labels):
            if is_plain:
                return tf.cast(images, tf.float32), labels
            images = augment_batch(images, views, policy)
            if not policy.mixes:
                return images, labels
            return mix_batch(images, tf.one_hot(labels, self.num_classes), views, policy)

        # CPU: on a machine with a GPU the constants would land there.
        with tf.device("CPU:0"):
            if epoch is None:
                numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
            else:
                numbers = tf.data.Dataset.range(epoch, epoch + epochs)
            batches = numbers.flat_map(batches_of).skip(start)
            loaded = self._load(batches, batch_size)
            finished = loaded.map(finish, num_parallel_calls=tf.data.AUTOTUNE)
            # Without a known length Keras warns at the end of the first epoch.
            count = max(0, epochs * self.steps(batch_size) - start)
            finished = finished.apply(tf.data.experimental.assert_cardinality(count))
            return finished.prefetch(tf.data.AUTOTUNE)

    def _load(self, batches: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """Turn (indices, views) into (uint8 images, views, labels), in memory or from files."""
        labels = tf.constant(self.labels)
        if self._pixels is not None:
            rows = tf.constant(self._rows)

            @tf.autograph.experimental.do_not_convert
            def gather(indices, views):
                images = tf.gather(self._pixels, tf.gather(rows, indices))
                return images, views, tf.gather(labels, indices)

            return batches.map(gather, num_parallel_calls=tf.data.AUTOTUNE)

        names = tf.constant([os.fsencode(path) for path in self.paths])
        decode = file_decoder(self.image_size, self.aspect)

        @tf.autograph.experimental.do_not_convert
        def read_batch(indices, views):
            files = tf.data.Dataset.from_tensor_slices(tf.gather(names, indices))
            images = files.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size)
            return tf.data.Dataset.zip(
                images,
                tf.data.Dataset.from_tensors(views),
                tf.data.Dataset.from_tensors(tf.gather(labels, indices)),
            )

        return batches.flat_map(read_batch)


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set, divided.

    Attributes:
        train: what models learn from.
        validation: what choices are made by, or None.
        test: what nothing is chosen by, or None.
        spec: what a model must know.
        quarantine: bad images, each with its reason.
        ignored: number of files that are no images.
        ignored_examples: up to ten of them.
        duplicates: photos that show the same.
        notes: what a reader of the results should know.
    """

    train: Split
    validation: Split | None
    test: Split | None
    spec: DataSpec
    quarantine: tuple[Quarantined, ...] = ()
    ignored: int = 0
    ignored_examples: tuple[str, ...] = ()
    duplicates: tuple[DuplicateGroup, ...] = ()
    notes: tuple[str, ...] = ()

    def __iter__(self):
        """Iterate over the splits that are not empty."""
        return (split for split in (self.train, self.validation, self.test) if split is not None)


def fingerprint(lines: Sequence[object]) -> str:
    """Return the SHA-256 over the `repr` of each line."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(repr(line).encode() + b"\n")
    return digest.hexdigest()


def count_labels(labels: np.ndarray, num_classes: int) -> dict[int, int]:
    """Return the number of examples of every class, zeros included."""
    counts = Counter(labels.tolist())
    return {label: counts[label] for label in range(num_classes)}


def split_fingerprint(
    ids: Sequence[str],
    checksums: Sequence[str],
    labels: np.ndarray,
    *,
    image_size: tuple[int, int],
    aspect: Aspect,
) -> str:
    """Return the SHA-256 that changes with any example, label, or way of decoding."""
    examples = zip(ids, checksums, labels.tolist(), strict=True)
    return fingerprint([(DECODER_VERSION, tuple(image_size), aspect), *examples])


def _order(count: int, *, seed: tf.Tensor, epoch: tf.Tensor, shuffle: bool) -> tf.Tensor:
    if not shuffle:
        return tf.range(count)
    seeds = tf.stack([seed, tf.cast(epoch, tf.int64)])
    keys = tf.random.stateless_uniform([count], seeds, alg="philox")
    return tf.argsort(keys, stable=True)
