"""Draw and render views: a stateless function of seed, epoch and example.

All geometric operations of a policy become one warp and all colour operations one linear map.
"""

from collections.abc import Callable
from functools import cache, reduce

import tensorflow as tf

from tfinetune.data.augmentation.operation import Colour, Geometric, Mixing, Pixelwise
from tfinetune.data.augmentation.policy import Policy, get_policy
from tfinetune.errors import DataError


def draw_parameters(
    count: int | tf.Tensor, policy: str | Policy, *, seed: int | tf.Tensor, epoch: int | tf.Tensor
) -> tf.Tensor:
    """Draw the views of one epoch.

    Args:
        count: number of examples.
        policy: what to draw from.
        seed, epoch: integers; the same pair gives the same table.

    Returns:
        float32 [count, policy.columns], row i for example i.
    """
    policy = get_policy(policy)
    if not policy.columns:
        # Else opening a data set would take half as long again, for nothing.
        return tf.zeros([count, 0])
    seeds = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    columns = policy.columns
    shape = [count, columns + len(policy.pool)]
    uniform = tf.random.stateless_uniform(shape, seeds, -1.0, 1.0, alg="philox")
    drawn = [operation.draw(numbers) for operation, numbers in policy.split(uniform[:, :columns])]
    # Those of the pool whose number is among the `choose` smallest are drawn.
    ranks = tf.argsort(tf.argsort(uniform[:, columns:], axis=1), axis=1)
    chosen = tf.pad(ranks < policy.choose, [[0, 0], [len(policy.always), 0]], constant_values=True)
    neutral = [operation.neutral for operation in policy.operations]
    owners = [index for index, numbers in enumerate(neutral) for _ in numbers]
    return tf.where(
        tf.gather(chosen, tf.constant(owners, tf.int32), axis=1),
        tf.concat(drawn, axis=1),
        tf.constant([number for numbers in neutral for number in numbers], tf.float32),
    )


def augment_batch(images: tf.Tensor, parameters: tf.Tensor, policy: str | Policy) -> tf.Tensor:
    """Render the views that `parameters` describe, all but mixing.

    Args:
        images: uint8 or float32 [batch, height, width, channels], 0..255; colour operations need 1
            or 3 channels.
        parameters: float32 [batch, policy.columns], rows of `draw_parameters`.
        policy: the one that they were drawn from.

    Returns:
        float32 [batch, height, width, channels], 0..255. What a view shows beyond its photo is the
        photo's mirror image.

    Raises:
        DataError: if the policy cannot be applied to so many channels.
    """
    policy = get_policy(policy)
    if all(isinstance(operation, Mixing) for operation in policy.operations):
        return tf.cast(images, tf.float32)
    drawn = policy.split(parameters)
    size = tf.cast(tf.shape(images)[1:3], tf.float32)
    maps = [op.matrix(p, size) for op, p in drawn if isinstance(op, Geometric)]
    recolourings = [op.matrix(p) for op, p in drawn if isinstance(op, Colour)]
    examples = {"image": images, "parameters": parameters}
    if maps:
        # From the view back to the photo: the last map first.
        examples["map"] = reduce(tf.matmul, maps)
    if recolourings:
        examples["recolouring"] = reduce(lambda first, second: second @ first, recolourings)
    views = tf.cond(
        tf.shape(images)[0] > 0,
        lambda: _renderer(policy)(examples),
        # XLA cannot loop over nothing.
        lambda: tf.cast(images, tf.float32),
    )
    return tf.ensure_shape(views, images.shape)


