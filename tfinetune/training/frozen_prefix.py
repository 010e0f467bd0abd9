"""Where a model can be cut so that frozen work runs once: the prefix before, the suffix behind.

A prefix is any set of frozen operations closed under "is computed from"; its cut is the tensors
that leave it, several where branches or skip connections cross. The suffix shares its layers with
the whole model: training it trains the model.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfinetune.adaptation import Plan
from tfinetune.backbones.graph import alone, is_functional, ordered_nodes

MACS_PER_BYTE = 30.0
"""Multiplications of a forward pass that take as long as reading one byte of features.

Two CPU cores ran MobileNetV2 at 30 billion a second, EfficientNetV2-B0 at 53 and ResNet50 at 79,
while batches of stored features came at 0.9 GB/s.
"""

Tensors = tuple[keras.KerasTensor, ...]


@dataclass(frozen=True)
class Cut:
    """The end of a prefix.

    Attributes:
        tensors: what leaves it, in the order they are computed.
        nodes: `id` of the operation calls that belong to it.
        macs: multiplications that the prefix takes for one example.
        size: bytes of the tensors of one example.
    """

    tensors: Tensors
    nodes: frozenset[int]
    macs: int
    size: int

    @property
    def name(self) -> str:
        """The operations whose outputs are kept."""
        return ", ".join(tensor._keras_history.operation.name for tensor in self.tensors)


@dataclass(frozen=True)
class Fused:
    """What takes the place of an operation call: `layer`, called on an earlier tensor."""

    layer: keras.Layer
    tensor: keras.KerasTensor


class FlatGraph:
    """The operation calls of a functional model in order, nested models opened.

    Args:
        model: its layers are shared and called anew; it is not changed.
        opens: which nested models to open; a closed one can only be cut before or behind.
    """

    def __init__(
        self, model: keras.Model, *, opens: Callable[[keras.Model], bool] = lambda nested: True
    ) -> None:
        self.model = model
        if any(is_functional(operation) and opens(operation) for operation in model.operations):
            inputs = keras.tree.map_structure(_input_like, model.input)
            outputs = _call_opened(model, inputs, opens)
            self.model = keras.Model(inputs, outputs, name=model.name)
        self.nodes = ordered_nodes(self.model)

    def cuts(self, is_frozen: Callable[[keras.Operation], bool]) -> list[Cut]:
        """Return every cut along the order of computation, each with more behind it than the next.

        Args:
            is_frozen: whether an operation computes the same in every epoch.
        """
        frozen = self._frozen_nodes(is_frozen)
        uses = {id(tensor): 1 for tensor in self.model.outputs}
        for node in self.nodes:
            for tensor in _inputs(node):
                uses[id(tensor)] = uses.get(id(tensor), 0) + 1
        # Inputs come first in every prefix: what is behind needs them through the cut alone.
        frozen.sort(key=lambda node: not node.is_input)
        inputs = sum(node.is_input for node in frozen)
        live: dict[int, keras.KerasTensor] = {}
        nodes: set[int] = set()
        macs, found = 0, []
        for count, node in enumerate(frozen, start=1):
            nodes.add(id(node))
            macs += multiplications(node)
            live |= {id(tensor): tensor for tensor in node.outputs if uses.get(id(tensor))}
            for tensor in _inputs(node):
                uses[id(tensor)] -= 1
                if not uses[id(tensor)]:
                    del live[id(tensor)]
            tensors = tuple(live.values())
            if count > inputs and all(map(_storable, tensors)):
                size = sum(_count(t.shape[1:]) * np.dtype(t.dtype).itemsize for t in tensors)
                found.append(Cut(tensors, frozenset(nodes), macs, size))
        return found

    def segment(
        self, start: Cut | None, stop: Cut | None, *, fused: Mapping[int, Fused] | None = None
    ) -> keras.Model:
        """Return the model from one cut (None: the inputs) to another (None: the output).

        Its layers are shared. Several tensors go in and come out as a tuple.

        Args:
            start: its tensors become the inputs.
            stop: its tensors become the outputs.
            fused: what is called instead of a node, by the node's `id`.
        """
        fused = fused or {}
        outputs = tuple(self.model.outputs) if stop is None else stop.tensors
        if start is None:
            inputs, known = self.model.input, _by_id(self.model.inputs, self.model.inputs)
        else:
            new = tuple(map(_input_like, start.tensors))
            inputs, known = alone(new), _by_id(start.tensors, new)
        if start is None and not fused:
            return keras.Model(inputs, alone(outputs))
        for node in self._needed(outputs, known):
            if instead := fused.get(id(node)):
                results = instead.layer(known[id(instead.tensor)])
            else:
                arguments, keywords = node.arguments.fill_in(known)
                results = node.operation(*arguments, **keywords)
            known |= _by_id(node.outputs, keras.tree.flatten(results))
        return keras.Model(inputs, alone(tuple(known[id(tensor)] for tensor in outputs)))

    def _frozen_nodes(self, is_frozen: Callable[[keras.Operation], bool]) -> list[Any]:
        found, tensors = [], set()
        for node in self.nodes:
            if all(id(t) in tensors for t in _inputs(node)) and is_frozen(node.operation):
                found.append(node)
                tensors |= {id(tensor) for tensor in node.outputs}
        return found

    def _needed(self, outputs: Iterable[keras.KerasTensor], known: dict[int, Any]) -> list[Any]:
        wanted, needed = {id(tensor) for tensor in outputs}, []
        for node in reversed(self.nodes):
            if any(id(t) in wanted and id(t) not in known for t in node.outputs):
                needed.append(node)
                wanted |= {id(tensor) for tensor in _inputs(node)}
        return needed[::-1]


@dataclass(frozen=True)
class Use:
    """How often a phase runs its prefix, and how often it would without a cache.

    Attributes:
        examples: that are stored, each view of a training example counted.
        passes: that train or validate, over all epochs.
        room: bytes that may be stored.
    """

    examples: int
    passes: int
    room: int


def choose_cut(graph: FlatGraph, plan: Plan, use: Use) -> Cut | None:
    """Return the cut with the least work, or None where storing features would not pay.

    Work is counted in multiplications, not timed: a measurement would let two runs of one recipe
    choose differently, and their weights would then differ by rounding.
    """
    cuts = graph.cuts(plan.is_frozen)
    if not cuts:
        return None

    def work(cut: Cut) -> float:
        behind = cuts[-1].macs - cut.macs
        return use.examples * cut.macs + use.passes * (cut.size * MACS_PER_BYTE + behind)

    plain = use.passes * cuts[-1].macs
    fitting = [cut for cut in cuts if use.examples * cut.size <= use.room and work(cut) < plain]
    return min(reversed(fitting), key=work, default=None)  # of equals the deepest


def multiplications(node: Any) -> int:
    """Count the multiplications with weights in one call of an operation, for one example."""
    if is_functional(node.operation):
        return sum(multiplications(inner) for inner in ordered_nodes(node.operation))
    if isinstance(node.operation, keras.layers.Embedding):
        return 0  # a look-up
    shapes = [tensor.shape for tensor in node.outputs]
    if any(len(tensor.shape) > len(shapes[0]) for tensor in _inputs(node)):
        shapes = [tensor.shape for tensor in _inputs(node)]  # a recurrent layer's last state
    positions = max((_count(shape[1:-1]) for shape in shapes), default=1)
    weights = getattr(node.operation, "weights", ())
    return positions * sum(math.prod(w.shape) for w in weights if len(w.shape) > 1)


def _call_opened(model: keras.Model, inputs: Any, opens: Callable[[keras.Model], bool]) -> Any:
    def call(operation: keras.Operation, *arguments: Any, **keywords: Any) -> Any:
        if is_functional(operation) and opens(operation):
            return _call_opened(operation, arguments[0], opens)
        return operation(*arguments, **keywords)

    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            inputs = call(layer, inputs)
        return inputs
    return model._run_through_graph(inputs, operation_fn=lambda operation: operation, call_fn=call)


def _input_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    is_input = isinstance(tensor._keras_history.operation, keras.layers.InputLayer)
    name = tensor.name if is_input else None  # a dict of inputs goes by their names
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)


def _inputs(node: Any) -> Sequence[keras.KerasTensor]:
    return () if node.is_input else list({id(t): t for t in node.input_tensors}.values())


def _by_id(tensors: Iterable[keras.KerasTensor], values: Iterable[Any]) -> dict[int, Any]:
    return {id(tensor): value for tensor, value in zip(tensors, values, strict=True)}


def _count(shape: Sequence[int | None]) -> int:
    return math.prod(size or 1 for size in shape)


def _storable(tensor: keras.KerasTensor) -> bool:
    # A mask travels beside its tensor and would be lost at the cut.
    return tensor.dtype != "string" and getattr(tensor, "_keras_mask", None) is None
