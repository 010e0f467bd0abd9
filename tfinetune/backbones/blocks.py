"""Split the graph of any functional model into blocks: runs of calls between its bottlenecks.

A tensor is a bottleneck where nothing that led to it is used later, or where nothing else is needed
from it on: the ends of residual blocks, every step of a plain stack, of each tower of a model with
several inputs, and of each head of a model with several outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from tfinetune.backbones.graph import has_kernel, ordered_nodes


@dataclass(frozen=True)
class Block:
    """The calls that make a bottleneck tensor out of earlier ones.

    Attributes:
        nodes: the calls, in the order they compute.
        learned_before: whether a layer with a kernel came before, on some path.
    """

    nodes: tuple[Any, ...]
    learned_before: bool

    @property
    def operations(self) -> list[keras.Operation]:
        """The layers and operations that are called."""
        return [node.operation for node in self.nodes]

    @property
    def rank(self) -> int:
        """The number of dimensions of its result, the batch included."""
        return len(self.nodes[-1].outputs[0].shape)


def blocks(model: keras.Model) -> list[Block]:
    """Return blocks in an order in which each comes after what it needs; every call is in one.

    What is computed from the inputs without a kernel (masks, scaled pixels) makes the first block,
    and may be used anywhere later: a mask that every transformer block takes splits none of them.
    """
    nodes = ordered_nodes(model)
    graph = _Graph(model, nodes)
    found = [Block(_chosen(nodes, graph.free), learned_before=False)] if graph.free else []
    covered = graph.free
    for position in range(len(nodes)):
        if graph.is_bottleneck(position) and not covered >> position & 1:
            members = (graph.ancestors[position] | 1 << position) & ~covered
            before = graph.ancestors[position] & covered & graph.kernels
            found.append(Block(_chosen(nodes, members), learned_before=bool(before)))
            covered |= members
    return found


def _chosen(nodes: list[Any], members: int) -> tuple[Any, ...]:
    return tuple(node for position, node in enumerate(nodes) if members >> position & 1)


class _Graph:
    """Which call needs which. A set of calls is an integer with one bit for each."""

    def __init__(self, model: keras.Model, nodes: list[Any]) -> None:
        made_by = {id(t): position for position, node in enumerate(nodes) for t in node.outputs}
        parents = [{made_by[id(t)] for t in node.input_tensors} for node in nodes]
        count = len(nodes)
        self.kernels = self.free = 0
        for position, node in enumerate(nodes):
            if has_kernel(node.operation):
                self.kernels |= 1 << position
            elif all(self.free >> parent & 1 for parent in parents[position]):
                self.free |= 1 << position
        # Bit `count` stands for the world outside, which uses the outputs.
        self.users = [0] * count
        for tensor in model.outputs:
            self.users[made_by[id(tensor)]] |= 1 << count
        self.needs = [0] * count
        for position in range(count):
            for parent in parents[position]:
                if not self.free >> parent & 1:
                    self.users[parent] |= 1 << position
                    self.needs[position] |= 1 << parent
        inner_users = [users & ~(1 << count) for users in self.users]
        self.ancestors, self.used_by = _closure(range(count), self.needs, self.users)
        self.descendants, self.fed_by = _closure(range(count)[::-1], inner_users, self.needs)

    def is_bottleneck(self, position: int) -> bool:
        """Whether nothing before `position` is used later, or nothing else is needed after it."""
        itself = 1 << position
        return not (self.used_by[position] & ~(self.ancestors[position] | itself)) or not (
            self.fed_by[position] & ~(self.descendants[position] | itself)
        )


def _closure(order: range, towards: list[int], back: list[int]) -> tuple[list[int], list[int]]:
    """Follow `towards` from each call to the end.

    Returns:
        For each call all that is reached, and all that leads back from there.
    """
    reached, leading_back = [0] * len(towards), [0] * len(towards)
    for position in order:
        for neighbour in _members(towards[position]):
            reached[position] |= reached[neighbour] | 1 << neighbour
            leading_back[position] |= leading_back[neighbour] | back[neighbour]
    return reached, leading_back


def _members(calls: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set."""
    while calls:
        lowest = calls & -calls
        yield lowest.bit_length() - 1
        calls ^= lowest
