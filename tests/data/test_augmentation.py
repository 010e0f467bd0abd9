"""Policies are written as text, and their views are stateless, composed and bounded."""

import numpy as np
import pytest
import tensorflow as tf

from tfinetune.data import (
    POLICIES,
    Policy,
    augment_batch,
    draw_parameters,
    flip,
    get_policy,
    mix_batch,
)
from tfinetune.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 3)).astype(np.uint8)


def _warped_by_tensorflow(images, matrix):
    """TensorFlow's own warp, of maps between pixels counted from the corner."""
    centre = np.array([[1, 0, 7.5], [0, 1, 5.5], [0, 0, 1]])
    row = (centre @ matrix @ np.linalg.inv(centre)).ravel()
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images.astype(np.float32),
        transforms=tf.constant([row[:8] / row[8]] * len(images), tf.float32),
        output_shape=images.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def test_geometric_operations_compose_in_the_order_given():
    policy = get_policy("zoom, rotate, translate")
    row = [1.25, 0.4, 3 / 16, -2 / 12]
    view = augment_batch(IMAGES, tf.constant([row] * 2), policy)
    # From the view back: shift, then turn, then zoom.
    shift = np.array([[1, 0, -3], [0, 1, 2], [0, 0, 1]])
    c, s = np.cos(0.4), np.sin(0.4)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    zoom = np.diag([0.8, 0.8, 1])
    np.testing.assert_allclose(view, _warped_by_tensorflow(IMAGES, zoom @ turn @ shift), atol=0.05)


def test_colour_operations_compose_in_the_order_given_and_clip_once():
    images = np.full((1, 4, 4, 3), 200, np.uint8)
    row = [0.4, 0.5]  # brighter than white, then half the contrast
    view = augment_batch(images, tf.constant([row]), get_policy("brightness, contrast"))
    np.testing.assert_allclose(view, 127.5 + 0.5 * (200 + 102 - 127.5), rtol=1e-5)
    other = augment_batch(images, tf.constant([row[::-1]]), get_policy("contrast, brightness"))
    np.testing.assert_allclose(other, 255)


@pytest.mark.parametrize("name", POLICIES)
def test_views_are_bounded_and_a_function_of_seed_epoch_and_example(name):
    images = IMAGES.repeat(16, axis=0)

    def views(**changes):
        arguments = {"seed": 1, "epoch": 2} | changes
        table = draw_parameters(len(images), name, **arguments)
        return augment_batch(images, table, name).numpy()

    first = views()
    assert first.dtype == np.float32 and first.min() >= 0 and first.max() <= 255
    np.testing.assert_array_equal(first, views(epoch=tf.constant(2, tf.int64)))
    if name == "none":
        np.testing.assert_array_equal(first, images)
    else:
        assert np.abs(first - images).max() > 1
        assert np.abs(first - views(epoch=3)).max() > 1
        assert np.abs(first - views(seed=2)).max() > 1


def test_the_compiled_program_renders_what_its_operations_do_one_by_one():
    policy = get_policy("strong")
    images = IMAGES.repeat(40, axis=0)
    table = draw_parameters(len(images), policy, seed=3, epoch=0)
    for operation, columns in policy.split(table):
        assert np.any(columns != operation.neutral), f"no view drew {operation}"
    compiled = augment_batch(images, table, policy).numpy()
    tf.config.run_functions_eagerly(True)
    try:
        plain = augment_batch(images, table, policy).numpy()
    finally:
        tf.config.run_functions_eagerly(False)
    # Where rounding crosses a step of `posterize`, a value differs by that step.
    assert np.mean(np.abs(compiled - plain) > 0.01) < 1e-4


def test_flip_mirrors_left_to_right():
    np.testing.assert_array_equal(flip(IMAGES), IMAGES[:, :, ::-1])
    assert get_policy("light").mirrors and get_policy("1 of: rotate, flip").mirrors
    assert not get_policy("no_flip").mirrors and not get_policy("flip_vertical, flip=0").mirrors


def test_a_pool_gives_each_view_its_number_of_operations_evenly():
    policy = get_policy("flip, 2 of: rotate, brightness, cutout, solarize")
    table = draw_parameters(3000, policy, seed=0, epoch=0)
    drawn = {
        operation.name: np.any(columns.numpy() != operation.neutral, axis=1)
        for operation, columns in policy.split(table)
    }
    assert abs(drawn.pop("flip").mean() - 0.5) < 0.03
    assert {int(count) for count in sum(map(np.int64, drawn.values()))} == {2}
    for name, where in drawn.items():
        assert abs(where.mean() - 0.5) < 0.03, name
    both = (drawn["rotate"] & drawn["cutout"]).mean()
    assert abs(both - 1 / 6) < 0.03


@pytest.mark.parametrize(
    "text",
    [
        "none",
        "flip=0.5, rotate=20",
        "1 of: cutout=0.4, solarize=0.5",
        "flip=0.5, mixup=0.2, 2 of: shear=0.1, blur=2, hue=0.05",
    ],
)
def test_a_policy_is_written_as_it_is_read(text):
    assert str(get_policy(text)) == text
    assert get_policy(get_policy(text)) == get_policy(text)


def test_names_and_usual_amounts_are_short_for_what_they_mean():
    assert get_policy("light") == get_policy("flip=0.5, translate=0.05, zoom=0.1")
    assert get_policy(" flip ,rotate ") == get_policy("flip=0.5, rotate=15")
    assert get_policy("") == get_policy("none") == Policy()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wild", "Unknown augmentation 'wild'.*none, light, no_flip, standard, strong.*cutmix"),
        ("flip, twist=3", "Unknown augmentation 'twist'"),
        ("rotate=far", "'rotate=far': 'far' is not a number"),
        ("rotate=200", "rotate=200 is out of range: give 0 .* to 180"),
        ("flip,, rotate", "Unknown augmentation ''"),
        ("3 of: flip, rotate", "Cannot draw 3 of 2 operations"),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(DataError, match=message):
        get_policy(text)


def test_mixtures_follow_each_other():
    labels = np.eye(3, dtype=np.float32)
    images = np.arange(3, dtype=np.float32)[:, None, None, None] + np.zeros((3, 2, 2, 3))
    policy = get_policy("mixup, mixup")
    mixed, shares = mix_batch(
        images.astype(np.float32), labels, tf.constant([[0.5, 0.5]] * 3), policy
    )
    expected = (np.eye(3) + 2 * np.roll(np.eye(3), 1, axis=0) + np.roll(np.eye(3), 2, axis=0)) / 4
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    np.testing.assert_allclose(mixed[:, 0, 0, 0], expected @ np.arange(3), atol=1e-6)
