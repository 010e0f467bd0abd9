"""What every augmentation keeps: it does what an independent reference does, draws what it says,
changes nothing at its neutral parameters, and works in graph on any batch."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from tfinetune.data import OPERATIONS, Policy, augment_batch, draw_parameters, mix_batch
from tfinetune.data.augmentation.operation import Mixing
from tfinetune.errors import DataError

HEIGHT, WIDTH = 13, 18
LUMA = np.array([0.299, 0.587, 0.114])


def _photos() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    resized = [Image.fromarray(photo).resize((WIDTH, HEIGHT)) for photo in coarse]
    return np.stack([np.asarray(photo) for photo in resized])


def _sampled(place):
    """Reference of a geometric operation, from where (x, y) of the view lies in the photo."""

    def reference(photo):
        x = np.arange(WIDTH)[None] - (WIDTH - 1) / 2 + np.zeros((HEIGHT, 1))
        y = np.arange(HEIGHT)[:, None] - (HEIGHT - 1) / 2 + np.zeros((1, WIDTH))
        x, y = place(x, y)
        at = [y + (HEIGHT - 1) / 2, x + (WIDTH - 1) / 2]
        channels = [
            scipy.ndimage.map_coordinates(photo[..., c].astype(float), at, order=1, mode="reflect")
            for c in range(3)
        ]
        return np.stack(channels, axis=-1)

    return reference


def _turn_hue(photo):
    """Rotate (I, Q) by 0.1 of a full turn, as one complex number."""
    to_yiq = np.array([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    luma, i, q = np.moveaxis(photo @ to_yiq.T, -1, 0)
    turned = (i + 1j * q) * np.exp(2j * np.pi * 0.1)
    yiq = np.stack([luma, turned.real, turned.imag], axis=-1)
    return np.clip(yiq @ np.linalg.inv(to_yiq).T, 0, 255)


@tf.function(autograph=False, jit_compile=True)
def _normal(shape, seed):
    """Draw the numbers of XLA, which are not those of TensorFlow's own kernel."""
    return tf.random.stateless_normal(shape, [seed, 0], alg="philox")


def _painted(photo, rows, columns, colour):
    photo = photo.astype(float)
    photo[rows, columns] = colour
    return photo


def _by_pillow(function):
    return lambda photo: np.asarray(function(Image.fromarray(photo)))


def _uniform(low, high):
    return scipy.stats.uniform(low, high - low)


LOGARITHM = scipy.stats.loguniform


@dataclass
class Case:
    """An operation at fixed parameters, what it must then do to one photo, and its distributions.

    `drawn` holds, by column, a SciPy distribution, or the share of views that are not neutral.
    """

    amount: float
    parameters: list[float]
    reference: object
    drawn: dict[int, object]
    tolerance: float = 0.02
    extra: dict = field(default_factory=dict)


