"""Make an image fit a size: crop, pad or stretch it, in graph.

What to cut, pad and resize follows from sizes alone: it is planned first, for one image or for
many, and then done.
"""

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


class Plan(NamedTuple):
    """How to make an image fit, in the form that the operations take: one, or n in a row.

    TensorFlow resizes whole rows only. Where an image ends within one, more rows than it has and
    than are wanted can keep the proportion: for 187.5 rows to 160 these are 191 to 163. If all rows
    were moved to make do, the last by half of one, that would cost 1 to 4 dB on photos.

    Attributes:
        begin, cut: int32 [3], the pixels to take.
        missing: int32 [3, 2], how many to add around them.
        larger: int32 [2], to which size to resize them.
        size: int32 [3], how much to take of that.
        at_most_halved: bool, whether neither side becomes less than half as long.
        shrinks: bool, whether neither becomes longer.
    """

    begin: tf.Tensor
    cut: tf.Tensor
    missing: tf.Tensor
    larger: tf.Tensor
    size: tf.Tensor
    at_most_halved: tf.Tensor
    shrinks: tf.Tensor


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
    shape = tf.shape(image.pixels, tf.int64)[:2]
    plan = plan_fit(shape, image.extent, image.ratio, image_size=image_size, aspect=aspect)
    return carry_out(plan, image.pixels, image_size=image_size, aspect=aspect)


def plan_fit(
    shape: tf.Tensor,
    extent: tf.Tensor,
    ratio: tf.Tensor,
    *,
    image_size: tuple[int, int],
    aspect: Aspect,
) -> Plan:
    """Plan what `fit_image` does, for one image or for n.

    Args:
        shape: int64 [2] or [n, 2], height and width of the pixels.
        extent, ratio: int64, as in `Scaled`.
        image_size, aspect: as for `fit_image`.
    """
    target = tf.constant(image_size, tf.int64)
    ratio = ratio[..., None]
    begin, size = tf.zeros_like(shape), tf.zeros_like(shape) + target
    if aspect == "crop":
        # Integers: a float quotient could round a photo of exactly the target's shape off by one.
        cropped = tf.clip_by_value(shape[..., ::-1] * target // target[::-1], 1, shape)
        begin = (shape - cropped) // 2
        # Where anything is cut off, the part of a row at the end is.
        shape, extent = cropped, tf.minimum(extent, cropped * ratio)
    if aspect == "pad":
        size = tf.clip_by_value(shape * target[::-1] // shape[..., ::-1], 1, target)
    sizes = size[..., None] + tf.range(_CANDIDATES, dtype=tf.int64)
    covered = sizes * extent[..., None]
    row = (size * ratio)[..., None]
    rows = (covered + row // 2) // row
    best = tf.argmin(tf.abs(covered - rows * row), axis=-1)
    rows, larger = (
        tf.gather(numbers, best, axis=-1, batch_dims=len(best.shape)) for numbers in (rows, sizes)
    )
    cut = tf.minimum(rows, shape)
    missing = _and_channels(rows - cut, 0)
    scaled = size * ratio
    return Plan(
        begin=_and_channels(begin, 0),
        cut=_and_channels(cut, 3),
        missing=tf.stack([tf.zeros_like(missing), missing], axis=-1),
        larger=tf.cast(larger, tf.int32),
        size=_and_channels(size, 3),
        at_most_halved=tf.reduce_all(2 * scaled >= extent, axis=-1),
        shrinks=tf.reduce_all(scaled <= extent, axis=-1),
    )


def _and_channels(sides: tf.Tensor, channels: int) -> tf.Tensor:
    sides = tf.cast(sides, tf.int32)
    return tf.concat([sides, tf.zeros_like(sides[..., :1]) + channels], axis=-1)


@tf.autograph.experimental.do_not_convert
def carry_out(
    plan: Plan, pixels: tf.Tensor, *, image_size: tuple[int, int], aspect: Aspect
) -> tf.Tensor:
    """Fit one image as planned: uint8 [h, w, 3] to uint8 [height, width, 3]."""
    pixels = tf.pad(tf.slice(pixels, plan.begin, plan.cut), plan.missing)
    pixels = tf.ensure_shape(pixels, [None, None, 3])
    # Down to half of the size two pixels are nearly all that one covers: 41 dB from a resize with
    # antialiasing, in a ninth of its time. Below, their average is: 40 dB instead of 32.
    resized = tf.cond(
        plan.at_most_halved,
        lambda: tf.image.resize(pixels, plan.larger),
        lambda: tf.cond(
            plan.shrinks,
            lambda: tf.image.resize(pixels, plan.larger, method="area"),
            lambda: tf.image.resize(pixels, plan.larger, antialias=True),
        ),
    )
    # Averages of 0..255 stay there.
    fitted = tf.cast(tf.round(tf.slice(resized, [0, 0, 0], plan.size)), tf.uint8)
    if aspect == "pad":
        fitted = tf.image.resize_with_crop_or_pad(fitted, *image_size)
    return tf.ensure_shape(fitted, [*image_size, 3])
