"""Sort the layers of any functional model into a stem and stages, so that rules can name them.

The stem reaches to the second layer with a kernel: first convolution, patch and position embedding,
token embedding, first dense layer. From there a stage is what works at one resolution; where
resolution says nothing, each attention block, recurrent layer or dense layer is one. Stages are
counted along the longest path from the inputs, so parallel towers share their numbers.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

from tfinetune.backbones.blocks import Block, blocks
from tfinetune.backbones.graph import has_kernel, ordered_nodes
from tfinetune.backbones.saved_model_layer import VariableScope, saved_model_layers

_BLOCK = re.compile(r"\D*\d*")


@dataclass(frozen=True)
class LayerGroup:
    """A named run of layers, in the order they compute."""

    name: str
    layers: tuple[keras.Layer, ...]

    @property
    def parameters(self) -> int:
        """The number of weights in the group, moving statistics included."""
        return sum(layer.count_params() for layer in self.layers)


def is_batch_norm(layer: keras.Layer) -> bool:
    """Return whether a layer keeps moving statistics of what it normalizes."""
    if isinstance(layer, VariableScope):
        return layer.is_batch_norm
    return isinstance(layer, keras.layers.BatchNormalization)


def is_group_name(name: str) -> bool:
    """Return whether a name is that of a group, in whatever model."""
    return re.fullmatch(r"stem|stage_[1-9][0-9]*", name) is not None


def layer_groups(model: keras.Model) -> tuple[LayerGroup, ...]:
    """Return groups "stem", "stage_1", …, "stage_n"; each layer of `model` is in exactly one.

    A SavedModel inside is in them scope by scope.

    Args:
        model: functional, with any number of inputs and outputs.
    """
    if saved_models := saved_model_layers(model):
        return _named(_runs_of_scopes([s for layer in saved_models for s in layer.scopes]))
    levels = _levels(model)
    by_level: dict[int, list[keras.Layer]] = {}
    for layer in _ordered_layers(model):
        by_level.setdefault(levels[id(layer)], []).append(layer)
    merged: list[list[keras.Layer]] = []
    for level in sorted(by_level):
        layers = by_level[level]
        if merged and not any(layer.weights for layer in layers):
            merged[-1].extend(layers)
        else:
            merged.append(layers)
    return _named(merged)


def _named(runs: list[list[keras.Layer]]) -> tuple[LayerGroup, ...]:
    names = ["stem", *(f"stage_{i}" for i in range(1, len(runs)))]
    return tuple(LayerGroup(name, tuple(run)) for name, run in zip(names, runs, strict=True))


def _runs_of_scopes(scopes: Iterable[VariableScope]) -> list[list[VariableScope]]:
    """Split scopes where a new block begins: at each with a kernel whose name says another.

    `block_3_expand` and `block_3/conv` are of the block `block_3`; names without a number are
    blocks of their own.
    """
    runs: list[list[VariableScope]] = [[]]
    block = None
    for scope in scopes:
        name = _BLOCK.match(scope.path).group()
        if runs[-1] and has_kernel(scope) and name != block:
            runs.append([])
        block = name if has_kernel(scope) else block
        runs[-1].append(scope)
    return runs


def _ordered_layers(model: keras.Model) -> list[keras.Layer]:
    seen: dict[int, keras.Layer] = {}
    for node in ordered_nodes(model):
        if isinstance(node.operation, keras.Layer):
            seen.setdefault(id(node.operation), node.operation)
    return list(seen.values())


@dataclass(frozen=True)
class _Depth:
    """How deep in the model a tensor is.

    Attributes:
        level: of the stage that made it; 0 is the stem.
        rank: the number of its dimensions.
        extent: the most positions (pixels, steps) that a tensor of this rank had on the way.
        halvings: how often that was halved.
        learned: whether a kernel was applied on the way.
    """

    level: int = 0
    rank: int = 0
    extent: int = 0
    halvings: int = 0
    learned: bool = False


def _levels(model: keras.Model) -> dict[int, int]:
    """Return for each operation the level of its first call."""
    steps = blocks(model)
    mixes_steps = any(_mixes_steps(op) for step in steps for op in step.operations)
    of_tensor: dict[int, _Depth] = {}
    of_operation: dict[int, int] = {}
    for step in steps:
        opens = _opens_stage(step, mixes_steps=mixes_steps)
        outer = [
            of_tensor[id(t)].level
            for n in step.nodes
            for t in n.input_tensors
            if id(t) in of_tensor
        ]
        floor = max(outer, default=0) + 1 if opens else 0
        for node in step.nodes:
            depth = _depth_after(node, [of_tensor[id(t)] for t in node.input_tensors], floor)
            of_tensor.update({id(tensor): depth for tensor in node.outputs})
            of_operation.setdefault(id(node.operation), depth.level)
    _move_padding_to_its_convolution(model, of_operation)
    return of_operation


def _opens_stage(step: Block, *, mixes_steps: bool) -> bool:
    """Return whether a block is a stage of its own whatever its resolution."""
    if any(_is_recurrent(op) for op in step.operations):
        return True
    if step.rank > 3:
        return False
    if any(_is_attention(op) for op in step.operations):
        return True
    # Among attention blocks a dense layer is a part of one, or of the embedding before them.
    counts = step.rank == 2 or not mixes_steps
    return counts and step.learned_before and any(map(_is_dense, step.operations))


def _depth_after(node: Any, inputs: list[_Depth], floor: int) -> _Depth:
    """Return the depth of what `node` makes; at least at level `floor`.

    A convolution after the first kernel ends the stem; from there each halving of the resolution
    opens a stage. A squeeze-and-excitation branch pools to one position, which says nothing.
    """
    shape = node.outputs[0].shape
    level = max((depth.level for depth in inputs), default=0)
    learned = any(depth.learned for depth in inputs)
    before = [depth for depth in inputs if depth.rank == len(shape)] or inputs
    extent = max((d.extent for d in inputs if d.rank == len(shape)), default=0)
    halvings = halved = max((depth.halvings for depth in before), default=0)
    positions = math.prod(shape[1:-1]) if None not in shape[1:-1] and len(shape) > 2 else 1
    if positions > 1:
        extent = max(extent, positions)
        halvings = round(math.log2(extent / positions) / (len(shape) - 2))
    leaves_stem = level == 0 and learned and _is_convolution(node.operation)
    if leaves_stem or (level > 0 and halvings > halved):
        level += 1
    learned = learned or has_kernel(node.operation)
    return _Depth(max(level, floor), len(shape), extent, halvings, learned)


def _move_padding_to_its_convolution(model: keras.Model, levels: dict[int, int]) -> None:
    for node in reversed(ordered_nodes(model)):
        consumers = [levels.get(id(n.operation)) for n in node.operation._outbound_nodes]
        known = [level for level in consumers if level is not None]
        if type(node.operation).__name__.startswith("ZeroPadding") and known:
            levels[id(node.operation)] = min(known)


def _mixes_steps(operation: keras.Operation) -> bool:
    return _is_recurrent(operation) or _is_attention(operation)


def _is_recurrent(operation: keras.Operation) -> bool:
    return isinstance(operation, keras.layers.RNN | keras.layers.Bidirectional)


def _is_attention(operation: keras.Operation) -> bool:
    """Return whether an operation is attention, or a layer (a whole transformer block) has it."""
    parts = operation._flatten_layers() if isinstance(operation, keras.Layer) else [operation]
    return any("Attention" in type(part).__name__ for part in parts)


def _is_convolution(operation: keras.Operation) -> bool:
    return any(len(weight.shape) > 2 for weight in getattr(operation, "weights", ()))


def _is_dense(operation: keras.Operation) -> bool:
    return (
        has_kernel(operation)
        and not _is_convolution(operation)
        and not isinstance(operation, keras.layers.Embedding)
    )
