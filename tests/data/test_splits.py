"""Batches are plain tf.data, stateless in seed, epoch and example, from memory and from files."""

import resource
import signal

import numpy as np
import pytest
import tensorflow as tf

from tfinetune.data import from_image_folder
from tfinetune.data.pixels import DiskStore
from tfinetune.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_photo):
    root = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("cat", "dog")):
        for i in range(11):
            make_photo(root / name / f"{i:02}.png", seed=100 * label + i)
    return root


@pytest.fixture(scope="module")
def split(folder):
    return from_image_folder(folder, image_size=12, validation=0, test=0).train


@pytest.fixture(scope="module")
def split_of_files(folder):
    return from_image_folder(folder, image_size=12, validation=0, test=0, memory_limit=0).train


@pytest.fixture(scope="module")
def split_on_disk(folder, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch")
    train = from_image_folder(
        folder, image_size=12, validation=0, test=0, memory_limit=0, scratch=scratch
    ).train
    assert list(scratch.iterdir()) == []  # the file has no name
    return train


def _batches(dataset):
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def _assert_same(first, second):
    assert len(first) == len(second)
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


RANDOM = {"shuffle": True, "augment": "standard", "seed": 3}


def test_plain_batches_are_the_photos_in_order(split):
    batches = _batches(split.dataset(8))
    assert [len(labels) for _, labels in batches] == [8, 8, 6]
    assert split.steps(8) == 3
    images = np.concatenate([images for images, _ in batches])
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, split.images())
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), split.labels)


def test_memory_disk_and_files_give_identical_batches(split, split_on_disk, split_of_files):
    assert isinstance(split.examples.pixels, tf.Tensor)
    assert isinstance(split_on_disk.examples.pixels, np.memmap)
    assert split_of_files.examples.pixels is None
    expected = _batches(split.dataset(8, epoch=2, epochs=2, start=1, **RANDOM))
    for other in (split_on_disk, split_of_files):
        np.testing.assert_array_equal(split.images(), other.images())
        _assert_same(expected, _batches(other.dataset(8, epoch=2, epochs=2, start=1, **RANDOM)))


def test_jpegs_read_from_files_are_those_kept_in_memory(tmp_path, make_photo):
    """Their sizes were read with the folder, and what follows from them was planned then."""
    for index, size in enumerate([(40, 30), (375, 500), (301, 299), (520, 700), (16, 16)]):
        make_photo(tmp_path / f"class {index % 2}" / f"{index}.jpg", seed=index, size=size)
    options = {"image_size": (24, 40), "aspect": "crop", "validation": 0, "test": 0}
    kept = from_image_folder(tmp_path, **options).train
    files = from_image_folder(tmp_path, memory_limit=0, **options).train
    np.testing.assert_array_equal(kept.images(), files.images())
    order = {"shuffle": True, "epoch": 0, "epochs": 2}
    _assert_same(_batches(kept.dataset(3, **order)), _batches(files.dataset(3, **order)))


def test_a_jpeg_that_was_replaced_by_one_of_another_size_is_refused(tmp_path, make_photo):
    for index in range(4):
        make_photo(tmp_path / f"class {index % 2}" / f"{index}.jpg", seed=index)
    files = from_image_folder(
        tmp_path, image_size=8, validation=0, test=0, memory_limit=0
    ).train.dataset(2)
    make_photo(tmp_path / "class 0" / "0.jpg", seed=9, size=(20, 16))
    with pytest.raises(tf.errors.InvalidArgumentError, match="not of the planned size"):
        _batches(files)


def test_photos_that_the_disk_refuses_are_decoded_in_every_epoch(folder, split, tmp_path):
    missing = from_image_folder(
        folder, image_size=12, validation=0, test=0, memory_limit=0, scratch=tmp_path / "missing"
    )
    assert missing.train.examples.pixels is None
    assert "No such file or directory" in missing.notes[-1]
    assert "decoded again in every epoch" in missing.notes[-1]
    np.testing.assert_array_equal(missing.train.images(), split.images())


def test_a_full_disk_is_noticed_and_survived(tmp_path):
    """The system refuses to let the file grow beyond a hundred bytes."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = DiskStore(tmp_path, (4, 4))
    photo = tf.zeros([1, 4, 4, 3], tf.uint8)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        for _ in range(4):
            store.append(photo)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.failure == "File too large"
    assert store.finish() is None


def test_a_chain_of_epochs_equals_the_epochs_one_by_one(split):
    chain = _batches(split.dataset(8, epoch=4, epochs=3, **RANDOM))
    single = [_batches(split.dataset(8, epoch=epoch, **RANDOM)) for epoch in (4, 5, 6)]
    _assert_same(chain, [batch for batches in single for batch in batches])


def test_start_resumes_within_an_epoch(split):
    whole = _batches(split.dataset(8, epoch=0, epochs=2, **RANDOM))
    _assert_same(_batches(split.dataset(8, epoch=0, epochs=2, start=4, **RANDOM)), whole[4:])


def test_an_epoch_holds_every_example_once_whatever_the_batch_size(split):
    keys = {}
    for batch_size in (1, 5, 22, 64):
        batches = _batches(split.dataset(batch_size, epoch=1, shuffle=True))
        images = np.concatenate([images for images, _ in batches])
        keys[batch_size] = images
        order = [np.flatnonzero((split.images() == i).all(axis=(1, 2, 3)))[0] for i in images]
        assert sorted(order) == list(range(len(split)))
    np.testing.assert_array_equal(keys[1], keys[64])


def test_a_view_belongs_to_its_example_not_to_its_place(split):
    """The same photo gets the same view in an epoch whether or not the order is shuffled."""

    def views(shuffle):
        batches = _batches(split.dataset(8, epoch=0, shuffle=shuffle, augment="standard"))
        return sorted(view.sum() for images, _ in batches for view in images)

    np.testing.assert_allclose(views(shuffle=False), views(shuffle=True), rtol=1e-6)


@pytest.mark.parametrize("changed", [{"epoch": 1}, {"seed": 4}])
def test_another_epoch_or_seed_gives_another_order_and_other_views(split, changed):
    first = _batches(split.dataset(64, **({"epoch": 0} | RANDOM)))[0]
    other = _batches(split.dataset(64, **({"epoch": 0} | RANDOM | changed)))[0]
    assert np.any(first[1] != other[1])
    assert np.abs(np.sort(first[0].sum((1, 2, 3))) - np.sort(other[0].sum((1, 2, 3)))).max() > 1


def test_without_an_epoch_every_iteration_differs_reproducibly(split):
    dataset, again = (split.dataset(64, **RANDOM) for _ in range(2))
    iterations = [_batches(dataset) for _ in range(3)]
    for first, second in ((0, 1), (1, 2)):
        assert np.any(iterations[first][0][0] != iterations[second][0][0])
    for iteration in iterations:
        _assert_same(iteration, _batches(again))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"epoch": 0, "epochs": 0}, "epochs=0"),
        ({"epochs": 2}, "needs a first epoch"),
        ({"augment": "wild"}, "Unknown augmentation 'wild'"),
    ],
)
def test_arguments_out_of_range_are_refused(split, arguments, message):
    with pytest.raises(DataError, match=message):
        split.dataset(**arguments)


def test_a_file_that_vanished_is_an_error(photos):
    splits = from_image_folder(photos, image_size=8, memory_limit=0)
    splits.train.paths[0].unlink()
    with pytest.raises(tf.errors.NotFoundError, match="No such file"):
        list(splits.train.dataset(8))
    with pytest.raises(DataError, match="1 photos can no longer be read"):
        splits.train.images()
