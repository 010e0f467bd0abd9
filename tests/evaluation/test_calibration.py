"""Expected calibration error against arithmetic on paper; temperature against known ones."""

import numpy as np
import pytest
from scipy.special import softmax

from tfinetune.errors import DataError
from tfinetune.evaluation import expected_calibration_error, fit_temperature, reliability_bins
from tfinetune.evaluation.calibration import TEMPERATURE_BOUNDS


def test_calibration_error_equals_the_sum_done_by_hand():
    probabilities = [[0.95, 0.05], [0.95, 0.05], [0.05, 0.95], [0.6, 0.4], [0.38, 0.62]]
    labels = [0, 0, 0, 0, 1]
    # (14/15, 1] holds three at 0.95, two of them right: 3/5 * |2/3 - 0.95|.
    # (8/15, 9/15] holds 0.6, right: 1/5 * |1 - 0.6|. (9/15, 10/15] holds 0.62, right.
    expected = 0.6 * (0.95 - 2 / 3) + 0.2 * 0.4 + 0.2 * 0.38
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_calibration_error_depends_on_the_number_of_bins():
    probabilities, labels = [[0.6, 0.4], [0.9, 0.1]], [1, 0]
    # One bin: mean confidence 0.75 against accuracy 0.5. Ten: (0.6 + 0.1) / 2.
    assert expected_calibration_error(probabilities, labels, bins=1) == pytest.approx(0.25)
    assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx(0.35)


def test_bins_are_open_below_and_closed_above():
    rows = reliability_bins([[0.5, 0.5], [1.0, 0.0], [0.75, 0.25]], [0, 0, 1], bins=4)
    assert [row["count"] for row in rows] == [0, 1, 1, 1]
    assert rows[1] == {"low": 0.25, "high": 0.5, "count": 1, "confidence": 0.5, "accuracy": 1.0}
    assert rows[0]["confidence"] is None
    assert rows[0]["accuracy"] is None


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.7, 5.0])
def test_temperature_of_synthetic_logits_is_recovered(temperature):
    generator = np.random.default_rng(0)
    honest = generator.normal(scale=2, size=(5000, 5))
    labels = np.array([generator.choice(5, p=row) for row in softmax(honest, axis=1)])
    assert fit_temperature(honest * temperature, labels) == pytest.approx(temperature, rel=0.06)


def test_temperature_lowers_the_calibration_error_and_keeps_every_prediction():
    generator = np.random.default_rng(1)
    honest = generator.normal(scale=2, size=(2000, 4))
    labels = np.array([generator.choice(4, p=row) for row in softmax(honest, axis=1)])
    logits = honest * 4
    calibrated = logits / fit_temperature(logits, labels)
    before = expected_calibration_error(softmax(logits, axis=1), labels)
    after = expected_calibration_error(softmax(calibrated, axis=1), labels)
    assert before > 0.15
    assert after < before / 4
    np.testing.assert_array_equal(logits.argmax(axis=1), calibrated.argmax(axis=1))


def test_a_set_without_mistakes_claims_no_more_than_its_size_supports():
    labels = np.arange(30) % 3
    logits = np.eye(3)[labels]
    temperature = fit_temperature(logits, labels)
    confidence = softmax(logits / temperature, axis=1).max(axis=1)
    assert TEMPERATURE_BOUNDS[0] <= temperature < 1
    # One pseudo-count among 32, not the certainty that the bare likelihood runs off to.
    np.testing.assert_allclose(confidence, 31 / 32, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_temperature_stays_within_its_bounds(scale):
    labels = np.arange(40) % 2
    logits = np.eye(2)[labels] * scale
    logits[:4] = logits[:4, ::-1]
    low, high = TEMPERATURE_BOUNDS
    assert low <= fit_temperature(logits, labels) <= high


def test_nothing_to_learn_from_leaves_confidence_alone():
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0
    assert fit_temperature(np.ones((10, 3)), np.zeros(10, int)) == 1.0


def test_one_example_gives_a_finite_temperature():
    low, high = TEMPERATURE_BOUNDS
    assert low <= fit_temperature([[3.0, 1.0]], [0]) <= high
    assert low <= fit_temperature([[3.0, 1.0]], [1]) <= high


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[1.0, 2.0]], [0, 1], r"labels of shape \(2,\) with logits of shape \(1, 2\)"),
        ([[1.0]], [0], "two classes or more"),
        ([[1.0, 2.0], [np.nan, 0.0]], [0, 1], r"1 of 2 examples are not finite \(first: example 1"),
        ([[1.0, 2.0]], [2], "integers from 0 to 1"),
        ([[1.0, 2.0]], [0.5], "integers from 0 to 1"),
    ],
)
def test_input_that_does_not_fit_is_refused(logits, labels, message):
    with pytest.raises(DataError, match=message):
        fit_temperature(logits, labels)
