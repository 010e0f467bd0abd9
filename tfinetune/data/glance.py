"""Look at the beginning of a file before anything is decoded: whether to, and by which graph.

In Python, a few microseconds for each file. Most photos of most folders are JPEGs without EXIF
data: what is found here, their size, is all that a much smaller graph needs.
"""

import functools
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from tfinetune.data.decode import EXIF_REACH, inspect_header
from tfinetune.data.headers import (
    EMPTY,
    FOREIGN,
    JPEG_SIGNATURE,
    MAX_PIXELS,
    NOT_AN_IMAGE,
    REASONS,
)

MAX_FILE_BYTES = 256 * 2**20
_USUAL_REACH = 2**12
_USUAL_SIGNATURES = (JPEG_SIGNATURE, b"\x89PNG\r\n\x1a\n")

_FRAMES = (0xFFC0, 0xFFC1, 0xFFC2)
# Tables, restart interval, applications, comment: what may lie before the frame.
_SEGMENTS = frozenset((0xFFC4, 0xFFDB, 0xFFDD, *range(0xFFE0, 0xFFF0), 0xFFFE))
_EXIF = 0xFFE1


class Glance(NamedTuple):
    """What the beginning of a file says.

    Attributes:
        reason: why the file need not be read, or None.
        extent: height and width of a JPEG that has no EXIF data; None of all else.
    """

    reason: str | None
    extent: tuple[int, int] | None = None


def glance(path: Path) -> Glance:
    """Look at the beginning of a file."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            return Glance("it is not a regular file")
        with open(path, "rb", buffering=0) as file:
            beginning = file.read(_USUAL_REACH)
            extent = plain_jpeg_extent(beginning)
            if extent is None and beginning.startswith(JPEG_SIGNATURE):
                # A colour profile or another preview may come first.
                extent = plain_jpeg_extent(beginning + file.read(EXIF_REACH - len(beginning)))
    except OSError as error:
        return Glance(read_failure(error))
    # Most photos need no graph to be recognized, which would take a millisecond each.
    if not beginning.startswith(_USUAL_SIGNATURES):
        code = int(header_inspector()(beginning))
        if code in (EMPTY, NOT_AN_IMAGE, FOREIGN):
            return Glance(REASONS[code])
    if info.st_size > MAX_FILE_BYTES:
        return Glance(f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB")
    return Glance(None, extent)


def plain_jpeg_extent(beginning: bytes) -> tuple[int, int] | None:
    """Return height and width of a JPEG whose frame comes before any EXIF data.

    None where there is any doubt: such a file takes the way of all others.
    """
    if not beginning.startswith(JPEG_SIGNATURE):
        return None
    position = 2
    while position + 10 <= len(beginning):
        marker, length = struct.unpack_from(">HH", beginning, position)
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", beginning, position + 5)
            return (height, width) if 0 < height * width <= MAX_PIXELS else None
        if marker not in _SEGMENTS or length < 2:
            return None
        if marker == _EXIF and beginning[position + 4 : position + 8] == b"Exif":
            return None
        position += 2 + length
    return None


def read_failure(error: OSError) -> str:
    """Say that a file cannot be read."""
    return f"the file cannot be read ({error.strerror or error})"


@functools.cache
def header_inspector() -> Callable[[bytes], tf.Tensor]:
    """Return `inspect_header` as a graph."""
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(inspect_header, autograph=False, input_signature=signature)
