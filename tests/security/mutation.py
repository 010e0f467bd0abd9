"""Damage files at random, reproducibly: flipped bits, missing ends, spliced pieces."""

import io
import random
import zipfile
from collections.abc import Iterator, Sequence


def mutants(originals: Sequence[bytes], count: int, *, seed: int) -> Iterator[bytes]:
    """Yield `count` damaged copies of `originals`, in turn."""
    source = random.Random(seed)
    for number in range(count):
        original = originals[number % len(originals)]
        if zipfile.is_zipfile(io.BytesIO(original)) and source.random() < 0.7:
            # Damage inside the members: their checksums would hide everything else.
            yield _rezipped(original, source, originals)
        else:
            yield _damaged(original, source, originals)


def _rezipped(archive: bytes, source: random.Random, others: Sequence[bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(written, "w") as new:
        chosen = source.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, _damaged(content, source, others) if name == chosen else content)
    return written.getvalue()


def _damaged(content: bytes, source: random.Random, others: Sequence[bytes]) -> bytes:
    damage = source.choice((_flip_bits, _flip_bits, _overwrite, _truncate, _splice))
    return damage(bytearray(content), source, others)


def _flip_bits(content: bytearray, source: random.Random, others: Sequence[bytes]) -> bytes:
    for _ in range(source.randint(1, 16)):
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    return bytes(content)


def _overwrite(content: bytearray, source: random.Random, others: Sequence[bytes]) -> bytes:
    """Write the numbers that parsers trip over."""
    at = source.randrange(len(content))
    value = source.choice((0, 1, 0x7F, 0x80, 0xFF))
    content[at : at + source.choice((1, 2, 4, 8))] = bytes([value]) * 8
    return bytes(content)


def _truncate(content: bytearray, source: random.Random, others: Sequence[bytes]) -> bytes:
    return bytes(content[: source.randrange(len(content))])


def _splice(content: bytearray, source: random.Random, others: Sequence[bytes]) -> bytes:
    other = source.choice(others)
    start = source.randrange(len(other))
    piece = other[start : start + source.randint(1, 2048)]
    at = source.randrange(len(content))
    content[at : at + len(piece)] = piece
    return bytes(content)
