"""Make an image fit a size: crop, pad or stretch it, in graph."""

from typing import Literal, NamedTuple, get_args

import tensorflow as tf

Aspect = Literal["crop", "pad", "stretch"]
ASPECTS: tuple[str, ...] = get_args(Aspect)

# Among so many sizes from the target on, one fits whole rows of the image to 0.01 of one (median).
_CANDIDATES = 16


class Scaled(NamedTuple):
    """An image decoded at a fraction of its scale, which may end within its last row or column.

    Attributes:
        pixels: uint8 [h, w, 3].
        extent: int64 [2], the height and width of what they show, in pixels of the whole image.
        ratio: int64, pixels of the whole image to one of these, along either axis.
    """

    pixels: tf.Tensor
    extent: tf.Tensor
    ratio: tf.Tensor

    @classmethod
    def whole(cls, pixels: tf.Tensor) -> "Scaled":
        """Say that an image has its full scale."""
        return cls(pixels, tf.shape(pixels, tf.int64)[:2], tf.constant(1, tf.int64))


@tf.autograph.experimental.do_not_convert
def fit_image(image: Scaled, *, image_size: tuple[int, int], aspect: Aspect) -> tf.Tensor:
    """Resize an image to `image_size`, rounded to uint8.

    Args:
        image: what to fit.
        image_size: height and width of the result.
        aspect: "crop" cuts the centre to the target's proportions, "pad" adds black bars,
            "stretch" distorts.

    Returns:
        uint8 [height, width, 3].
    """
    target_height, target_width = image_size
    height, width = tf.shape(image.pixels)[0], tf.shape(image.pixels)[1]
    if aspect == "crop":
        # Integers: a float quotient could round a photo of exactly the target's shape off by one.
        crop_height = tf.clip_by_value(width * target_height // target_width, 1, height)
        crop_width = tf.clip_by_value(height * target_width // target_height, 1, width)
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
        pixels = image.pixels[top : top + crop_height, left : left + crop_width]
        # Where anything is cut off, the part of a row at the end is.
        shown = tf.cast([crop_height, crop_width], tf.int64) * image.ratio
        image = Scaled(pixels, tf.minimum(image.extent, shown), image.ratio)
    if aspect == "pad":
        scaled_height = tf.clip_by_value(height * target_width // width, 1, target_height)
        scaled_width = tf.clip_by_value(width * target_height // height, 1, target_width)
        fitted = _resize(image, tf.stack([scaled_height, scaled_width]))
        fitted = tf.image.resize_with_crop_or_pad(fitted, target_height, target_width)
    else:
        fitted = _resize(image, tf.constant(image_size))
    return tf.ensure_shape(fitted, [target_height, target_width, 3])


def _resize(image: Scaled, size: tf.Tensor) -> tf.Tensor:
    pixels, larger = _whole_rows(image, size)
    covered = tf.cast(size, tf.int64) * image.ratio
    shrinks, at_most_halved = covered <= image.extent, 2 * covered >= image.extent

    # Down to half of the size two pixels are nearly all that one covers: 41 dB from a resize with
    # antialiasing, in a ninth of its time. Below, their average is: 40 dB instead of 32.
    def bilinear():
        return tf.image.resize(pixels, larger)

    def average():
        return tf.image.resize(pixels, larger, method="area")

    def antialiased():
        return tf.image.resize(pixels, larger, antialias=True)

    resized = tf.cond(
        tf.reduce_all(at_most_halved),
        bilinear,
        lambda: tf.cond(tf.reduce_all(shrinks), average, antialiased),
    )
    # Averages of 0..255 stay there.
    return tf.cast(tf.round(resized[: size[0], : size[1]]), tf.uint8)


def _whole_rows(image: Scaled, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return pixels, and to which size to resize them, so that a corner of that is `size`.

    TensorFlow resizes whole rows only. Where an image ends within one, more rows than it has and
    than are wanted can keep the proportion: for 187.5 rows to 160 these are 191 to 163. If all rows
    were moved to make do, the last by half of one, that would cost 1 to 4 dB on photos.
    """
    sizes = tf.cast(size, tf.int64)[:, None] + tf.range(_CANDIDATES, dtype=tf.int64)
    covered = sizes * image.extent[:, None]
    row = tf.cast(size, tf.int64)[:, None] * image.ratio
    rows = (covered + row // 2) // row
    best = tf.argmin(tf.abs(covered - rows * row), axis=1)
    chosen = tf.gather(tf.stack([rows, sizes], axis=-1), best, batch_dims=1)
    rows, larger = tf.unstack(tf.cast(chosen, tf.int32), axis=1)
    pixels = image.pixels[: rows[0], : rows[1]]
    missing = rows - tf.shape(pixels)[:2]
    return tf.pad(pixels, [[0, missing[0]], [0, missing[1]], [0, 0]]), larger
