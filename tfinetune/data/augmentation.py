"""Random views of training photos, as a stateless function of seed, epoch and example.

All geometric operations become one affine warp and all colour operations one linear map, which is
several times faster than a chain of layers and resamples each photo only once.
"""

import math
from dataclasses import dataclass

import tensorflow as tf

from tfinetune.errors import DataError


@dataclass(frozen=True)
class Policy:
    """How far a view may differ from its photo. Each amount is drawn uniformly around none.

    Attributes:
        flip: probability of mirroring left to right.
        translate: largest shift, as a fraction of the side.
        zoom: largest relative change of scale: 0.1 draws from 1/1.1 to 1.1, evenly in logarithm.
        rotate: largest angle, in degrees.
        brightness: largest change, as a fraction of the full range.
        contrast, saturation: largest relative change.
    """

    flip: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0
    rotate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0


POLICIES: dict[str, Policy] = {
    "none": Policy(),
    "light": Policy(flip=0.5, translate=0.05, zoom=0.1),
    # For what means something else in the mirror: text, digits, signs.
    "no_flip": Policy(translate=0.05, zoom=0.1, rotate=8.0),
    "standard": Policy(
        flip=0.5,
        translate=0.08,
        zoom=0.15,
        rotate=15.0,
        brightness=0.1,
        contrast=0.2,
        saturation=0.2,
    ),
}

PARAMETERS = ("flip", "right", "down", "zoom", "angle", "brightness", "contrast", "saturation")
_GREY_WEIGHTS = (0.299, 0.587, 0.114)


def get_policy(augment: str | Policy) -> Policy:
    """Return the policy of a name in `POLICIES`; a policy is returned as it is.

    Raises:
        DataError: if there is no policy of that name.
    """
    if isinstance(augment, Policy):
        return augment
    if augment not in POLICIES:
        raise DataError(f"Unknown augmentation {augment!r}. Known: {', '.join(POLICIES)}.")
    return POLICIES[augment]


def draw_parameters(
    count: int | tf.Tensor, policy: Policy, *, seed: int | tf.Tensor, epoch: int | tf.Tensor
) -> tf.Tensor:
    """Draw the views of one epoch.

    Args:
        count: number of examples.
        policy: the ranges to draw from.
        seed, epoch: integers; the same pair gives the same table.

    Returns:
        float32 [count, 8], row i for example i, columns as in `PARAMETERS`: mirroring (1 or -1),
        shifts as fractions of the side, scale factor, angle in radians, brightness as a fraction
        of the range, contrast and saturation factors.
    """
    seeds = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    amounts = tf.random.stateless_uniform([count, len(PARAMETERS)], seeds, -1.0, 1.0, alg="philox")
    flip, right, down, zoom, angle, brightness, contrast, saturation = tf.unstack(amounts, axis=1)
    return tf.stack(
        [
            tf.where((flip + 1) / 2 < policy.flip, -1.0, 1.0),
            right * policy.translate,
            down * policy.translate,
            tf.exp(zoom * math.log1p(policy.zoom)),
            angle * math.radians(policy.rotate),
            brightness * policy.brightness,
            1 + contrast * policy.contrast,
            1 + saturation * policy.saturation,
        ],
        axis=1,
    )


def augment_batch(images: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
    """Render the views that `parameters` describe.

    Args:
        images: uint8 or float32 [batch, height, width, 3], 0..255.
        parameters: float32 [batch, 8], rows of `draw_parameters`.

    Returns:
        float32 [batch, height, width, 3], 0..255. What a view shows beyond its photo is the
        photo's mirror image.
    """
    size = tf.shape(images)[1:3]
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=_transforms(parameters, tf.cast(size, tf.float32)),
        output_shape=size,
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    warped = tf.ensure_shape(warped, images.shape)
    return _recolour(tf.cast(warped, tf.float32), parameters)


def flip(images: tf.Tensor) -> tf.Tensor:
    """Mirror a batch [batch, height, width, channels] left to right (NumPy arrays as well)."""
    return images[:, :, ::-1]


def _transforms(parameters: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Return float32 [batch, 8]: the maps from a pixel of the view to its place in the photo."""
    mirror, right, down, zoom, angle = tf.unstack(parameters[:, :5], axis=1)
    height, width = size[0], size[1]
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    cosine, sine = tf.cos(angle) / zoom, tf.sin(angle) / zoom
    # About the centre: shift, rotate and scale, then mirror.
    xx, xy = mirror * cosine, mirror * -sine
    yx, yy = sine, cosine
    from_x, from_y = -centre_x - right * width, -centre_y - down * height
    zero = tf.zeros_like(xx)
    return tf.stack(
        [
            xx,
            xy,
            centre_x + xx * from_x + xy * from_y,
            yx,
            yy,
            centre_y + yx * from_x + yy * from_y,
            zero,
            zero,
        ],
        axis=1,
    )


def _recolour(images: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
    """Change saturation, then contrast about mid-grey, then brightness, as one linear map."""
    brightness, contrast, saturation = (
        column[:, None, None] for column in tf.unstack(parameters[:, 5:], axis=1)
    )
    grey = tf.constant(_GREY_WEIGHTS)[:, None] * tf.ones([1, 3])
    matrix = contrast * (saturation * tf.eye(3) + (1 - saturation) * grey)
    offset = 127.5 * (1 - contrast) + 255.0 * brightness
    # As rows of pixels: three times faster than arithmetic on the channel axis.
    pixels = tf.reshape(images, [tf.shape(images)[0], -1, 3])
    changed = tf.clip_by_value(tf.matmul(pixels, matrix) + offset, 0.0, 255.0)
    return tf.ensure_shape(tf.reshape(changed, tf.shape(images)), images.shape)