def mix_batch(
    images: tf.Tensor, labels: tf.Tensor, parameters: tf.Tensor, policy: str | Policy
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix the examples of a batch as `parameters` say.

    Args:
        images: float32 [batch, height, width, channels].
        labels: float32 [batch, classes], shares that sum to 1.
        parameters, policy: as for `augment_batch`.

    Returns:
        Images and labels of the same shapes.
    """
    for operation, columns in get_policy(policy).split(parameters):
        if isinstance(operation, Mixing):
            images, kept = operation.mix(images, columns)
            labels = kept[:, None] * labels + (1 - kept[:, None]) * tf.roll(labels, 1, axis=0)
    return images, labels


def flip(images: tf.Tensor) -> tf.Tensor:
    """Mirror a batch [batch, height, width, channels] left to right (NumPy arrays as well)."""
    return images[:, :, ::-1]


@cache
def _renderer(policy: Policy) -> Callable[[dict[str, tf.Tensor]], tf.Tensor]:
    """Return what renders a batch; it is compiled once for each policy and shape."""

    # One program of XLA that goes from photo to photo is 2.7 times as fast for `strong` as one
    # operation after the other over the batch: a photo stays in the processor's cache meanwhile,
    # and takes no branch that it did not draw.
    @tf.function(autograph=False, jit_compile=True)
    def render(examples):
        return tf.map_fn(
            lambda example: _render(example, policy), examples, fn_output_signature=tf.float32
        )

    return render


def _render(example: dict[str, tf.Tensor], policy: Policy) -> tf.Tensor:
    """Render one view, float32 [height, width, channels]."""
    images = example["image"][None]
    if "map" in example:
        images = _warp(images, example["map"][None])
    images = tf.cast(images, tf.float32)
    if "recolouring" in example:
        images = _recolour(images, example["recolouring"][None])
    for operation, columns in policy.split(example["parameters"][None]):
        if isinstance(operation, Pixelwise):
            images = _apply_where_drawn(operation, images, columns)
    return images[0]


def _apply_where_drawn(operation: Pixelwise, images: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        tf.reduce_any(parameters != operation.neutral),
        lambda: operation.apply(images, parameters),
        lambda: images,
    )


def _warp(images: tf.Tensor, maps: tf.Tensor) -> tf.Tensor:
    """Sample each image, bilinearly, where its map leads from each pixel of the view.

    Args:
        images: [b, height, width, channels].
        maps: float32 [b, 3, 3], for columns (x, y, 1) in pixels from the centre.

    Returns:
        float32 of the same shape.
    """
    count, height, width, channels = tf.unstack(tf.shape(images))
    size = tf.cast([width, height], tf.float32)
    centre = (size - 1) / 2
    x = (tf.range(width, dtype=tf.float32) - centre[0])[None, None, :]
    y = (tf.range(height, dtype=tf.float32) - centre[1])[None, :, None]
    xx, xy, x1, yx, yy, y1, zx, zy, z1 = tf.unstack(tf.reshape(maps, [-1, 9, 1, 1]), axis=1)
    distance = zx * x + zy * y + z1
    columns = _reflect((xx * x + xy * y + x1) / distance + centre[0], size[0])
    rows = _reflect((yx * x + yy * y + y1) / distance + centre[1], size[1])
    left, top = tf.floor(columns), tf.floor(rows)
    across, down = (columns - left)[..., None], (rows - top)[..., None]
    left, top = tf.cast(left, tf.int32), tf.cast(top, tf.int32)
    right, bottom = tf.minimum(left + 1, width - 1), tf.minimum(top + 1, height - 1)
    pixels = tf.reshape(images, [-1, channels])
    first = (tf.range(count) * height)[:, None, None]

    def at(row, column):
        return tf.cast(tf.gather(pixels, (first + row) * width + column), tf.float32)

    upper = at(top, left) * (1 - across) + at(top, right) * across
    lower = at(bottom, left) * (1 - across) + at(bottom, right) * across
    return upper * (1 - down) + lower * down


def _reflect(places: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Mirror places about the outer edges of the pixels 0 ... size - 1, as often as it takes."""
    places += 0.5
    # The remainder, vectorized: with `floormod`, the whole warp takes 1.5 times as long.
    places -= 2 * size * tf.floor(places / (2 * size))
    return tf.clip_by_value(size - tf.abs(size - places) - 0.5, 0.0, size - 1)


def _recolour(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Apply float32 [b, 4, 4] to the colours of float32 images."""
    channels = images.shape[-1]
    if channels == 1:
        # A grey pixel has three equal colours.
        linear = tf.reduce_sum(matrices[:, :1, :3], axis=2, keepdims=True)
    elif channels == 3:
        linear = tf.linalg.matrix_transpose(matrices[:, :3, :3])
    else:
        raise DataError(
            f"Colour augmentation is defined for 1 or 3 channels; these images have {channels}. "
            "Use geometric operations only, such as augment='light'."
        )
    offset = 255 * matrices[:, None, :channels, 3]
    # As rows of pixels: three times faster than arithmetic on the channel axis.
    pixels = tf.reshape(images, [tf.shape(images)[0], -1, channels])
    changed = tf.clip_by_value(tf.matmul(pixels, linear) + offset, 0.0, 255.0)
    return tf.reshape(changed, tf.shape(images))
