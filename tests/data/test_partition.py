"""Every class is held out in its share, and groups stay together."""

import numpy as np
import pytest

from tfinetune.data.partition import partition

FRACTIONS = {"validation": 0.15, "test": 0.15}


def _counts(labels, parts):
    return [np.bincount(labels[parts == part], minlength=labels.max() + 1) for part in range(3)]


def test_every_class_is_held_out_in_its_share():
    labels = np.repeat([0, 1, 2], [100, 40, 7])
    parts = partition(labels, groups=[], fractions=FRACTIONS, seed=0)
    train, validation, test = _counts(labels, parts)
    np.testing.assert_array_equal(train, [70, 28, 5])
    np.testing.assert_array_equal(validation, [15, 6, 1])
    np.testing.assert_array_equal(test, [15, 6, 1])


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together_and_no_class_leaves_training(seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, 200)
    order = generator.permutation(200)
    groups = [order[i : i + 3].tolist() for i in range(0, 150, 3)]
    parts = partition(labels, groups=groups, fractions=FRACTIONS, seed=seed)
    assert all(len(set(parts[group])) == 1 for group in groups)
    train, validation, test = _counts(labels, parts)
    assert train.min() >= 1
    for held_out in (validation, test):
        share = held_out / np.bincount(labels)
        assert np.all((share > 0.05) & (share < 0.19)), share


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1))])
def test_a_small_class_trains_first_then_validates_then_tests(count, expected):
    labels = np.array([0] * 50 + [1] * count)
    parts = partition(labels, groups=[], fractions=FRACTIONS, seed=0)
    assert tuple(counts[1] for counts in _counts(labels, parts)) == expected


def test_a_class_of_copies_of_one_photo_trains():
    labels = np.array([0] * 50 + [1] * 5)
    parts = partition(labels, groups=[list(range(50, 55))], fractions=FRACTIONS, seed=0)
    assert set(parts[50:]) == {0}


def test_the_seed_decides():
    labels = np.repeat([0, 1], 50)
    parts = [partition(labels, groups=[], fractions=FRACTIONS, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(parts[0], parts[1])
    assert np.any(parts[0] != parts[2])


def test_nothing_is_held_out_where_nothing_is_asked():
    parts = partition(np.repeat([0, 1], 5), groups=[], fractions={"validation": 0.0}, seed=0)
    assert set(parts) == {0}
