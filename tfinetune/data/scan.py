"""Read many image files at once: pixels, thumbnails, checksums, and a reason for each failure.

Files are read and decoded in parallel by `tf.data`; a file that cannot be decoded drops out of the
stream and its reason is looked up afterwards, so that good files pay nothing for bad ones.
"""

import functools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfinetune.data.decode import Aspect, decode_full, decode_image, fit_image, inspect_header
from tfinetune.data.headers import DAMAGED, EMPTY, NOT_AN_IMAGE, OK, REASONS
from tfinetune.storage import sha256_file

THUMBNAIL_SIDE = 32
MAX_FILE_BYTES = 256 * 2**20

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What was read of `paths`; every index below refers to them.

    Attributes:
        usable: int64 [k], the indices of the files that decode, ascending.
        sha256: hexadecimal digests of the usable files, k.
        thumbnails: uint8 [k, 32, 32, 3], each whole photo, upright, squeezed to a square.
        pixels: uint8 [k, H, W, 3], or None if they were not to be kept.
        failures: reason by index.
        foreign: indices of the files that neither are nor claim to be images.
    """

    usable: np.ndarray
    sha256: tuple[str, ...]
    thumbnails: np.ndarray
    pixels: np.ndarray | None
    failures: dict[int, str]
    foreign: tuple[int, ...]


def decode_files(
    paths: Sequence[str | Path],
    *,
    image_size: tuple[int, int],
    aspect: Aspect,
    progress: Progress | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode image files in parallel.

    Args:
        paths: files of any kind; bad ones are reported, not raised.
        image_size: height and width of the result, in pixels.
        aspect: as for `decode_image`.
        progress: called with (files done, files in all).

    Returns:
        uint8 [n, height, width, 3], zeros where a file cannot be decoded; and the reason for each
        such index.
    """
    images = np.zeros((len(paths), *image_size, 3), np.uint8)
    failures, readable = {}, []
    for index, path in enumerate(paths):
        reason = _unreadable(Path(path))
        if reason:
            failures[index] = reason
        else:
            readable.append(index)
    decoder = file_decoder(image_size, aspect)
    decoded = set()
    for index, image in _stream([paths[i] for i in readable], decoder):
        images[readable[index]] = image
        decoded.add(readable[index])
        if progress:
            progress(len(failures) + len(decoded), len(paths))
    for index in readable:
        if index not in decoded:
            failures[index] = REASONS[_failure_code(Path(paths[index]))]
    if progress:
        progress(len(paths), len(paths))
    return images, dict(sorted(failures.items()))


def scan_files(
    paths: Sequence[Path],
    *,
    image_size: tuple[int, int],
    aspect: Aspect,
    keep_pixels: bool,
    progress: Progress | None = None,
) -> Scan:
    """Read every file once for all that a data set needs to know of it.

    Args:
        paths: candidate files, in the order that indices refer to.
        image_size: height and width of `Scan.pixels`.
        aspect: as for `decode_image`.
        keep_pixels: whether to keep the decoded pixels in memory.
        progress: called with (files done, files in all).
    """
    with ThreadPoolExecutor() as pool:
        checksums = pool.map(lambda p: None if _unreadable(p) else sha256_file(p), paths)
        readable = [i for i, path in enumerate(paths) if not _unreadable(path)]
        decoder = _scanner(image_size, aspect, keep_pixels)
        shape = (len(readable), *image_size, 3)
        # The system hands out these pages as they are written to: bad files cost nothing.
        pixels = np.empty(shape, np.uint8) if keep_pixels else None
        thumbnails = np.empty((len(readable), THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), np.uint8)
        usable = []
        for index, image, thumbnail in _stream([paths[i] for i in readable], decoder):
            row = len(usable)
            thumbnails[row] = thumbnail
            if keep_pixels:
                pixels[row] = image
            usable.append(readable[index])
            if progress:
                progress(row + 1 + len(paths) - len(readable), len(paths))
        digests = list(checksums)
    failures, foreign = _explain(paths, set(range(len(paths))).difference(usable))
    if progress:
        progress(len(paths), len(paths))
    return Scan(
        usable=np.array(usable, np.int64),
        sha256=tuple(digests[i] for i in usable),
        thumbnails=thumbnails[: len(usable)],
        pixels=pixels[: len(usable)] if keep_pixels else None,
        failures=failures,
        foreign=foreign,
    )


