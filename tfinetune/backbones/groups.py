"""Sort a backbone's layers into a stem and stages, so that rules can name them.

The stem reaches to the second weighted layer. From there a stage is what works at one resolution;
where there is no resolution any more (tokens, vectors), each attention block or dense layer is one.
"""

import math
import re
from dataclasses import dataclass

import keras

from tfinetune.backbones.graph import bottlenecks, has_kernel, ordered_nodes
from tfinetune.backbones.top import takes_image


@dataclass(frozen=True)
class LayerGroup:
    """A named run of layers, in the order they compute."""

    name: str
    layers: tuple[keras.Layer, ...]

    @property
    def parameters(self) -> int:
        """The number of weights in the group, moving statistics included."""
        return sum(layer.count_params() for layer in self.layers)


def is_group_name(name: str) -> bool:
    """Return whether a name is that of a group, in whatever model."""
    return re.fullmatch(r"stem|stage_[1-9][0-9]*", name) is not None


def layer_groups(model: keras.Model) -> tuple[LayerGroup, ...]:
    """Return groups "stem", "stage_1", …, "stage_n"; each layer of `model` is in exactly one."""
    levels = _levels(model)
    stem = _stem(model)
    by_level: dict[int, list[keras.Layer]] = {}
    for layer in _ordered_layers(model):
        level = -1 if id(layer) in stem else levels[id(layer)]
        by_level.setdefault(level, []).append(layer)
    merged: list[list[keras.Layer]] = []
    for level in sorted(by_level):
        layers = by_level[level]
        if merged and not any(layer.weights for layer in layers):
            merged[-1].extend(layers)
        else:
            merged.append(layers)
    names = ["stem", *(f"stage_{i}" for i in range(1, len(merged)))]
    return tuple(LayerGroup(name, tuple(group)) for name, group in zip(names, merged, strict=True))


def _ordered_layers(model: keras.Model) -> list[keras.Layer]:
    seen: dict[int, keras.Layer] = {}
    for node in ordered_nodes(model):
        if isinstance(node.operation, keras.Layer):
            seen.setdefault(id(node.operation), node.operation)
    return list(seen.values())


def _stem(model: keras.Model) -> set[int]:
    """Return the layers before the second one with a kernel, less the padding made for that."""
    stem: list[keras.Operation] = []
    kernels = 0
    for node in ordered_nodes(model):
        kernels += has_kernel(node.operation)
        if kernels > 1:
            break
        stem.append(node.operation)
    while stem and isinstance(stem[-1], keras.layers.ZeroPadding2D):
        stem.pop()
    return {id(operation) for operation in stem}


def _levels(model: keras.Model) -> dict[int, int]:
    """Return for each operation how often the image was halved, or which block it belongs to.

    Never smaller than for the operation's inputs. A squeeze-and-excitation branch pools to 1x1 and
    is multiplied back: it keeps the level of its inputs.
    """
    image = math.prod(model.inputs[0].shape[1:3]) if takes_image(model) else None
    blocks = _block_starts(model)
    of_tensor: dict[int, int] = {}
    of_operation: dict[int, int] = {}
    for node in ordered_nodes(model):
        level = max((of_tensor[id(tensor)] for tensor in node.input_tensors), default=0)
        level += id(node) in blocks
        shape = node.outputs[0].shape
        if image and len(shape) == 4 and None not in shape[1:3] and shape[1] * shape[2] > 1:
            level = max(level, round(math.log2(image / (shape[1] * shape[2])) / 2))
        of_tensor.update({id(tensor): level for tensor in node.outputs})
        operation = id(node.operation)
        of_operation[operation] = max(level, of_operation.get(operation, level))
    _move_padding_to_its_convolution(model, of_operation)
    return of_operation


def _move_padding_to_its_convolution(model: keras.Model, levels: dict[int, int]) -> None:
    for node in reversed(ordered_nodes(model)):
        consumers = [levels.get(id(n.operation)) for n in node.operation._outbound_nodes]
        known = [level for level in consumers if level is not None]
        if isinstance(node.operation, keras.layers.ZeroPadding2D) and known:
            levels[id(node.operation)] = min(known)


def _block_starts(model: keras.Model) -> set[int]:
    """Return the first node of each block that has no resolution: attention or a dense layer."""
    starts: set[int] = set()
    for step in bottlenecks(model):
        operations = step.operations
        if len(step.tensor.shape) == 3:
            if any("Attention" in type(op).__name__ for op in operations):
                starts.add(id(step.nodes[0]))
        elif len(step.tensor.shape) == 2 and any(has_kernel(op) for op in operations):
            starts.add(id(step.nodes[0]))
    return starts
