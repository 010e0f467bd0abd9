"""Outputs of frozen layers, computed once for each view of each example and kept.

In memory up to a budget, and in a folder that runs and processes share. What is stored is named by
all that it depends on: the examples and how they are decoded, the view, the layers and their
weights, the precision and the versions. So nothing stale is ever found, and after training nothing
needs to be thrown away.
"""

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfinetune import __version__
from tfinetune.array_store import ArrayStore
from tfinetune.data import Policy, Split, flip, get_policy
from tfinetune.errors import DamagedError, StorageError
from tfinetune.inference import constant_function
from tfinetune.reporting import Reporter
from tfinetune.training.fingerprint import model_fingerprint

DEFAULT_MEMORY = 2 * 2**30
FORMAT = 1
Arrays = list[np.ndarray]


@dataclass(frozen=True)
class View:
    """One way to look at every example of a split; `View()` is the example as it is.

    Attributes:
        policy: of augmentation.
        seed: of the run.
        number: the epoch whose random draws these are.
        mirrored: whether the examples are mirrored, and nothing else.
    """

    policy: Policy = field(default_factory=Policy)
    seed: int = 0
    number: int = 0
    mirrored: bool = False

    def batches(self, split: Split, batch_size: int) -> tf.data.Dataset:
        """Return the inputs of a split in its own order, without labels."""
        dataset = split.dataset(batch_size, epoch=self.number, augment=self.policy, seed=self.seed)
        if self.mirrored:
            return dataset.map(lambda inputs, _: flip(inputs))
        return dataset.map(lambda inputs, _: inputs)

    @property
    def name(self) -> str:
        """What a progress bar calls it."""
        if self.mirrored:
            return "mirrored"
        return "clean" if self == View() else f"view {self.number + 1}"


CLEAN, MIRRORED = View(), View(mirrored=True)


def augmented_views(augment: str | Policy, *, count: int, seed: int) -> list[View]:
    """Return the views that the first `count` epochs of a run draw; one where nothing is drawn."""
    policy = get_policy(augment)
    if policy == Policy():
        return [CLEAN]
    return [View(policy, seed, number) for number in range(count)]


def probe_views(augment: str) -> list[View]:
    """Return the views that a convex solver fits: mirrored too where the policy mirrors."""
    return [CLEAN, MIRRORED] if get_policy(augment).mirrors else [CLEAN]


class Segment:
    """A frozen part of a model, from its inputs or an earlier cut to a cut.

    Args:
        model: its weights must not change while the segment is used.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    @property
    def end(self) -> str:
        """The operations whose outputs it gives."""
        return ", ".join(tensor._keras_history.operation.name for tensor in self.model.outputs)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over architecture and weights."""
        return model_fingerprint(self.model)

    @functools.cached_property
    def function(self) -> Any:
        """The segment with its weights as constants."""
        return constant_function(self.model)