A = math.radians(20)
CASES = {
    "flip": Case(0.3, [-1], lambda photo: photo[:, ::-1], {0: 0.3}),
    "flip_vertical": Case(0.3, [-1], lambda photo: photo[::-1], {0: 0.3}),
    "rotate": Case(
        40.0,
        [A],
        # Clockwise where y points down, so the view looks back counter-clockwise.
        _sampled(
            lambda x, y: (x * math.cos(A) + y * math.sin(A), y * math.cos(A) - x * math.sin(A))
        ),
        {0: _uniform(-math.radians(40), math.radians(40))},
    ),
    "zoom": Case(
        0.5, [1.5], _sampled(lambda x, y: (x / 1.5, y / 1.5)), {0: LOGARITHM(1 / 1.5, 1.5)}
    ),
    "shear": Case(
        0.4,
        [0.3, -0.2],
        _sampled(lambda x, y: (x - 0.3 * y, y + 0.2 * (x - 0.3 * y))),
        {0: _uniform(-0.4, 0.4), 1: _uniform(-0.4, 0.4)},
    ),
    "translate": Case(
        0.5,
        [4 / WIDTH, -3 / HEIGHT],
        _sampled(lambda x, y: (x - 4, y + 3)),
        {0: _uniform(-0.5, 0.5), 1: _uniform(-0.5, 0.5)},
    ),
    "perspective": Case(
        0.4,
        [0.3, -0.1],
        _sampled(lambda x, y: np.array([x, y]) / (1 + 0.6 * x / WIDTH - 0.2 * y / HEIGHT)),
        {0: _uniform(-0.4, 0.4), 1: _uniform(-0.4, 0.4)},
    ),
    "crop": Case(
        0.5,
        [0.7, 0.8, 0.1, -0.05],
        _sampled(lambda x, y: (0.7 * x + 0.1 * WIDTH, 0.8 * y - 0.05 * HEIGHT)),
        {},
    ),
    "brightness": Case(
        0.2,
        [0.1],
        lambda photo: np.clip(photo + 25.5, 0, 255),
        {0: _uniform(-0.2, 0.2)},
    ),
    "contrast": Case(
        0.4,
        [1.3],
        lambda photo: np.clip(127.5 + 1.3 * (photo - 127.5), 0, 255),
        {0: _uniform(0.6, 1.4)},
    ),
    "saturation": Case(
        0.4,
        [0.3],
        _by_pillow(lambda photo: ImageEnhance.Color(photo).enhance(0.3)),
        {0: _uniform(0.6, 1.4)},
        tolerance=1.4,  # Pillow rounds the grey and truncates the result
    ),
    "hue": Case(0.2, [0.1], _turn_hue, {0: _uniform(-0.2, 0.2)}),
    "grayscale": Case(0.2, [0], lambda photo: (photo @ LUMA)[..., None].repeat(3, -1), {0: 0.2}),
    "autocontrast": Case(0.2, [1], _by_pillow(ImageOps.autocontrast), {0: 0.2}, tolerance=1.01),
    "sharpness": Case(
        0.8,
        [1.8],
        _by_pillow(lambda photo: ImageEnhance.Sharpness(photo).enhance(1.8)),
        {0: _uniform(0.2, 1.8)},
        tolerance=1.5,  # Pillow rounds the smoothed photo and the result
    ),
    "blur": Case(
        1.0,
        [0.9],
        lambda photo: scipy.ndimage.gaussian_filter(
            photo.astype(float), 0.9, radius=3, axes=(0, 1), mode="reflect"
        ),
        {0: _uniform(0, 1)},
    ),
    "posterize": Case(
        4.0,
        [3],
        _by_pillow(lambda photo: ImageOps.posterize(photo, 3)),
        {0: scipy.stats.randint(4, 9)},
    ),
    "solarize": Case(
        0.5,
        [150],
        _by_pillow(lambda photo: ImageOps.solarize(photo, 150)),
        {0: _uniform(128, 256)},
    ),
    "noise": Case(
        0.1,
        [0.05, 7],
        lambda photo: np.clip(photo + 255 * 0.05 * _normal(photo.shape, tf.constant(7)), 0, 255),
        {0: _uniform(0, 0.1)},
    ),
    "cutout": Case(
        0.6,
        [6 / 13, 6.5 / 13, 4 / 18],
        lambda photo: _painted(photo, slice(4, 9), slice(1, 7), 127.5),
        {0: _uniform(0, 0.6), 1: _uniform(0, 1), 2: _uniform(0, 1)},
    ),
    "erase": Case(
        0.5,
        [4 / 13, 10 / 18, 2 / 13, 9 / 18, 10, 20, 30],
        lambda photo: _painted(photo, slice(0, 4), slice(4, 14), [10, 20, 30]),
        {column: _uniform(0, 255 if column > 3 else 1) for column in range(2, 7)},
    ),
    "mixup": Case(
        0.4,
        [0.7],
        lambda photo, other: 0.7 * photo + 0.3 * other,
        {0: scipy.stats.beta(0.4, 0.4)},
        extra={"kept": 0.7},
    ),
    "cutmix": Case(
        1.0,
        # A box of half the sides in the corner: only a quarter of it is inside.
        [0.75, 0, 0],
        lambda photo, other: _painted(photo, slice(0, 3), slice(0, 4), other[:3, :4]),
        {0: _uniform(0, 1), 1: _uniform(0, 1), 2: _uniform(0, 1)},
        extra={"kept": 1 - 12 / (13 * 18)},
    ),
}
PLAIN = [name for name in CASES if not issubclass(OPERATIONS[name], Mixing)]
MIXING = [name for name in CASES if issubclass(OPERATIONS[name], Mixing)]


def _policy(name: str) -> Policy:
    return Policy((OPERATIONS[name](CASES[name].amount),))


def _rows(parameters, count) -> tf.Tensor:
    return tf.constant([parameters] * count, tf.float32)


def test_every_operation_has_a_case():
    assert set(CASES) == set(OPERATIONS)


