"""Read many image files at once: pixels, thumbnails, checksums, and a reason for each failure.

Files are read and decoded in parallel by `tf.data`; a file that cannot be decoded drops out of the
stream and its reason is looked up afterwards, so that good files pay nothing for bad ones.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfinetune.data.decode import JpegPlan, decode_full, decode_planned_jpeg, plan_jpegs
from tfinetune.data.fit import Aspect, carry_out, fit_image
from tfinetune.data.glance import Glance, glance, header_inspector, read_failure
from tfinetune.data.headers import DAMAGED, EMPTY, NOT_AN_IMAGE, OK, REASONS
from tfinetune.data.pixels import Pixels, PixelStore
from tfinetune.storage import sha256_file

_BATCH = 32
_CHUNK = 8
_THUMBNAIL = (32, 32, 3)

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What was read of `paths`; every index below refers to them.

    Attributes:
        usable: int64 [k], the indices of the files that decode, ascending.
        sha256: hexadecimal digests of the usable files, k.
        thumbnails: uint8 [k, 32, 32, 3], each whole photo, upright, squeezed to a square.
        extents: int [k, 2], height and width of the JPEGs without EXIF data; zeros for others.
        pixels: uint8 [k, H, W, 3], or None if they were not or could not be kept.
        rows: int64 [k], the row of each in `pixels`.
        failures: reason by index.
        foreign: indices of the files that neither are nor claim to be images.
    """

    usable: np.ndarray
    sha256: tuple[str, ...]
    thumbnails: np.ndarray
    extents: np.ndarray
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
    glances = [glance(Path(path)) for path in paths]
    failures = {index: seen.reason for index, seen in enumerate(glances) if seen.reason}
    waiting = set(range(len(paths))).difference(failures)
    read = file_decoder(image_size, aspect)
    for indices, decoded in _stream(paths, glances, read, image_size=image_size, aspect=aspect):
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
        glances = [seen for some in pool.map(_glance_all, _chunks(paths)) for seen in some]
        failures = {index: seen.reason for index, seen in enumerate(glances) if seen.reason}
        readable = set(range(len(paths))).difference(failures)
        checksums = {}
        for some in _chunks(sorted(readable)):
            hashing = pool.submit(_hash_all, {index: paths[index] for index in some})
            checksums.update(dict.fromkeys(some, hashing))
        read = _scanner(image_size, aspect, keep_pixels=store is not None)
        usable, digests, thumbnails = [], [], [np.empty((0, *_THUMBNAIL), np.uint8)]
        stream = _stream(paths, glances, read, image_size=image_size, aspect=aspect)
        for indices, images, small in stream:
            hashed = []
            for place, index in enumerate(indices.tolist()):
                digest = checksums[index].result()[index]
                if isinstance(digest, OSError):
                    failures[index] = read_failure(digest)
                    continue
                digests.append(digest)
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
        extents=np.array([glances[i].extent or (0, 0) for i in sorted(usable)]).reshape(-1, 2),
        pixels=None if store is None else store.finish(),
        rows=rows,
        failures={i: failures[i] for i in sorted(set(failures).difference(foreign))},
        foreign=foreign,
    )


def _chunks(items: Sequence) -> list[Sequence]:
    """Divide what is passed to threads: one by one, that would take as long as a glance."""
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]


def _glance_all(paths: Sequence[Path]) -> list[Glance]:
    return [glance(path) for path in paths]


def _hash_all(paths: dict[int, Path]) -> dict[int, str | OSError]:
    """Return the SHA-256 of each file, or why it cannot be read."""
    digests = {}
    for index, path in paths.items():
        try:
            digests[index] = sha256_file(path)
        except OSError as error:
            digests[index] = error
    return digests


