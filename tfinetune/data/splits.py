"""Data sets as their users see them: splits of examples, and what is known about them."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from tfinetune.data.augmentation import (
    Policy,
    augment_batch,
    draw_parameters,
    get_policy,
    mix_batch,
)
from tfinetune.data.examples import Arrays, Photos
from tfinetune.data.fit import Aspect
from tfinetune.errors import DataError


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        shape: of one example; None where examples differ.
        dtype: name of the TensorFlow type.
        kind: "image" (pixels of 0..255), "array" or "text" (strings).
    """

    shape: tuple[int | None, ...]
    dtype: str
    kind: Literal["image", "array", "text"]


@dataclass(frozen=True)
class DataSpec:
    """What a model must know about its data.

    Attributes:
        inputs: by name, in the order of the model's inputs; photos are one input "image".
        class_names: sorted; a label is an index into them.
        counts: examples by split name and class index.
        fingerprint: SHA-256 over the ids, contents, labels and splits of all examples.
        aspect: "crop", "pad" or "stretch": how photos of other proportions were made to fit.
    """

    inputs: dict[str, InputSpec]
    class_names: tuple[str, ...]
    counts: dict[str, dict[int, int]]
    fingerprint: str
    aspect: Aspect = "stretch"

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width in pixels; None where the examples are no images."""
        (first, *others) = self.inputs.values()
        return None if others or first.kind != "image" else first.shape[:2]

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
    """An ordered, indexable set of labelled examples.

    Attributes:
        name: "train", "validation" or "test".
        ids: of photos the paths relative to the data folder, with forward slashes; of arrays the
            row numbers.
        labels: int32 [n].
        num_classes: number of classes of the whole data set.
        examples: where they lie.
        fingerprint: SHA-256 over ids, contents, labels and the way of decoding.
    """

    name: str
    ids: tuple[str, ...]
    labels: np.ndarray
    num_classes: int
    examples: Photos | Arrays = field(repr=False)
    fingerprint: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The photos' files; none where the examples came as arrays."""
        return self.examples.paths

    def steps(self, batch_size: int) -> int:
        """Return the number of batches in an epoch; the last one may be partial."""
        return -(-len(self) // batch_size)

    def images(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Return photos, uint8 [n, height, width, 3], without augmentation.

        Args:
            indices: positions in the split; all where not given.

        Raises:
            DataError: if the examples are no photos, or a file has become unreadable since the
                folder was read.
        """
        if not isinstance(self.examples, Photos):
            raise DataError(f"The examples of the {self.name} split are arrays, not photos.")
        return self.examples.images(indices)

    def policy(self, augment: str | Policy) -> Policy:
        """Return an augmentation policy that these examples can have.

        Raises:
            DataError: if it is unknown, or asks for views of what is no photo.
        """
        policy = get_policy(augment)
        if policy != Policy() and not isinstance(self.examples, Photos):
            raise DataError(
                f"The examples of the {self.name} split are no photos: augment={augment!r} cannot "
                "be applied. Pass augment='none'."
            )
        return policy

    def order(self, epoch: int | tf.Tensor, *, seed: int = 0) -> tf.Tensor:
        """Return the positions of the examples in the order of a shuffled epoch, int32 [n]."""
        seeds = tf.stack([_streams(seed)[0], tf.cast(epoch, tf.int64)])
        keys = tf.random.stateless_uniform([len(self)], seeds, alg="philox")
        return tf.argsort(keys, stable=True)

    def dataset(
        self,
        batch_size: int = 32,
        *,
        epoch: int | None = None,
        epochs: int = 1,
        shuffle: bool = False,
        augment: str | Policy = "none",
        views: int | None = None,
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
                "flip, rotate=15"; for photos only.
            views: how many views of each example the epochs cycle through; None draws a new one in
                every epoch.
            seed: any integer.
            start: batches to leave out at the beginning, at no cost: where to resume.

        Returns:
            Batches of (float32 [b, height, width, 3] in 0..255, int32 [b]). Of arrays the first is
            the array [b, …] itself, or a dict of them by input name. Where `augment` mixes
            examples, the labels are shares of the classes, float32 [b, num_classes].

        Raises:
            DataError: if an argument is out of range, or views of what is no photo are asked for.
            tf.errors.OpError: while iterating, if the photos are not kept in memory and a file was
                removed or spoilt since the folder was read. `images` tells which.

        Example:
            >>> train = from_image_folder("photos/").train
            >>> model.fit(train.dataset(32, shuffle=True, augment="light"), epochs=10)
        """
        policy = self.policy(augment)
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
        is_photo = isinstance(self.examples, Photos)

        @tf.autograph.experimental.do_not_convert
        def batches_of(epoch):
            order = self.order(epoch, seed=seed) if shuffle else tf.range(len(self))
            number = epoch if views is None else epoch % views
            drawn = draw_parameters(len(self), policy, seed=_streams(seed)[1], epoch=number)
            examples = (order, tf.fill([len(self)], epoch), tf.gather(drawn, order))
            return tf.data.Dataset.from_tensor_slices(examples).batch(batch_size)

        @tf.autograph.experimental.do_not_convert
        def finish(values, indices, epochs, drawn):
            classes = tf.gather(labels, indices)
            if is_photo:
                values = augment_batch(values, drawn, policy)
            if policy.mixes:
                return mix_batch(values, tf.one_hot(classes, self.num_classes), drawn, policy)
            return values, classes

        # CPU: on a machine with a GPU the constants would land there.
        with tf.device("CPU:0"):
            labels = tf.constant(self.labels)
            if epoch is None:
                numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
            else:
                numbers = tf.data.Dataset.range(epoch, epoch + epochs)
            batches = numbers.flat_map(batches_of).skip(start)
            loaded = self.examples.load(batches, batch_size)
            finished = loaded.map(finish, num_parallel_calls=tf.data.AUTOTUNE)
            # Without a known length Keras warns at the end of the first epoch.
            count = max(0, epochs * self.steps(batch_size) - start)
            finished = finished.apply(tf.data.experimental.assert_cardinality(count))
            return finished.prefetch(tf.data.AUTOTUNE)


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


def _streams(seed: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return two seeds made of one: the order must not tell the views."""
    doubled = 2 * tf.constant(seed, tf.int64)
    return doubled, doubled + 1