@functools.cache
def file_decoder(image_size: tuple[int, int], aspect: Aspect) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a graph function from a path to uint8 [height, width, 3], traced once per size."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.string)])
    def decode(path):
        return decode_image(tf.io.read_file(path), image_size=image_size, aspect=aspect)

    return decode


@functools.cache
def _scanner(image_size: tuple[int, int], aspect: Aspect, keep_pixels: bool) -> Callable:
    """Return a graph function from a path to (pixels, thumbnail), traced once per size."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.string)])
    def read(path):
        image = decode_full(tf.io.read_file(path), image_size=image_size)
        side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
        thumbnail = tf.cast(tf.round(tf.image.resize(image, side, method="area")), tf.uint8)
        # Fitted even where it is not kept: what fails here must fail now, not in training.
        fitted = fit_image(image, image_size=image_size, aspect=aspect)
        return fitted if keep_pixels else fitted[:0], thumbnail

    return read


def _stream(paths: Sequence[str | Path], read: Callable) -> Iterator[tuple]:
    """Yield (index, *read(path)) as NumPy arrays, in order, leaving out the paths that fail."""
    if not paths:
        return

    @tf.autograph.experimental.do_not_convert
    def numbered(index, path):
        result = read(path)
        return index, *(result if isinstance(result, tuple) else (result,))

    # CPU: on a machine with a GPU an eager constant would land there.
    with tf.device("CPU:0"):
        names = tf.constant([os.fspath(path) for path in paths])
        files = tf.data.Dataset.from_tensor_slices((tf.range(len(paths)), names))
        files = files.map(numbered, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        files = files.ignore_errors(log_warning=False).prefetch(tf.data.AUTOTUNE)
        for element in files.as_numpy_iterator():
            yield int(element[0]), *element[1:]


def _unreadable(path: Path) -> str | None:
    """Say why a file must not even be opened by the decoder; None where it may."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            return "it is not a regular file"
        if info.st_size > MAX_FILE_BYTES:
            return f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB"
        with open(path, "rb"):
            return None
    except OSError as error:
        return f"the file cannot be read ({error.strerror or error})"


def _failure_code(path: Path) -> int:
    code = int(_header_inspector()(path.read_bytes()))
    # The header is sound, so the decoder stumbled over the body.
    return DAMAGED if code == OK else code


@functools.cache
def _header_inspector() -> Callable[[bytes], tf.Tensor]:
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(inspect_header, autograph=False, input_signature=signature)


_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
_IMAGE_SUFFIXES += (".tif", ".tiff", ".heic", ".heif", ".avif")


def _explain(paths: Sequence[Path], failed: set[int]) -> tuple[dict[int, str], tuple[int, ...]]:
    """Tell bad images, each with its reason, from files that are no images at all."""
    failures, foreign = {}, []
    for index in sorted(failed):
        path = paths[index]
        reason = _unreadable(path) or REASONS[_failure_code(path)]
        if is_foreign(path, reason):
            foreign.append(index)
        else:
            failures[index] = reason
    return failures, tuple(foreign)


def is_foreign(path: Path, reason: str) -> bool:
    """Whether a file that failed for `reason` neither is nor claims to be an image."""
    claims_image = path.suffix.lower() in _IMAGE_SUFFIXES
    return not claims_image and reason in (REASONS[EMPTY], REASONS[NOT_AN_IMAGE])
