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
from tfinetune.data.headers import (
    DAMAGED,
    EMPTY,
    FOREIGN,
    JPEG_SIGNATURE,
    NOT_AN_IMAGE,
    OK,
    REASONS,
)
from tfinetune.data.pixels import Pixels, PixelStore
from tfinetune.storage import sha256_file

THUMBNAIL_SIDE = 32
_BATCH = 32
MAX_FILE_BYTES = 256 * 2**20
_SIGNATURE_BYTES = 64
_USUAL_SIGNATURES = (JPEG_SIGNATURE, b"\x89PNG\r\n\x1a\n")

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What was read of `paths`; every index below refers to them.

    Attributes:
        usable: int64 [k], the indices of the files that decode, ascending.
        sha256: hexadecimal digests of the usable files, k.
        thumbnails: uint8 [k, 32, 32, 3], each whole photo, upright, squeezed to a square.
        pixels: uint8 [k, H, W, 3], or None if they were not or could not be kept.
        failures: reason by index.
        foreign: indices of the files that neither are nor claim to be images.
    """

    usable: np.ndarray
    sha256: tuple[str, ...]
    thumbnails: np.ndarray
    pixels: Pixels | None
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
    reasons = (_unreadable(Path(path)) for path in paths)
    failures = {index: reason for index, reason in enumerate(reasons) if reason}
    readable = [index for index in range(len(paths)) if index not in failures]
    decoder = file_decoder(image_size, aspect)
    decoded = set()
    for places, decoded_images in _stream([paths[i] for i in readable], decoder):
        indices = [readable[place] for place in places]
        images[indices] = decoded_images
        decoded.update(indices)
        if progress:
            progress(len(failures) + len(decoded), len(paths))
    for index in readable:
        if index not in decoded:
            failures[index] = _undecodable(Path(paths[index]))
    if progress:
        progress(len(paths), len(paths))
    return images, dict(sorted(failures.items()))


def scan_files(
    paths: Sequence[Path],
    *,
    image_size: tuple[int, int],
    aspect: Aspect,
    store: PixelStore | None,
    progress: Progress | None = None,
) -> Scan:
    """Read every file once for all that a data set needs to know of it.

    Args:
        paths: candidate files, in the order that indices refer to.
        image_size: height and width of `Scan.pixels`.
        aspect: as for `decode_image`.
        store: keeps the decoded pixels; None forgets them.
        progress: called with (files done, files in all).
    """
    pool = ThreadPoolExecutor()
    try:
        reasons = pool.map(_unreadable, paths)
        failures = {index: reason for index, reason in enumerate(reasons) if reason}
        readable = [index for index in range(len(paths)) if index not in failures]
        checksums = [pool.submit(sha256_file, paths[index]) for index in readable]
        decoder = _scanner(image_size, aspect, store is not None)
        thumbnails = np.empty((len(readable), THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3), np.uint8)
        usable, digests = [], []
        for batch in _stream([paths[i] for i in readable], decoder):
            for place, image, thumbnail in zip(*batch, strict=True):
                try:
                    digests.append(checksums[place].result())
                except OSError as error:
                    failures[readable[place]] = _read_failure(error)
                    continue
                row = len(usable)
                thumbnails[row] = thumbnail
                if store is not None:
                    store.append(image)
                usable.append(readable[place])
                if progress:
                    progress(row + 1 + len(paths) - len(readable), len(paths))
    finally:
        # After Ctrl-C nobody waits for the digests of all the other files.
        pool.shutdown(cancel_futures=True)
    for index in set(readable).difference(usable, failures):
        failures[index] = _undecodable(paths[index])
    foreign = tuple(i for i in sorted(failures) if is_foreign(paths[i], failures[i]))
    if progress:
        progress(len(paths), len(paths))
    return Scan(
        usable=np.array(usable, np.int64),
        sha256=tuple(digests),
        thumbnails=thumbnails[: len(usable)],
        pixels=None if store is None else store.finish(),
        failures={i: failures[i] for i in sorted(set(failures).difference(foreign))},
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
    """Yield batches of (index, *read(path)) as NumPy arrays, in order, without paths that fail."""
    if not paths:
        return

    @tf.autograph.experimental.do_not_convert
    def numbered(index, path):
        result = read(path)
        return index, *(result if isinstance(result, tuple) else (result,))

    # CPU: on a machine with a GPU an eager constant would land there.
    with tf.device("CPU:0"):
        names = tf.constant([os.fsencode(path) for path in paths])
        files = tf.data.Dataset.from_tensor_slices((tf.range(len(paths)), names))
        files = files.map(numbered, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        # One by one, the way through Python would take longer than the decoding.
        files = files.ignore_errors(log_warning=False).batch(_BATCH).prefetch(tf.data.AUTOTUNE)
        yield from files.as_numpy_iterator()


def _unreadable(path: Path) -> str | None:
    """Say why a file need not be read beyond its first bytes; None where it must."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            return "it is not a regular file"
        with open(path, "rb") as file:
            beginning = file.read(_SIGNATURE_BYTES)
    except OSError as error:
        return _read_failure(error)
    # Most photos need no graph to be recognized, which would take a millisecond each.
    if not beginning.startswith(_USUAL_SIGNATURES):
        code = int(_header_inspector()(beginning))
        if code in (EMPTY, NOT_AN_IMAGE, FOREIGN):
            return REASONS[code]
    if info.st_size > MAX_FILE_BYTES:
        return f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB"
    return None


def _undecodable(path: Path) -> str:
    """Say why the decoder could not make an image of a file."""
    try:
        code = int(_header_inspector()(path.read_bytes()))
    except OSError as error:
        return _read_failure(error)
    # Where the header is sound, the decoder stumbled over the body.
    return REASONS[DAMAGED if code == OK else code]


def _read_failure(error: OSError) -> str:
    return f"the file cannot be read ({error.strerror or error})"


@functools.cache
def _header_inspector() -> Callable[[bytes], tf.Tensor]:
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(inspect_header, autograph=False, input_signature=signature)


_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
_IMAGE_SUFFIXES += (".tif", ".tiff", ".heic", ".heif", ".avif")


def is_foreign(path: Path, reason: str) -> bool:
    """Whether a file that failed for `reason` neither is nor claims to be an image."""
    claims_image = path.suffix.lower() in _IMAGE_SUFFIXES
    return not claims_image and reason in (REASONS[EMPTY], REASONS[NOT_AN_IMAGE])
