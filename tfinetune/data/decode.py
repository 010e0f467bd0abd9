"""Turn the bytes of an image file into pixels of one size: the only decoder, in graph.

Training, evaluation, prediction and the served model call the same function, so they cannot
disagree. The content decides the format, never the name. Alpha is composited over white, EXIF
orientation is honoured, and the result is rounded to uint8.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfinetune.data.fit import Aspect, Plan, Scaled, fit_image, plan_fit
from tfinetune.data.gif import first_frame
from tfinetune.data.headers import (
    DAMAGED,
    JPEG_SIGNATURE,
    MAX_PIXELS,
    OK,
    PNG,
    REASONS,
    TOO_LARGE,
    Header,
    outlined,
    read_header,
)

DECODER_VERSION = 3
"""Recorded in recipes; raised by any change that moves a decoded pixel."""

# A JPEG decoded at a fraction of its scale keeps this many pixels on its shorter side, which tiny
# targets do not need but perceptual hashes do. (At two scales, few of their 64 bits differ.)
_LEAST_SIDE = 128

_RATIOS = (1, 2, 4, 8)  # all that libjpeg has
EXIF_REACH = 2**18
"""EXIF data is looked for in so many bytes."""


@tf.autograph.experimental.do_not_convert
def inspect_header(contents: tf.Tensor) -> tf.Tensor:
    """Say whether an image may be decoded, from its header alone.

    Args:
        contents: scalar string, the bytes of a file.

    Returns:
        Scalar int32, an index into `REASONS`: 0 where the image may be decoded. A body that turns
        out to be damaged is only found by decoding.
    """
    return read_header(tf.convert_to_tensor(contents)).reason


@tf.autograph.experimental.do_not_convert
def decode_image(contents: tf.Tensor, *, image_size: tuple[int, int], aspect: Aspect) -> tf.Tensor:
    """Decode, orient and resize one image.

    Args:
        contents: scalar string, the bytes of a JPEG, PNG, GIF (first frame), BMP or still WebP.
        image_size: height and width of the result, in pixels.
        aspect: "crop" cuts the centre to the target's proportions, "pad" adds black bars,
            "stretch" distorts.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: when run, if the image is damaged or of an unsupported kind
            (see `REASONS`).

    Example:
        >>> png = tf.io.encode_png(tf.zeros([8, 12, 3], tf.uint8))
        >>> decode_image(png, image_size=(4, 4), aspect="crop").shape
        TensorShape([4, 4, 3])
    """
    image = decode_full(contents, image_size=image_size)
    return fit_image(image, image_size=image_size, aspect=aspect)


@tf.autograph.experimental.do_not_convert
def try_decode_image(
    contents: tf.Tensor, *, image_size: tuple[int, int], aspect: Aspect
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode one image, or say that it cannot be: never raises.

    Works inside `tf.map_fn`, a SavedModel and a TF 1 session, where no exception can be caught.

    Args:
        contents: scalar string.
        image_size: height and width of the result, in pixels.
        aspect: as for `decode_image`.

    Returns:
        The image, uint8 [height, width, 3], zeros where it cannot be decoded; and a scalar bool.
    """

    blank = tf.zeros([*image_size, 3], tf.uint8)

    @tf.autograph.experimental.do_not_convert
    def attempt(contents):
        return decode_image(contents, image_size=image_size, aspect=aspect), True

    # A data set is the only thing in a graph that can drop an error.
    attempts = tf.data.Dataset.from_tensors(contents).map(attempt)
    fallback = tf.data.Dataset.from_tensors((blank, False))
    attempts = attempts.ignore_errors(log_warning=False).concatenate(fallback).take(1)
    image, valid = attempts.get_single_element()
    return tf.ensure_shape(image, blank.shape), tf.ensure_shape(valid, [])


