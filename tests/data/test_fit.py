"""Plans made for many images at once are those of each image."""

import numpy as np
import pytest
import tensorflow as tf

from tfinetune.data.decode import decode_image, decode_planned_jpeg, plan_jpegs
from tfinetune.data.fit import ASPECTS, carry_out, plan_fit

IMAGE_SIZE = (150, 160)
# At the target's size, twice, four and eight times it, and where a row ends within a reduced one.
EXTENTS = np.array(
    [(5, 7), (150, 160), (90, 400), (375, 500), (333, 501), (640, 640), (651, 1033), (1283, 1291)]
)


def _row(plan, index):
    return tf.nest.map_structure(lambda numbers: numbers[index], plan)


@pytest.mark.parametrize("aspect", ASPECTS)
def test_a_plan_for_many_images_is_that_of_each(aspect):
    options = {"image_size": IMAGE_SIZE, "aspect": aspect}
    ratios = np.array([1, 1, 1, 2, 2, 4, 4, 8])
    shapes = -(-EXTENTS // ratios[:, None])
    many = plan_fit(*map(tf.constant, (shapes, EXTENTS, ratios)), **options)
    for index in range(len(EXTENTS)):
        numbers = (shapes[index], EXTENTS[index], ratios[index])
        one = plan_fit(*map(tf.constant, numbers), **options)
        tf.nest.map_structure(np.testing.assert_array_equal, _row(many, index), one)


@pytest.mark.parametrize("aspect", ASPECTS)
def test_a_planned_jpeg_has_the_pixels_of_any_other(aspect):
    options = {"image_size": IMAGE_SIZE, "aspect": aspect}
    plans = plan_jpegs(EXTENTS, **options)
    assert set(plans.scale.numpy()) == {0, 1, 2, 3}
    for index, (height, width) in enumerate(EXTENTS):
        y, x = np.mgrid[0:height, 0:width]
        waves = 127 + 100 * np.stack([np.sin(x / k) * np.cos(y / k) for k in (6, 7, 8)], axis=-1)
        contents = tf.io.encode_jpeg(waves.astype(np.uint8))
        plan = _row(plans, index)
        planned = carry_out(plan.fit, decode_planned_jpeg(contents, plan), **options)
        np.testing.assert_array_equal(planned, decode_image(contents, **options))


def test_a_jpeg_that_is_not_of_the_planned_size_is_never_decoded():
    (plan,) = (_row(plan_jpegs(np.array([[24, 32]]), image_size=(8, 8), aspect="crop"), 0),)
    contents = tf.io.encode_jpeg(np.zeros((24, 33, 3), np.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="not of the planned size"):
        decode_planned_jpeg(contents, plan)
