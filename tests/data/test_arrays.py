"""Data sets in memory: divided like folders, images and other inputs alike."""

import numpy as np
import pytest

from tfinetune.data import from_arrays
from tfinetune.errors import DataError

RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(40, 3)).astype("float32")
NAMES = np.array(["b", "a"] * 20)


def test_table_is_divided_and_batched_in_order():
    splits = from_arrays(TABLE, NAMES, validation=0.2, test=0.2)
    assert splits.spec.class_names == ("a", "b")
    assert splits.spec.image_size is None
    assert [len(split) for split in splits] == [24, 8, 8]
    rows = np.array(splits.train.ids, int)
    values, labels = next(iter(splits.train.dataset(50, epoch=0)))
    np.testing.assert_array_equal(values, TABLE[rows])
    np.testing.assert_array_equal(labels, (NAMES[rows] == "b").astype(int))


def test_several_inputs_come_as_a_dict_shuffled_alike():
    features = {"table": TABLE, "words": np.array([f"word {i}" for i in range(40)])}
    splits = from_arrays(features, NAMES, validation=0, test=0)
    assert splits.spec.inputs["words"].kind == "text"
    values, labels = next(iter(splits.train.dataset(40, epoch=1, shuffle=True)))
    order = [int(word.decode().split()[1]) for word in values["words"].numpy()]
    assert sorted(order) == list(range(40)) and order != list(range(40))
    np.testing.assert_array_equal(values["table"], TABLE[order])
    np.testing.assert_array_equal(labels, (NAMES[order] == "b").astype(int))


def test_grey_images_become_photos_that_augment():
    images = RANDOM.integers(0, 256, (20, 8, 6, 1)).astype("uint8")
    splits = from_arrays(images, [0, 1] * 10, class_names=["no", "yes"], test=0)
    assert splits.spec.image_size == (8, 6)
    rows = np.array(splits.train.ids, int)
    np.testing.assert_array_equal(splits.train.images(), images[rows].repeat(3, axis=-1))
    plain, _ = next(iter(splits.train.dataset(5, epoch=0)))
    views, _ = next(iter(splits.train.dataset(5, epoch=0, augment="standard")))
    assert plain.shape == views.shape == (5, 8, 6, 3)
    assert np.abs(plain - views).max() > 1


def test_equal_rows_stay_on_one_side_and_the_seed_decides():
    table = np.concatenate([TABLE[:30], TABLE[:10]])
    labels = np.array([0, 1] * 15 + [0, 1] * 5)
    splits = from_arrays(table, labels, seed=3)
    assert len(splits.duplicates) == 10
    assert all(len(group.splits) == 1 for group in splits.duplicates)
    again, other = from_arrays(table, labels, seed=3), from_arrays(table, labels, seed=4)
    assert splits.spec.fingerprint == again.spec.fingerprint != other.spec.fingerprint


def test_a_changed_value_changes_the_fingerprint():
    changed = TABLE.copy()
    changed[7, 0] += 1
    first, second = (from_arrays(t, NAMES, validation=0, test=0) for t in (TABLE, changed))
    assert first.train.fingerprint != second.train.fingerprint


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (TABLE, NAMES[:5], "received rows: input 40, labels 5"),
        ({"a": TABLE, "b": TABLE[:4]}, NAMES, "rows: a 40, b 4, labels 40"),
        (np.where(TABLE > 2, np.nan, TABLE), NAMES, "not finite"),
        (TABLE, ["same"] * 40, "one class only"),
        (TABLE.astype(complex), NAMES, "Allowed: numbers"),
        (TABLE, TABLE, "one class for each example"),
        (np.float32(1), NAMES, "single value"),
        (RANDOM.uniform(0, 1, (40, 4, 4, 3)), NAMES, r"0\.\.255; these run from"),
        ({}, NAMES, "Every array needs one row"),
    ],
)
def test_unusable_arrays_are_clear_errors(features, labels, message):
    with pytest.raises(DataError, match=message):
        from_arrays(features, labels)


def test_indices_outside_the_class_names_are_refused():
    with pytest.raises(DataError, match="from 0 to 1"):
        from_arrays(TABLE, [0, 2] * 20, class_names=["a", "b"])
    with pytest.raises(DataError, match="No example is of the class 'c'"):
        from_arrays(TABLE, [0, 1] * 20, class_names=["a", "b", "c"])


def test_views_of_a_table_are_refused():
    splits = from_arrays(TABLE, NAMES)
    with pytest.raises(DataError, match="no photos: augment='light'"):
        splits.train.dataset(4, augment="light")
    with pytest.raises(DataError, match="are arrays, not photos"):
        splits.train.images()
