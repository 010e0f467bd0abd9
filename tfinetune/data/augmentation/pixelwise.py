"""Operations that change pixels in ways of their own, in the photos that they were drawn for."""

import math
from dataclasses import dataclass

import tensorflow as tf

from tfinetune.data.augmentation.operation import Pixelwise

_MID_GREY = 127.5


@dataclass(frozen=True)
class Cutout(Pixelwise):
    """Paint a grey square over the photo, with a side of up to `amount` of the shorter side.

    Its centre lies anywhere in the photo (DeVries & Taylor 2017, arXiv:1708.04552).
    """

    amount: float = 0.4
    name = "cutout"
    neutral = (0.0, 0.0, 0.0)

    def draw(self, uniform):
        """Draw the side, and the centre as fractions of height and width."""
        side = (uniform[:, :1] + 1) / 2 * self.amount
        return tf.concat([side, (uniform[:, 1:] + 1) / 2], axis=1)

    def apply(self, images, parameters):
        """Paint the square."""
        height, width = _size(images)
        side, row, column = tf.unstack(parameters, axis=1)
        half = side * tf.minimum(height, width) / 2
        box = inside_box(images, row, column, half_height=half, half_width=half)
        return tf.where(box, _MID_GREY, images)


@dataclass(frozen=True)
class Erase(Pixelwise):
    """Paint a rectangle of one random colour, on up to `amount` of the area.

    Its sides are as 0.3 to 3.3, evenly in logarithm, its centre lies anywhere ("random erasing",
    Zhong et al. 2020, arXiv:1708.04896).
    """

    amount: float = 0.3
    name = "erase"
    neutral = (0.0,) * 7

    def draw(self, uniform):
        """Draw height and width, the centre, all as fractions of the sides, and the colour."""
        unit = (uniform + 1) / 2
        root = tf.exp(uniform[:, 1:2] * math.log(10 / 3) / 2)
        side = tf.sqrt(unit[:, :1] * self.amount)
        return tf.concat([side * root, side / root, unit[:, 2:4], 255 * unit[:, 4:]], axis=1)

    def apply(self, images, parameters):
        """Paint the rectangle."""
        height, width = _size(images)
        tall, wide, row, column = tf.unstack(parameters[:, :4], axis=1)
        box = inside_box(
            images, row, column, half_height=tall * height / 2, half_width=wide * width / 2
        )
        colour = parameters[:, None, None, 4 : 4 + images.shape[-1]]
        return tf.where(box, colour, images)


@dataclass(frozen=True)
class Blur(Pixelwise):
    """Blur by a Gaussian whose standard deviation is up to `amount` pixels."""

    amount: float = 1.5
    name = "blur"
    limit = 10.0
    neutral = (0.0,)

    def draw(self, uniform):
        """Draw the standard deviation."""
        return (uniform + 1) / 2 * self.amount

    def apply(self, images, parameters):
        """Convolve along one axis, then along the other; beyond the edge lies the mirror image."""
        radius = math.ceil(3 * self.amount)
        places = tf.range(-radius, radius + 1, dtype=tf.float32)
        # So narrow a Gaussian is none: a division by zero is avoided.
        deviation = tf.maximum(parameters, 1e-3)
        weights = tf.exp(-0.5 * tf.square(places / deviation))
        weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
        weights = tf.unstack(weights[..., None, None, None], axis=1)
        for axis in (1, 2):
            size = tf.shape(images)[axis]
            before, after = (
                tf.gather(images, _mirror(places, size), axis=axis)
                for places in (tf.range(-radius, 0), tf.range(size, size + radius))
            )
            # One gather would be looked up anew for every weight, which is seven times as slow.
            padded = tf.concat([before, images, after], axis=axis)
            images = tf.add_n(
                [
                    weight * tf.slice(padded, [0] * axis + [k] + [0] * (3 - axis), tf.shape(images))
                    for k, weight in enumerate(weights)
                ]
            )
        return images


