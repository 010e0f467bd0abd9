"""Views are stateless, bounded, and what their parameters say."""

import numpy as np
import pytest
import tensorflow as tf

from tfinetune.data import POLICIES, Policy, augment_batch, draw_parameters, flip
from tfinetune.data.augmentation import PARAMETERS

IDENTITY = dict.fromkeys(PARAMETERS, 0.0) | dict.fromkeys(
    ("flip", "zoom", "contrast", "saturation"), 1.0
)


def _images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 12, 16, 3)).astype(np.uint8)


def _view(images, **changes) -> np.ndarray:
    row = [(IDENTITY | changes)[name] for name in PARAMETERS]
    return augment_batch(images, tf.constant([row] * len(images), tf.float32)).numpy()


def test_the_identity_changes_nothing():
    np.testing.assert_allclose(_view(_images()), _images(), atol=1e-3)


def test_flip_mirrors_left_to_right():
    images = _images()
    np.testing.assert_allclose(_view(images, flip=-1.0), images[:, :, ::-1], atol=1e-3)
    np.testing.assert_array_equal(flip(images), images[:, :, ::-1])


def test_a_shift_moves_the_photo_right_and_down():
    images = _images()
    moved = _view(images, right=4 / 16, down=3 / 12)
    np.testing.assert_allclose(moved[:, 3:, 4:], images[:, :-3, :-4], atol=1e-3)


def test_zoom_enlarges_about_the_centre():
    image = np.zeros((1, 33, 33, 3), np.uint8)
    image[:, 8:25, 8:25] = 240
    assert _view(image, zoom=1.5).mean() > 1.8 * image.mean()
    assert _view(image, zoom=1 / 1.5).mean() < 0.6 * image.mean()


def test_a_quarter_turn_is_a_quarter_turn():
    image = _images()[:1, :, :12]
    turned = _view(image, angle=np.pi / 2)[0]
    errors = [np.abs(turned - np.rot90(image[0], k).astype(float)).max() for k in (1, 3)]
    assert min(errors) <= 1.001


def test_brightness_contrast_and_saturation_are_linear():
    images = np.full((1, 4, 4, 3), 0, np.uint8) + np.array([100, 150, 50], np.uint8)
    np.testing.assert_allclose(_view(images, brightness=0.1)[0, 0, 0], [125.5, 175.5, 75.5], 1e-4)
    np.testing.assert_allclose(_view(images, contrast=1.2)[0, 0, 0], [94.5, 154.5, 34.5], rtol=1e-4)
    grey = 0.299 * 100 + 0.587 * 150 + 0.114 * 50
    np.testing.assert_allclose(_view(images, saturation=0.0)[0, 0, 0], [grey] * 3, rtol=1e-4)


def test_views_stay_in_range():
    images = _images().repeat(16, axis=0)
    policy = Policy(brightness=1.0, contrast=1.0, saturation=1.0, rotate=180.0, zoom=1.0)
    view = augment_batch(images, draw_parameters(len(images), policy, seed=0, epoch=0)).numpy()
    assert view.dtype == np.float32
    assert view.min() >= 0
    assert view.max() <= 255


@pytest.mark.parametrize("name", POLICIES)
def test_parameters_are_a_function_of_seed_and_epoch(name):
    def draw(**changes):
        arguments = {"seed": 1, "epoch": 2} | changes
        return draw_parameters(100, POLICIES[name], **arguments).numpy()

    np.testing.assert_array_equal(draw(), draw())
    np.testing.assert_array_equal(draw(), draw(epoch=tf.constant(2, tf.int64)))
    if name != "none":
        assert np.abs(draw() - draw(epoch=3)).max() > 0.01
        assert np.abs(draw() - draw(seed=2)).max() > 0.01


def test_parameters_keep_to_their_policy():
    policy = POLICIES["standard"]
    table = draw_parameters(2000, policy, seed=0, epoch=0).numpy()
    column = dict(zip(PARAMETERS, table.T, strict=True))
    assert abs((column["flip"] == -1).mean() - policy.flip) < 0.05
    assert 0.9 * policy.translate < np.abs(column["right"]).max() <= policy.translate
    assert 0.9 * policy.translate < np.abs(column["down"]).max() <= policy.translate
    zoom = np.abs(np.log(column["zoom"])).max()
    assert 0.9 * np.log1p(policy.zoom) < zoom <= np.log1p(policy.zoom) + 1e-6
    angle = np.degrees(np.abs(column["angle"]).max())
    assert 0.9 * policy.rotate < angle <= policy.rotate + 1e-4


def test_the_empty_policy_is_the_identity():
    table = draw_parameters(3, POLICIES["none"], seed=0, epoch=0).numpy()
    np.testing.assert_array_equal(table, [[IDENTITY[name] for name in PARAMETERS]] * 3)