@tf.autograph.experimental.do_not_convert
def decode_full(contents: tf.Tensor, *, image_size: tuple[int, int]) -> Scaled:
    """Decode and orient an image, whole, at a size of at least `image_size` if it has it.

    Of a JPEG of twice, four or eight times that size only the lower frequencies are decoded, which
    is faster, and each pixel is an average instead of a sample.

    Raises:
        tf.errors.InvalidArgumentError: when run, as `decode_image`.
    """
    contents = tf.convert_to_tensor(contents)
    return Scaled(
        *tf.cond(
            tf.strings.substr(contents, 0, len(JPEG_SIGNATURE)) == JPEG_SIGNATURE,
            lambda: _decode_oriented_jpeg(contents, image_size),
            lambda: Scaled.whole(_decode_other(contents)),
        )
    )


class JpegPlan(NamedTuple):
    """How to decode a JPEG without EXIF data, or n of them: all that follows from its size.

    Attributes:
        extent: int32 [2], its height and width.
        scale: int32, an index into the ratios that libjpeg has.
        fit: how to make its pixels fit.
    """

    extent: tf.Tensor
    scale: tf.Tensor
    fit: Plan


def plan_jpegs(extents: np.ndarray, *, image_size: tuple[int, int], aspect: Aspect) -> JpegPlan:
    """Plan the decoding of JPEGs, int [n, 2]: for n at once it takes next to no time.

    In the graph, photo by photo, the same small operations take an eighth of the whole decoding.
    """
    extents = tf.constant(extents, tf.int64)
    scales = _scale(extents, image_size)
    ratios = _ratio(scales)
    # As libjpeg rounds.
    shapes = -(-extents // ratios[:, None])
    fit = plan_fit(shapes, extents, ratios, image_size=image_size, aspect=aspect)
    return JpegPlan(tf.cast(extents, tf.int32), scales, fit)


@tf.autograph.experimental.do_not_convert
def decode_planned_jpeg(contents: tf.Tensor, plan: JpegPlan) -> tf.Tensor:
    """Decode a JPEG without EXIF data at the planned scale: uint8 [h, w, 3].

    Raises:
        tf.errors.InvalidArgumentError: when run, if it is another kind of file, or damaged, or not
            of the planned size.
    """
    shape = tf.io.extract_jpeg_shape(contents)
    # Whatever the plan says, libjpeg allocates what the file says.
    same = tf.reduce_all(shape[:2] == plan.extent)
    agrees = tf.debugging.Assert(same, ["the JPEG is not of the planned size", shape])
    with tf.control_dependencies([agrees]):
        contents = tf.identity(contents)
    return _decode_at(plan.scale, contents)


def _decode_oriented_jpeg(contents: tf.Tensor, image_size: tuple[int, int]) -> Scaled:
    image = _decode_jpeg(contents, image_size)
    return Scaled(
        *tf.cond(
            _may_have_exif(contents), lambda: _orient_by_header(*image, contents), lambda: image
        )
    )


def _decode_jpeg(contents: tf.Tensor, image_size: tuple[int, int]) -> Scaled:
    # Far cheaper than `read_header`, which is needed only for EXIF and to explain a failure.
    shape = tf.io.extract_jpeg_shape(contents)
    bounded = tf.debugging.Assert(shape[0] <= MAX_PIXELS // shape[1], [REASONS[TOO_LARGE]])
    with tf.control_dependencies([bounded]):
        extent = shape[:2]
    extent = tf.cast(extent, tf.int64)
    scale = _scale(extent, image_size)
    return Scaled(_decode_at(scale, contents), extent, _ratio(scale))


def _scale(extent: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    needed = max(_LEAST_SIDE, *image_size)
    thresholds = tf.constant([ratio * needed for ratio in _RATIOS[1:]], tf.int64)
    enough = tf.reduce_min(extent, axis=-1, keepdims=True) >= thresholds
    return tf.reduce_sum(tf.cast(enough, tf.int32), axis=-1)


def _ratio(scale: tf.Tensor) -> tf.Tensor:
    return tf.gather(tf.constant(_RATIOS, tf.int64), scale)


def _decode_at(scale: tf.Tensor, contents: tf.Tensor) -> tf.Tensor:
    def at(ratio):
        return tf.io.decode_jpeg(contents, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    pixels = tf.switch_case(scale, [lambda ratio=ratio: at(ratio) for ratio in _RATIOS])
    return tf.ensure_shape(pixels, [None, None, 3])


def _may_have_exif(contents: tf.Tensor) -> tf.Tensor:
    # EXIF follows the signature; `\C` is any byte at all, and a match elsewhere costs no more than
    # a closer look.
    beginning = tf.strings.substr(contents, 0, EXIF_REACH)
    return tf.strings.regex_full_match(beginning, r"\C*Exif\x00\x00\C*")


@outlined(
    input_signature=[
        tf.TensorSpec([None, None, 3], tf.uint8),
        tf.TensorSpec([2], tf.int64),
        tf.TensorSpec([], tf.int64),
        tf.TensorSpec([], tf.string),
    ]
)
def _orient_by_header(
    pixels: tf.Tensor, extent: tf.Tensor, ratio: tf.Tensor, contents: tf.Tensor
) -> Scaled:
    orientation = read_header(contents).orientation
    upright = _orient(pixels, orientation)
    # Where a part of a row is at the beginning it is taken for a whole one.
    turned = tf.shape(upright, tf.int64)[:2] * ratio
    return Scaled(upright, tf.where(orientation == 1, extent, turned), ratio)


@outlined(input_signature=[tf.TensorSpec([], tf.string)])
def _decode_other(contents: tf.Tensor) -> tf.Tensor:
    """Decode and orient what is not a JPEG: uint8 [height, width, 3]."""
    header = read_header(contents)
    accepted = tf.debugging.Assert(header.reason == OK, [tf.gather(REASONS, header.reason)])
    with tf.control_dependencies([accepted]):
        contents = tf.identity(contents)
    decoders = [
        lambda: _decode_png(contents, header),
        lambda: _decode_gif(contents),
        lambda: _decode_bmp(contents, header),
        lambda: _decode_webp(contents),
    ]
    image = tf.switch_case(header.format - PNG, decoders)
    return _orient(tf.ensure_shape(image, [None, None, 3]), header.orientation)


def _decode_png(contents: tf.Tensor, header: Header) -> tf.Tensor:
    return tf.cond(
        header.alpha,
        lambda: _over_white(tf.io.decode_png(contents, channels=4)),
        lambda: tf.io.decode_png(contents, channels=3),
    )


def _decode_gif(contents: tf.Tensor) -> tf.Tensor:
    frame = first_frame(contents)
    complete = tf.debugging.Assert(frame.complete, [REASONS[DAMAGED]])
    with tf.control_dependencies([complete]):
        single = tf.identity(frame.contents)
    image = tf.io.decode_image(single, channels=3, expand_animations=False)
    top, left, height, width = tf.unstack(tf.cast(frame.box, tf.int32))
    rows, columns = tf.unstack(tf.cast(frame.canvas, tf.int32))
    margins = [[top, rows - top - height], [left, columns - left - width], [0, 0]]
    # What the frame leaves bare is transparent.
    return tf.pad(image, margins, constant_values=255)


def _decode_bmp(contents: tf.Tensor, header: Header) -> tf.Tensor:
    def decode(channels):
        return tf.io.decode_image(contents, channels=channels, expand_animations=False)

    return tf.cond(header.alpha, lambda: _over_white(decode(4)), lambda: decode(3))


def _decode_webp(contents: tf.Tensor) -> tf.Tensor:
    # Asked for any other number of channels than the file has, TensorFlow refuses it.
    image = tf.io.decode_image(contents, channels=0, expand_animations=False)
    image = tf.ensure_shape(image, [None, None, None])
    return tf.cond(tf.shape(image)[2] == 4, lambda: _over_white(image), lambda: image)


def _over_white(image: tf.Tensor) -> tf.Tensor:
    """Composite uint8 [height, width, 4] over white."""
    colour, alpha = tf.split(tf.cast(image, tf.float32), [3, 1], axis=-1)
    return tf.cast(tf.round(255.0 + (colour - 255.0) * (alpha / 255.0)), tf.uint8)


def _orient(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undo an EXIF orientation (1..8): transpose, then mirror."""

    def undo():
        upright = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
        upright = tf.cond(mirrored, lambda: upright[:, ::-1], lambda: upright)
        upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
        return tf.cond(upside_down, lambda: upright[::-1], lambda: upright)

    return tf.ensure_shape(tf.cond(orientation == 1, lambda: image, undo), [None, None, 3])