@pytest.mark.parametrize("name", PLAIN)
def test_an_operation_does_what_its_reference_does(name):
    case, photos = CASES[name], _photos()
    views = augment_batch(photos, _rows(case.parameters, 2), _policy(name)).numpy()
    expected = np.stack([case.reference(photo) for photo in photos])
    np.testing.assert_allclose(views, expected, atol=case.tolerance)
    assert np.abs(expected - photos).max() > 5, "the reference changes nothing"


@pytest.mark.parametrize("name", MIXING)
def test_a_mixture_takes_its_share_of_photo_and_label_from_the_one_before(name):
    case = CASES[name]
    photos = _photos().astype(np.float32)
    labels = np.eye(4, dtype=np.float32)[[1, 3]]
    images, shares = mix_batch(photos, labels, _rows(case.parameters, 2), _policy(name))
    expected = [case.reference(photos[0], photos[1]), case.reference(photos[1], photos[0])]
    np.testing.assert_allclose(images, np.stack(expected), atol=case.tolerance)
    kept = case.extra["kept"]
    np.testing.assert_allclose(shares, kept * labels + (1 - kept) * labels[::-1], atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_neutral_parameters_change_nothing(name):
    photos, policy = _photos().astype(np.float32), _policy(name)
    neutral = _rows(policy.always[0].neutral, 2)
    views = augment_batch(photos, neutral, policy)
    images, labels = mix_batch(views, np.eye(2, dtype=np.float32), neutral, policy)
    np.testing.assert_allclose(images, photos, atol=1e-3)
    np.testing.assert_array_equal(labels, np.eye(2))


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_drawn_from_the_stated_distributions(name):
    case, policy = CASES[name], _policy(name)
    table = draw_parameters(4000, policy, seed=0, epoch=0).numpy()
    assert table.shape == (4000, len(policy.always[0].neutral))
    for column, expected in case.drawn.items():
        values = table[:, column]
        if isinstance(expected, float):
            share = (values != policy.always[0].neutral[column]).mean()
            assert share == pytest.approx(expected, abs=0.03)
        elif hasattr(expected, "pmf"):
            kinds, counts = np.unique(values, return_counts=True)
            assert scipy.stats.chisquare(counts, 4000 * expected.pmf(kinds)).pvalue > 0.001
        else:
            assert scipy.stats.kstest(values, expected.cdf).pvalue > 0.001


@pytest.mark.parametrize("name", CASES)
def test_amounts_of_nothing_change_nothing_and_impossible_ones_are_refused(name):
    operation = OPERATIONS[name]
    still = draw_parameters(50, Policy((operation(0),)), seed=0, epoch=0).numpy()
    photos = _photos().repeat(25, axis=0)
    np.testing.assert_allclose(
        augment_batch(photos, still, Policy((operation(0),))), photos, atol=1e-3
    )
    for amount in (-0.1, operation.limit * 1.01, math.nan):
        with pytest.raises(DataError, match=f"{name}=.* is out of range"):
            operation(amount)


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.float32), (3, np.uint8)])
def test_batches_of_any_length_work_in_graph(channels, dtype):
    """All operations at once; batches of 3, 1 and none through one graph."""
    policy = Policy(tuple(OPERATIONS[name]() for name in PLAIN))
    shape = [None, HEIGHT, WIDTH, channels]
    render = tf.function(
        lambda images, parameters: augment_batch(images, parameters, policy),
        autograph=False,
        input_signature=[tf.TensorSpec(shape, dtype), tf.TensorSpec([None, policy.columns])],
    )
    photos = np.concatenate([_photos(), _photos()[:1] // 2])[..., :channels].astype(dtype)
    table = draw_parameters(3, policy, seed=1, epoch=2)
    together = render(photos, table).numpy()
    assert together.dtype == np.float32
    assert together.min() >= 0 and together.max() <= 255
    assert np.abs(together - photos).max() > 20
    assert render(photos[:0], table[:0]).shape == (0, *shape[1:])
    # A view is that of its example, whatever else is in the batch.
    np.testing.assert_allclose(render(photos[2:], table[2:])[0], together[2], atol=1e-2)


def test_colour_needs_one_or_three_channels():
    photos = np.zeros((1, HEIGHT, WIDTH, 4), np.uint8)
    with pytest.raises(DataError, match="these images have 4"):
        augment_batch(photos, _rows([0.1], 1), _policy("brightness"))


def test_pillow_smooths_as_the_reference_of_sharpness_says():
    kernel = ImageFilter.SMOOTH.filterargs
    assert kernel[:2] == ((3, 3), 13) and kernel[3] == (1, 1, 1, 1, 5, 1, 1, 1, 1)
