"""Turn the bytes of an image file into pixels of one size: the only decoder, in graph.

Training, evaluation, prediction and the served model call the same function, so they cannot
disagree. The content decides the format, never the name. Alpha is composited over white, EXIF
orientation is honoured, and the result is rounded to uint8.
"""

from typing import Literal, get_args

import tensorflow as tf

from tfinetune.data.gif import first_frame
from tfinetune.data.headers import (
    BMP,
    DAMAGED,
    GIF,
    JPEG,
    MAX_PIXELS,
    OK,
    PNG,
    REASONS,
    WEBP,
    Header,
    read_header,
)

__all__ = [
    "ASPECTS",
    "DECODER_VERSION",
    "MAX_PIXELS",
    "REASONS",
    "Aspect",
    "decode_image",
    "fit_image",
    "inspect_header",
    "try_decode_image",
]

DECODER_VERSION = 1
"""Recorded in recipes; raised by any change that moves a decoded pixel."""

Aspect = Literal["crop", "pad", "stretch"]
ASPECTS: tuple[str, ...] = get_args(Aspect)

# JPEGs are decoded at 1/2, 1/4 or 1/8 scale as long as this many pixels remain on the shorter
# side: independent of the target up to half of it, so perceptual hashes do not depend on it.
_WORKING_SIDE = 512


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

    contents = tf.convert_to_tensor(contents)
    header = read_header(contents)

    @tf.autograph.experimental.do_not_convert
    def attempt(contents, header):
        return _decode_checked(contents, header, needed=_needed_side(image_size))

    # A data set is the only thing in a graph that can drop an error. Built anew for every image,
    # it holds no more than the step that may fail.
    attempts = tf.data.Dataset.from_tensors((contents, header)).map(attempt)
    fallback = tf.data.Dataset.from_tensors(tf.zeros([0, 0, 3], tf.uint8))
    attempts = attempts.ignore_errors(log_warning=False).concatenate(fallback).take(1)
    image = tf.ensure_shape(attempts.get_single_element(), [None, None, 3])
    valid = tf.size(image) > 0
    image = tf.cond(
        valid,
        lambda: fit_image(_orient(image, header.orientation), image_size=image_size, aspect=aspect),
        lambda: tf.zeros([*image_size, 3], tf.uint8),
    )
    return image, valid


@tf.autograph.experimental.do_not_convert
def decode_full(contents: tf.Tensor, *, image_size: tuple[int, int]) -> tf.Tensor:
    """Decode and orient an image, whole, at a size of at least twice `image_size` if it has it.

    Large JPEGs are decoded at a fraction of their scale, which is several times faster and reads
    each pixel as an average.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: when run, as `decode_image`.
    """
    contents = tf.convert_to_tensor(contents)
    header = read_header(contents)
    image = _decode_checked(contents, header, needed=_needed_side(image_size))
    return _orient(image, header.orientation)


@tf.autograph.experimental.do_not_convert
def fit_image(image: tf.Tensor, *, image_size: tuple[int, int], aspect: Aspect) -> tf.Tensor:
    """Resize an image to `image_size`, bilinear with antialiasing, rounded to uint8.

    Args:
        image: uint8 or float [height, width, 3], 0..255.
        image_size: height and width of the result.
        aspect: as for `decode_image`.
    """
    target_height, target_width = image_size
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    if aspect == "crop":
        # Integers: a float quotient could round a photo of exactly the target's shape off by one.
        crop_height = tf.clip_by_value(width * target_height // target_width, 1, height)
        crop_width = tf.clip_by_value(height * target_width // target_height, 1, width)
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
        image = image[top : top + crop_height, left : left + crop_width]
    if aspect == "pad":
        scaled_height = tf.clip_by_value(height * target_width // width, 1, target_height)
        scaled_width = tf.clip_by_value(width * target_height // height, 1, target_width)
        image = _resize(image, (scaled_height, scaled_width))
        image = tf.image.resize_with_crop_or_pad(image, target_height, target_width)
    else:
        image = _resize(image, image_size)
    return tf.ensure_shape(image, [target_height, target_width, 3])


def _resize(image: tf.Tensor, size: tuple) -> tf.Tensor:
    resized = tf.image.resize(image, size, method="bilinear", antialias=True)
    return tf.cast(tf.round(tf.clip_by_value(resized, 0.0, 255.0)), tf.uint8)


def _needed_side(image_size: tuple[int, int]) -> int:
    return max(_WORKING_SIDE, 2 * max(image_size))


def _decode_checked(contents: tf.Tensor, header: Header, *, needed: int) -> tf.Tensor:
    """Decode what the header allows, without orientation: uint8 [height, width, 3]."""
    accepted = tf.debugging.Assert(header.reason == OK, [tf.gather(REASONS, header.reason)])
    with tf.control_dependencies([accepted]):
        contents = tf.identity(contents)
    decoders = {
        JPEG: lambda: _decode_jpeg(contents, header, needed=needed),
        PNG: lambda: _decode_png(contents, header),
        GIF: lambda: _decode_gif(contents),
        BMP: lambda: _decode_bmp(contents, header),
        WEBP: lambda: _decode_webp(contents),
    }
    return tf.ensure_shape(tf.switch_case(header.format, decoders), [None, None, 3])


def _decode_jpeg(contents: tf.Tensor, header: Header, *, needed: int) -> tf.Tensor:
    def at_scale(ratio):
        return tf.io.decode_jpeg(contents, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    shorter = tf.minimum(header.height, header.width)
    index = tf.reduce_sum(tf.cast(shorter >= [2 * needed, 4 * needed, 8 * needed], tf.int32))
    return tf.switch_case(index, [lambda r=r: at_scale(r) for r in (1, 2, 4, 8)])


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
    # What the frame leaves bare is transparent; TensorFlow paints it black.
    top, left, height, width = tf.unstack(tf.cast(frame.box, tf.int32))
    rows, columns = tf.unstack(tf.cast(frame.canvas, tf.int32))
    margins = [[top, rows - top - height], [left, columns - left - width], [0, 0]]
    return tf.pad(image[top : top + height, left : left + width], margins, constant_values=255)


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
