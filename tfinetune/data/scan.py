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
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfinetune.data.decode import EXIF_REACH, decode_full, decode_plain_jpeg, inspect_header
from tfinetune.data.fit import Aspect, fit_image
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

_BATCH = 32
MAX_FILE_BYTES = 256 * 2**20
_SIGNATURE_BYTES = 64
_USUAL_SIGNATURES = (JPEG_SIGNATURE, b"\x89PNG\r\n\x1a\n")
_THUMBNAIL = (32, 32, 3)

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""


class _Glance(NamedTuple):
    """What the beginning of a file says.

    Attributes:
        reason: why the file need not be read, or None.
        plain: whether it is a JPEG without EXIF data.
    """

    reason: str | None
    plain: bool = False


@dataclass(frozen=True, eq=False)
class Scan:
    """What was read of `paths`; every index below refers to them.

    Attributes:
        usable: int64 [k], the indices of the files that decode, ascending.
        sha256: hexadecimal digests of the usable files, k.
        thumbnails: uint8 [k, 32, 32, 3], each whole photo, upright, squeezed to a square.
        plain: bool [k], the JPEGs without EXIF data.
        pixels: uint8 [k, H, W, 3], or None if they were not or could not be kept.
        rows: int64 [k], the row of each in `pixels`.
        failures: reason by index.
        foreign: indices of the files that neither are nor claim to be images.
    """

    usable: np.ndarray
    sha256: tuple[str, ...]
    thumbnails: np.ndarray
    plain: np.ndarray
    pixels: Pixels | None
    rows: np.ndarray
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
    glances = [_glance(Path(path)) for path in paths]
    failures = {index: glance.reason for index, glance in enumerate(glances) if glance.reason}
    waiting = set(range(len(paths))).difference(failures)
    for indices, decoded in _stream(paths, glances, partial(file_decoder, image_size, aspect)):
        images[indices] = decoded.numpy()
        waiting.difference_update(indices)
        if progress:
            progress(len(paths) - len(waiting), len(paths))
    for index in waiting:
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
        glances = list(pool.map(_glance, paths))
        failures = {index: glance.reason for index, glance in enumerate(glances) if glance.reason}
        readable = set(range(len(paths))).difference(failures)
        checksums = {index: pool.submit(sha256_file, paths[index]) for index in sorted(readable)}
        reader = partial(_scanner, image_size, aspect, store is not None)
        usable, digests, thumbnails = [], [], [np.empty((0, *_THUMBNAIL), np.uint8)]
        for indices, images, small in _stream(paths, glances, reader):
            hashed = []
            for place, index in enumerate(indices.tolist()):
                try:
                    digests.append(checksums[index].result())
                except OSError as error:
                    failures[index] = _read_failure(error)
                    continue
                hashed.append(place)
                if progress:
                    done = len(usable) + len(hashed)
                    progress(done + len(paths) - len(readable), len(paths))
            usable += indices[hashed].tolist()
            thumbnails.append(small.numpy()[hashed])
            if store is not None:
                store.append(images if len(hashed) == len(indices) else tf.gather(images, hashed))
    finally:
        # After Ctrl-C nobody waits for the digests of all the other files.
        pool.shutdown(cancel_futures=True)
    for index in readable.difference(usable, failures):
        failures[index] = _undecodable(paths[index])
    foreign = tuple(i for i in sorted(failures) if is_foreign(paths[i], failures[i]))
    if progress:
        progress(len(paths), len(paths))
    rows = np.argsort(np.array(usable, np.int64))
    return Scan(
        usable=np.array(usable, np.int64)[rows],
        sha256=tuple(digests[row] for row in rows),
        thumbnails=np.concatenate(thumbnails)[rows],
        plain=np.array([glances[index].plain for index in sorted(usable)], bool),
        pixels=None if store is None else store.finish(),
        rows=rows,
        failures={i: failures[i] for i in sorted(set(failures).difference(foreign))},
        foreign=foreign,
    )


@functools.cache
def file_decoder(
    image_size: tuple[int, int], aspect: Aspect, plain: bool
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a graph function from a path to uint8 [height, width, 3], traced once per size.

    Args:
        image_size, aspect: as for `decode_image`.
        plain: whether all files are JPEGs without EXIF data, which takes a smaller graph.
    """

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.string)])
    def decode(path):
        image = _decoder(plain)(tf.io.read_file(path), image_size=image_size)
        return fit_image(image, image_size=image_size, aspect=aspect)

    return decode


@functools.cache
def _scanner(
    image_size: tuple[int, int], aspect: Aspect, keep_pixels: bool, plain: bool
) -> Callable:
    """Return a graph function from a path to (pixels, thumbnail), traced once per size."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.string)])
    def read(path):
        image = _decoder(plain)(tf.io.read_file(path), image_size=image_size)
        thumbnail = tf.image.resize(image.pixels, _THUMBNAIL[:2], method="area")
        # Fitted even where it is not kept: what fails here must fail now, not in training.
        fitted = fit_image(image, image_size=image_size, aspect=aspect)
        return fitted if keep_pixels else fitted[:0], tf.cast(tf.round(thumbnail), tf.uint8)

    return read


def _decoder(plain: bool) -> Callable:
    return decode_plain_jpeg if plain else decode_full


def _stream(
    paths: Sequence[str | Path], glances: Sequence[_Glance], reader: Callable[[bool], Callable]
) -> Iterator[tuple]:
    """Yield batches of what is read of the files that do not fail.

    Args:
        paths: files.
        glances: of each; the plain JPEGs come first, those with a reason are left out.
        reader: gives the function from a path to what is read, for plain files and for all others.

    Yields:
        Indices of files, int64 NumPy array, ascending among the plain ones and the others; and one
        tensor or several, one row for each.
    """
    for plain in (True, False):
        wanted = [i for i, g in enumerate(glances) if g.plain == plain and g.reason is None]
        # Else even no file at all would cost the tracing.
        if not wanted:
            continue
        read = reader(plain)

        @tf.autograph.experimental.do_not_convert
        def numbered(index, path, read=read):
            result = read(path)
            return index, *(result if isinstance(result, tuple) else (result,))

        # CPU: on a machine with a GPU an eager constant would land there.
        with tf.device("CPU:0"):
            names = tf.constant([os.fsencode(paths[index]) for index in wanted])
            files = tf.data.Dataset.from_tensor_slices((np.array(wanted, np.int64), names))
            files = files.map(numbered, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            # One by one, the way through Python would take longer than the decoding.
            files = files.ignore_errors(log_warning=False).batch(_BATCH).prefetch(tf.data.AUTOTUNE)
            for indices, *values in files:
                yield indices.numpy(), *values


def _glance(path: Path) -> _Glance:
    """Look at the beginning of a file."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            return _Glance("it is not a regular file")
        with open(path, "rb") as file:
            beginning = file.read(_SIGNATURE_BYTES)
            is_jpeg = beginning.startswith(JPEG_SIGNATURE)
            plain = is_jpeg and b"Exif\0\0" not in beginning + file.read(EXIF_REACH)
    except OSError as error:
        return _Glance(_read_failure(error))
    # Most photos need no graph to be recognized, which would take a millisecond each.
    if not beginning.startswith(_USUAL_SIGNATURES):
        code = int(_header_inspector()(beginning))
        if code in (EMPTY, NOT_AN_IMAGE, FOREIGN):
            return _Glance(REASONS[code])
    if info.st_size > MAX_FILE_BYTES:
        return _Glance(f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB")
    return _Glance(None, plain)


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
