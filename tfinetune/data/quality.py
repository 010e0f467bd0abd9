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
_CHUNK = 1024


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
    first, second = _near_pairs(thumbnails)
    # Every exact copy is tied to the first photo with its digest.
    leader = np.full(count, count)
    np.minimum.at(leader, digest, np.arange(count))
    first = np.concatenate([first, np.arange(count)])
    second = np.concatenate([second, leader[digest]])
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
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


def _near_pairs(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two ends of every pair of near duplicates."""
    hashes = perceptual_hash(thumbnails)
    firsts, seconds = [], []
    for start in range(0, len(hashes), _CHUNK):
        # Only what comes after: each pair is looked at once.
        distance = np.bitwise_count(hashes[start : start + _CHUNK, None] ^ hashes[None, start:])
        first, second = np.nonzero(distance <= MAX_HASH_DISTANCE)
        later = second > first
        firsts.append(first[later] + start)
        seconds.append(second[later] + start)
    first = np.concatenate(firsts) if firsts else np.empty(0, np.int64)
    second = np.concatenate(seconds) if seconds else np.empty(0, np.int64)
    agree = _thumbnails_agree(thumbnails, first, second)
    return first[agree], second[agree]


def _thumbnails_agree(thumbnails: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return bool [pairs]: the same mean colour and the same structure."""
    colour = thumbnails.mean(axis=(1, 2))
    # 16x16: enlarging a tiny image blurs or blocks finer detail differently at each size.
    structure = _grey(thumbnails).reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4))
    structure = structure.reshape(len(thumbnails), -1)
    structure -= structure.mean(axis=1, keepdims=True)
    deviation = structure.std(axis=1)
    agree = np.zeros(len(first), bool)
    for start in range(0, len(first), _CHUNK):
        a, b = first[start : start + _CHUNK], second[start : start + _CHUNK]
        colour_difference = np.abs(colour[a] - colour[b]).max(axis=1)
        covariance = np.mean(structure[a] * structure[b], axis=1)
        alike = covariance >= _MIN_CORRELATION * deviation[a] * deviation[b]
        flat = np.maximum(deviation[a], deviation[b]) < _FLAT_DEVIATION
        agree[start : start + _CHUNK] = np.where(
            flat, colour_difference < 1, alike & (colour_difference <= _MAX_COLOUR_DIFFERENCE)
        )
    return agree