@functools.cache
def file_decoder(image_size: tuple[int, int], aspect: Aspect) -> Callable[..., tf.Tensor]:
    """Return a graph function to uint8 [height, width, 3], traced once per size.

    It takes a path and, of a JPEG without EXIF data, a `JpegPlan`: that graph is much smaller.

    Args:
        image_size, aspect: as for `decode_image`.
    """

    @tf.function(autograph=False)
    def decode(path, plan=None):
        return _read(path, plan, image_size=image_size, aspect=aspect)[1]

    return decode


@functools.cache
def _scanner(image_size: tuple[int, int], aspect: Aspect, *, keep_pixels: bool) -> Callable:
    """Return a graph function as `file_decoder`, to (pixels, thumbnail)."""

    @tf.function(autograph=False)
    def read(path, plan=None):
        # Fitted even where it is not kept: what fails here must fail now, not in training.
        whole, fitted = _read(path, plan, image_size=image_size, aspect=aspect)
        thumbnail = tf.image.resize(whole, _THUMBNAIL[:2], method="area")
        return fitted if keep_pixels else fitted[:0], tf.cast(tf.round(thumbnail), tf.uint8)

    return read


def _read(
    path: tf.Tensor, plan: JpegPlan | None, *, image_size: tuple[int, int], aspect: Aspect
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the whole image, uint8 [h, w, 3], and what `decode_image` makes of it."""
    contents = tf.io.read_file(path)
    if plan is None:
        image = decode_full(contents, image_size=image_size)
        return image.pixels, fit_image(image, image_size=image_size, aspect=aspect)
    pixels = decode_planned_jpeg(contents, plan)
    return pixels, carry_out(plan.fit, pixels, image_size=image_size, aspect=aspect)


def _stream(
    paths: Sequence[str | Path],
    glances: Sequence[Glance],
    read: Callable,
    *,
    image_size: tuple[int, int],
    aspect: Aspect,
) -> Iterator[tuple]:
    """Yield batches of what is read of the files that do not fail.

    Args:
        paths: files.
        glances: of each; the plain JPEGs come first, those with a reason are left out.
        read: from a path, and of the plain ones a plan, to what is read.
        image_size, aspect: what the plans are for.

    Yields:
        Indices of files, int64 NumPy array, ascending among the plain ones and the others; and one
        tensor or several, one row for each.
    """

    @tf.autograph.experimental.do_not_convert
    def numbered(index, *file):
        result = read(*file)
        return index, *(result if isinstance(result, tuple) else (result,))

    readable = [index for index, seen in enumerate(glances) if seen.reason is None]
    for plain in (True, False):
        wanted = [index for index in readable if (glances[index].extent is not None) == plain]
        # Else even no file at all would cost the tracing.
        if not wanted:
            continue
        # CPU: on a machine with a GPU an eager constant would land there.
        with tf.device("CPU:0"):
            files = (np.array(wanted, np.int64), [os.fsencode(paths[index]) for index in wanted])
            if plain:
                extents = np.array([glances[index].extent for index in wanted])
                files += (plan_jpegs(extents, image_size=image_size, aspect=aspect),)
            files = tf.data.Dataset.from_tensor_slices(files)
            files = files.map(numbered, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            # One by one, the way through Python would take longer than the decoding.
            files = files.ignore_errors(log_warning=False).batch(_BATCH).prefetch(tf.data.AUTOTUNE)
            for indices, *values in files:
                yield indices.numpy(), *values


def _undecodable(path: Path) -> str:
    """Say why the decoder could not make an image of a file."""
    try:
        code = int(header_inspector()(path.read_bytes()))
    except OSError as error:
        return read_failure(error)
    # Where the header is sound, the decoder stumbled over the body.
    return REASONS[DAMAGED if code == OK else code]


_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
_IMAGE_SUFFIXES += (".tif", ".tiff", ".heic", ".heif", ".avif")


def is_foreign(path: Path, reason: str) -> bool:
    """Whether a file that failed for `reason` neither is nor claims to be an image."""
    claims_image = path.suffix.lower() in _IMAGE_SUFFIXES
    return not claims_image and reason in (REASONS[EMPTY], REASONS[NOT_AN_IMAGE])