@dataclass(frozen=True)
class Sharpness(Pixelwise):
    """Scale the detail that a 3x3 smoothing removes by 1 - `amount` to 1 + `amount`.

    The smoothing is that of Pillow's and Keras's sharpness: a centre of 5 among ones.
    """

    amount: float = 0.5
    name = "sharpness"
    neutral = (1.0,)

    def draw(self, uniform):
        """Draw a factor; 0 smooths, 2 sharpens."""
        return 1 + uniform * self.amount

    def apply(self, images, parameters):
        """Blend with the smoothed photo; its outermost pixels stay."""
        total = 4 * images[:, 1:-1, 1:-1]
        rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
        total += rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
        detail = images[:, 1:-1, 1:-1] - total / 13
        detail = tf.pad(detail, [[0, 0], [1, 1], [1, 1], [0, 0]])
        change = (parameters[:, :, None, None] - 1) * detail
        return tf.clip_by_value(images + change, 0.0, 255.0)


@dataclass(frozen=True)
class Posterize(Pixelwise):
    """Keep the highest bits of every value only: 8 - `amount` to 8 of them."""

    amount: float = 4.0
    name = "posterize"
    limit = 7.0
    neutral = (8.0,)

    def draw(self, uniform):
        """Draw the number of bits, a whole number."""
        return 8 - tf.floor((uniform + 1) / 2 * (self.amount + 1))

    def apply(self, images, parameters):
        """Round down to a multiple."""
        step = tf.pow(2.0, 8 - parameters)[:, :, None, None]
        return tf.floor(images / step) * step


@dataclass(frozen=True)
class Solarize(Pixelwise):
    """Invert the values above a threshold, which lies `amount` of the range below white or less."""

    amount: float = 0.5
    name = "solarize"
    neutral = (256.0,)

    def draw(self, uniform):
        """Draw the threshold."""
        return 256 * (1 - (uniform + 1) / 2 * self.amount)

    def apply(self, images, parameters):
        """Invert."""
        return tf.where(images >= parameters[:, :, None, None], 255 - images, images)


@dataclass(frozen=True)
class AutoContrast(Pixelwise):
    """Stretch each channel to the full range, in a share `amount` of the views."""

    amount: float = 0.5
    name = "autocontrast"
    neutral = (0.0,)

    def draw(self, uniform):
        """Draw 1 where it happens, else 0."""
        return tf.where((uniform + 1) / 2 < self.amount, 1.0, 0.0)

    def apply(self, images, parameters):
        """Stretch; a channel of one value stays as it is."""
        low = tf.reduce_min(images, axis=(1, 2), keepdims=True)
        high = tf.reduce_max(images, axis=(1, 2), keepdims=True)
        stretched = tf.math.divide_no_nan(images - low, high - low) * 255
        return tf.where(high > low, stretched, images)


@dataclass(frozen=True)
class Noise(Pixelwise):
    """Add Gaussian noise whose standard deviation is up to `amount` of the full range."""

    amount: float = 0.05
    name = "noise"
    neutral = (0.0, 0.0)

    def draw(self, uniform):
        """Draw the standard deviation and a seed."""
        unit = (uniform + 1) / 2
        return tf.stack([unit[:, 0] * self.amount, tf.floor(unit[:, 1] * 2**24)], axis=1)

    def apply(self, images, parameters):
        """Add noise that depends on each photo's own seed, not on its place in the batch."""

        def normal(seed):
            shape = tf.shape(images)[1:]
            return tf.random.stateless_normal(shape, tf.stack([seed, 0]), alg="philox")

        seeds = tf.cast(parameters[:, 1], tf.int32)
        noise = tf.map_fn(normal, seeds, fn_output_signature=tf.float32)
        deviation = 255 * parameters[:, 0, None, None, None]
        return tf.clip_by_value(images + deviation * noise, 0.0, 255.0)


def _mirror(places: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Mirror places about the edge of the last pixel, again and again on a tiny photo."""
    places = tf.math.floormod(places, 2 * size)
    return tf.minimum(places, 2 * size - 1 - places)


def _size(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    height, width = tf.unstack(tf.cast(tf.shape(images)[1:3], tf.float32))
    return height, width


def inside_box(
    images: tf.Tensor,
    row: tf.Tensor,
    column: tf.Tensor,
    *,
    half_height: tf.Tensor,
    half_width: tf.Tensor,
) -> tf.Tensor:
    """Return bool [b, height, width, 1]: pixels whose centre lies in a box, given its centre."""
    height, width = _size(images)
    y = tf.range(height) + 0.5 - row[:, None] * height
    x = tf.range(width) + 0.5 - column[:, None] * width
    rows, columns = tf.abs(y) < half_height[:, None], tf.abs(x) < half_width[:, None]
    return (rows[:, :, None] & columns[:, None, :])[..., None]
