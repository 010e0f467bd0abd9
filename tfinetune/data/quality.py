"""Find photos that show the same thing: exact copies and near duplicates.

A near duplicate is a photo that was resized, recompressed or slightly edited. Left on both sides of
a split, it makes a model look better than it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

MAX_HASH_DISTANCE = 6
"""Bits out of 64. On real photos 6 groups safely; 12 chained 55 unrelated photos together."""

# A hash keeps only the signs of coarse structure: on flat or tiny images it is mostly noise. A pair
# must therefore agree in what the hash leaves out, too.
_MAX_COLOUR_DIFFERENCE = 24.0
_MIN_CORRELATION = 0.98
_FLAT_DEVIATION = 2.0
_CHUNK = 256
_PAIRS = 1024
_PART = 1024


@dataclass(frozen=True)
class Duplicates:
    """Indices of photos that are copies of each other.

    Attributes:
        kind: "exact" if all files have the same bytes, otherwise "near".
        members: indices, ascending.
    """

    kind: str
    members: tuple[int, ...]


def perceptual_hash(thumbnails: np.ndarray) -> np.ndarray:
    """Hash the coarse structure of photos: 64 signs of their lowest DCT frequencies.

    Args:
        thumbnails: uint8 [n, 32, 32, 3].

    Returns:
        uint64 [n]. Photos alike differ in few bits (Zauner 2010, "Implementation and benchmarking
        of perceptual image hash functions").
    """
    grey = _grey(thumbnails)
    spectrum = scipy.fft.dctn(grey, axes=(1, 2), norm="ortho")[:, :8, :8].reshape(-1, 64)
    bits = spectrum > np.median(spectrum, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).ravel()


def find_duplicates(thumbnails: np.ndarray, checksums: Sequence[str]) -> list[Duplicates]:
    """Group exact and near duplicates.

    Two photos are near duplicates if their perceptual hashes differ in at most 6 bits and their
    thumbnails agree: the same mean colour, and the same structure up to brightness and contrast. A
    photo without structure (one colour all over) is only like another of exactly its colour.

    Args:
        thumbnails: uint8 [n, 32, 32, 3].
        checksums: n digests of the files.

    Returns:
        The groups of two or more, ordered by their first member.
    """
    count = len(checksums)
    if count == 0:
        return []
    _, digest = np.unique(np.array(checksums, dtype=object), return_inverse=True)
    component = _join_near(thumbnails, digest)
    order = np.argsort(component, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    groups = [
        Duplicates("exact" if len(set(digest[group])) == 1 else "near", tuple(group.tolist()))
        for group in members
        if len(group) > 1
    ]
    return sorted(groups, key=lambda group: group.members)


def _grey(thumbnails: np.ndarray) -> np.ndarray:
    return thumbnails.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _join_near(thumbnails: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Merge the components that near duplicates connect: int [n], numbered from 0, as given."""
    # Part by part: as float32, all thumbnails at once would take 12 KiB each.
    parts = [thumbnails[start : start + _PART] for start in range(0, len(thumbnails), _PART)]
    hashes = np.concatenate([perceptual_hash(part) for part in parts])
    appearance = _Appearance.joined([_Appearance.of(part) for part in parts])
    for start in range(0, len(hashes), _CHUNK):
        rows = slice(start, start + _CHUNK)
        near = np.bitwise_count(hashes[rows, None] ^ hashes[None, start:]) <= MAX_HASH_DISTANCE
        # What is joined already need not be compared: thousands of views of one scene stay cheap.
        near &= component[rows, None] != component[None, start:]
        first, second = (indices + start for indices in np.nonzero(near))
        agree = appearance.agree(first, second)
        ends = component[first[agree]], component[second[agree]]
        count = component.max() + 1
        graph = coo_array((np.ones(len(ends[0]), bool), ends), shape=(count, count))
        component = connected_components(graph, directed=False)[1][component]
    return component


@dataclass(frozen=True, eq=False)
class _Appearance:
    """What a hash leaves out.

    Attributes:
        colour: float [n, 3], means.
        structure: float32 [n, 256], grey levels around their mean, 16x16.
        deviation: float32 [n], of the structure.
    """

    colour: np.ndarray
    structure: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, thumbnails: np.ndarray) -> "_Appearance":
        # Sums of 32x32 bytes are exact in float32; as a product they take a fifteenth of the time.
        levels = thumbnails.reshape(len(thumbnails), -1, 3).astype(np.float32)
        colour = np.ones(levels.shape[1], np.float32) @ levels / levels.shape[1]
        # 16x16: enlarging a tiny image blurs or blocks finer detail differently at each size.
        grey = _grey(thumbnails)
        halved = (grey[:, ::2] + grey[:, 1::2]) / 2
        structure = (halved[:, :, ::2] + halved[:, :, 1::2]) / 2
        structure = structure.reshape(len(thumbnails), -1)
        structure -= structure.mean(axis=1, keepdims=True)
        return cls(colour, structure, structure.std(axis=1))

    @classmethod
    def joined(cls, parts: Sequence["_Appearance"]) -> "_Appearance":
        columns = zip(
            *((part.colour, part.structure, part.deviation) for part in parts), strict=True
        )
        return cls(*map(np.concatenate, columns))

    def agree(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return bool [pairs]: the same mean colour and the same structure."""
        agree = np.zeros(len(first), bool)
        for start in range(0, len(first), _PAIRS):
            a, b = first[start : start + _PAIRS], second[start : start + _PAIRS]
            colour_difference = np.abs(self.colour[a] - self.colour[b]).max(axis=1)
            covariance = np.mean(self.structure[a] * self.structure[b], axis=1)
            alike = covariance >= _MIN_CORRELATION * self.deviation[a] * self.deviation[b]
            flat = np.maximum(self.deviation[a], self.deviation[b]) < _FLAT_DEVIATION
            agree[start : start + _PAIRS] = np.where(
                flat, colour_difference < 1, alike & (colour_difference <= _MAX_COLOUR_DIFFERENCE)
            )
        return agree