class FeatureCache:
    """Features by split, view and segments, shared by everything in a process that is given it.

    Args:
        store: where features outlive the process and lie if they exceed `memory`; None keeps
            them in memory only.
        memory: bytes that features may take in memory.
        dtype: `float16` halves what features take, at a precision of 11 bits.
        batch_size: examples a forward pass.
        reporter: shows a bar for long passes and says what went wrong.
    """

    def __init__(
        self,
        store: ArrayStore | None = None,
        *,
        memory: int = DEFAULT_MEMORY,
        dtype: Literal["float32", "float16"] = "float32",
        batch_size: int = 64,
        reporter: Reporter | None = None,
    ) -> None:
        self.store = store
        self.memory = memory
        self.dtype = dtype
        self.reporter = reporter or Reporter()
        self._batch_size = batch_size
        self._held: OrderedDict[str, Arrays] = OrderedDict()

    @property
    def room(self) -> int:
        """Bytes that the features of one phase may take."""
        return max(self.memory, self.store.capacity if self.store else 0)

    def features(self, segments: Sequence[Segment], split: Split, view: View = CLEAN) -> Arrays:
        """Return the outputs of the last segment, `[n, …]` each, in the split's own order.

        Args:
            segments: the first from the model's inputs, each further one from the cut before it.
                What is cached for an earlier cut is not computed again.
            split: examples to run.
            view: how to look at them.

        Raises:
            StorageError: if they fit neither into memory nor into the store.
        """
        key = self._key(segments, split, view)
        if key not in self._held:
            self._hold(key, self._stored(key, segments, split, view))
        self._held.move_to_end(key)
        return self._held[key]

    def holds(self, segments: Sequence[Segment], split: Split, view: View = CLEAN) -> bool:
        """Return whether features are at hand in this process."""
        return self._key(segments, split, view) in self._held

    def _key(self, segments: Sequence[Segment], split: Split, view: View) -> str:
        # How features were computed is part of their name: other segments round differently.
        facts = (
            (FORMAT, __version__, tf.__version__, keras.__version__),
            split.fingerprint,
            repr(view),
            [segment.fingerprint for segment in segments],
            self.dtype,
            self._batch_size,
        )
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:40]

    def _stored(self, key: str, segments: Sequence[Segment], split: Split, view: View) -> Arrays:
        if self.store is None:
            return self._in_memory(segments, split, view)
        try:
            with self.store.lock(key, on_wait=self._say_waiting):
                found = self._open(key)
                if found is None:
                    self.store.write(
                        key,
                        self._batches(segments, split, view),
                        rows=len(split),
                        description=f"{len(split)} {split.name} examples, {view.name}, up to "
                        f"{segments[-1].end}",
                    )
                    found = self.store.open(key)
            if found:  # else another process needed the room at once
                return found
        except StorageError as error:
            self.reporter.say(f"Features are kept in memory only: {error}")
        return self._in_memory(segments, split, view)

    def _open(self, key: str) -> Arrays | None:
        try:
            return self.store.open(key)
        except DamagedError as error:
            self.reporter.say(f"{error} They are computed again.")
            return None

    def _say_waiting(self) -> None:
        self.reporter.say("Another process is computing the same features: waiting for it.")

    def _in_memory(self, segments: Sequence[Segment], split: Split, view: View) -> Arrays:
        batches: list[Arrays] = []
        for batch in self._batches(segments, split, view):
            batches.append(batch)
            size = sum(array[0].nbytes for array in batch) * len(split)
            if size > self.memory:
                raise StorageError(
                    f"{size:,} bytes of features exceed the {self.memory:,} bytes of memory that "
                    "they may take. Allow more with --cache-memory."
                )
        return [np.concatenate(arrays) for arrays in zip(*batches, strict=True)]

    def _batches(
        self, segments: Sequence[Segment], split: Split, view: View
    ) -> Iterator[list[np.ndarray]]:
        *earlier, last = segments
        if earlier:
            arrays = self.features(earlier, split, view)
            inputs = (
                tuple(array[start : start + self._batch_size] for array in arrays)
                for start in range(0, len(split), self._batch_size)
            )
        else:
            inputs = view.batches(split, self._batch_size)
        done = 0
        with self.reporter.bar(f"features of {split.name} ({view.name})") as advance:
            for batch in inputs:
                outputs = [self._narrow(t.numpy()) for t in tf.nest.flatten(last.function(batch))]
                yield outputs
                done += len(outputs[0])
                advance(done, len(split))

    def _narrow(self, array: np.ndarray) -> np.ndarray:
        if not np.issubdtype(array.dtype, np.floating):
            # bfloat16 is no type of NumPy's own; float32 holds it exactly.
            return array.astype(np.float32) if array.dtype.kind == "V" else array
        if self.dtype == "float16":
            limit = np.finfo(np.float16).max
            return np.clip(array, -limit, limit).astype(np.float16)
        return array

    def _hold(self, key: str, arrays: Arrays) -> None:
        """Keep arrays in memory if they fit, those used longest ago giving way; else mapped."""
        size = sum(array.nbytes for array in arrays)
        if size <= self.memory:
            arrays = [np.array(a) if isinstance(a, np.memmap) else a for a in arrays]
            self._make_room(size)
        self._held[key] = arrays

    def _make_room(self, size: int) -> None:
        in_memory = {
            key: sum(array.nbytes for array in arrays)
            for key, arrays in self._held.items()
            if not isinstance(arrays[0], np.memmap)
        }
        total = sum(in_memory.values())
        for key, held in in_memory.items():
            if total + size <= self.memory:
                break
            del self._held[key]
            total -= held


@dataclass(frozen=True, eq=False)
class CachedExamples:
    """Cached features in the place of a split's examples: epoch e sees view e modulo their number.

    Attributes:
        views: the arrays of each view.
        dtypes: of the tensors that the suffix takes.
    """

    views: Sequence[Arrays]
    dtypes: Sequence[str]

    def load(self, batches: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """Turn (indices, epochs, *rest) into (features, indices, epochs, *rest)."""

        def read(indices: np.ndarray, epochs: np.ndarray) -> list[np.ndarray]:
            # A batch never reaches into the next epoch.
            return [array[indices] for array in self.views[epochs[0] % len(self.views)]]

        @tf.autograph.experimental.do_not_convert
        def gather(indices: tf.Tensor, epochs: tf.Tensor, *rest: tf.Tensor) -> tuple:
            stored = [tf.as_dtype(array.dtype) for array in self.views[0]]
            features = tf.numpy_function(read, [indices, epochs], stored, stateful=False)
            for tensor, array in zip(features, self.views[0], strict=True):
                tensor.set_shape([None, *array.shape[1:]])
            cast = tuple(map(tf.cast, features, self.dtypes))
            return cast[0] if len(cast) == 1 else cast, indices, epochs, *rest

        return batches.map(gather, num_parallel_calls=tf.data.AUTOTUNE)
