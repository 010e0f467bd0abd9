"""A folder is read completely: nothing lost, nothing on two sides, every problem said."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tfinetune.data import decode_files, from_image_folder
from tfinetune.errors import DataError


def test_a_folder_of_classes_is_divided_by_class(photos):
    splits = from_image_folder(photos, image_size=(8, 10))
    assert splits.spec.class_names == ("cat", "dog")
    assert splits.spec.counts == {
        "train": {0: 14, 1: 6},
        "validation": {0: 3, 1: 2},
        "test": {0: 3, 1: 2},
    }
    assert splits.train.images().shape == (20, 8, 10, 3)
    ids = [id for split in splits for id in split.ids]
    assert len(set(ids)) == len(ids) == 30
    for split in splits:
        assert [id.split("/")[0] for id in split.ids] == [
            splits.spec.class_names[label] for label in split.labels
        ]


def test_the_same_seed_divides_alike_and_the_fingerprint_tells(photos):
    first, again, other = (from_image_folder(photos, image_size=8, seed=s) for s in (0, 0, 1))
    assert first.train.ids == again.train.ids
    assert first.spec.fingerprint == again.spec.fingerprint
    assert first.train.fingerprint == again.train.fingerprint
    assert first.train.ids != other.train.ids
    assert first.spec.fingerprint != other.spec.fingerprint


@pytest.mark.parametrize(
    "names",
    [("Train", "val", "test"), ("Training", "VALID", "Testing"), ("train", "Validation", "TEST")],
)
def test_given_folders_are_used_as_they_are(tmp_path, make_photo, names):
    for name, seed in zip(names, (0, 50, 90), strict=True):
        for label in ("cat", "dog"):
            for i in range(3):
                seed += 1
                make_photo(tmp_path / name / label / f"{i}.png", seed=seed)
    splits = from_image_folder(tmp_path, image_size=8)
    counts = {name: tuple(c.values()) for name, c in splits.spec.counts.items()}
    assert counts == {"train": (3, 3), "validation": (3, 3), "test": (3, 3)}
    assert all(id.startswith(f"{names[0]}/") for id in splits.train.ids)


def test_a_missing_validation_folder_is_carved_and_a_missing_test_folder_stays_missing(photos):
    (photos.parent / "data").mkdir()
    shutil.move(photos, photos.parent / "data" / "train")
    splits = from_image_folder(photos.parent / "data", image_size=8, validation=0.2)
    assert splits.spec.counts == {"train": {0: 16, 1: 8}, "validation": {0: 4, 1: 2}}
    assert splits.test is None


def test_bad_images_are_set_aside_and_strays_are_counted(photos, make_photo):
    good = (photos / "cat" / "00.png").read_bytes()
    (photos / "cat" / "empty.jpg").touch()
    (photos / "cat" / "cut.png").write_bytes(good[: len(good) // 2])
    (photos / "cat" / "noise.jpg").write_bytes(b"noise" * 40)
    (photos / "cat" / "palette.bmp").write_bytes(b"")
    Image.open(photos / "cat" / "01.png").quantize(9).save(photos / "cat" / "palette.bmp")
    (photos / "cat" / "notes.txt").write_text("not a photo")
    (photos / "cat" / ".hidden.png").write_bytes(good)
    (photos / "cat" / "Thumbs.db").write_bytes(b"x")
    (photos / "README.md").write_text("hello")
    (photos / "__MACOSX").mkdir()
    (photos / "__MACOSX" / "00.png").write_bytes(good)
    make_photo(photos / "cat" / "more" / "deep.png", seed=999)
    (photos / "cat" / "png_named.jpeg").write_bytes(
        make_photo(photos / "x.png", seed=998).read_bytes()
    )
    splits = from_image_folder(photos, image_size=8)
    reasons = {item.path: item.reason for item in splits.quarantine}
    assert sorted(reasons) == ["cat/cut.png", "cat/empty.jpg", "cat/noise.jpg", "cat/palette.bmp"]
    assert "empty" in reasons["cat/empty.jpg"]
    assert "truncated" in reasons["cat/cut.png"]
    assert "not an image" in reasons["cat/noise.jpg"]
    assert "palette" in reasons["cat/palette.bmp"]
    assert splits.ignored == 6
    assert set(splits.ignored_examples) == {
        "README.md",
        "__MACOSX/00.png",
        "cat/.hidden.png",
        "cat/Thumbs.db",
        "cat/notes.txt",
        "x.png",
    }
    ids = {id for split in splits for id in split.ids}
    assert {"cat/more/deep.png", "cat/png_named.jpeg"} <= ids
    assert len(ids) == 32


def test_a_pipe_does_not_hang_the_scan(photos):
    os.mkfifo(photos / "cat" / "pipe.jpg")
    (item,) = from_image_folder(photos, image_size=8).quarantine
    assert item.reason == "it is not a regular file"


@pytest.mark.parametrize("seed", range(3))
def test_duplicates_never_straddle_a_carved_split(photos, seed):
    for i in range(6):
        shutil.copy(photos / "cat" / f"{i:02}.png", photos / "cat" / f"copy{i}.png")
        Image.open(photos / "dog" / f"{i:02}.png").resize((40, 32)).save(
            photos / "dog" / f"large{i}.png"
        )
    splits = from_image_folder(photos, image_size=8, validation=0.3, test=0.3, seed=seed)
    assert sorted(group.kind for group in splits.duplicates) == ["exact"] * 6 + ["near"] * 6
    assert all(len(group.splits) == 1 for group in splits.duplicates)
    where = {id: split.name for split in splits for id in split.ids}
    for i in range(6):
        assert where[f"cat/{i:02}.png"] == where[f"cat/copy{i}.png"]
        assert where[f"dog/{i:02}.png"] == where[f"dog/large{i}.png"]


def test_duplicates_across_given_folders_are_listed_and_stay(photos, make_photo):
    root = photos.parent / "data"
    root.mkdir()
    shutil.move(photos, root / "train")
    for name, seed in (("cat", 500), ("dog", 600)):
        make_photo(root / "val" / name / "new.png", seed=seed)
    shutil.copy(root / "train" / "cat" / "03.png", root / "val" / "dog" / "copy.png")
    splits = from_image_folder(root, image_size=8)
    (group,) = splits.duplicates
    assert group.ids == ("train/cat/03.png", "val/dog/copy.png")
    assert group.splits == ("train", "validation")
    assert group.conflicting_labels
    assert "val/dog/copy.png" in splits.validation.ids


def test_a_class_too_small_to_hold_out_is_noted(photos, make_photo):
    make_photo(photos / "fox" / "only.png", seed=700)
    splits = from_image_folder(photos, image_size=8)
    assert "fox/only.png" in splits.train.ids
    (note,) = splits.notes
    assert "'fox'" in note
    assert "none in validation and test" in note


def test_a_class_of_near_duplicates_is_noted_with_the_reason(photos):
    for i in range(9):
        image = Image.open(photos / "dog" / "00.png").resize((40 + i, 32))
        image.save(photos / "dog" / f"{i + 1:02}.png")
    (note,) = from_image_folder(photos, image_size=8).notes
    assert "'dog'" in note
    assert "its 10 examples are copies or near-duplicates" in note
    assert "none in validation and test" in note


def test_a_class_that_a_given_folder_lacks_is_noted(photos):
    root = photos.parent / "data"
    shutil.copytree(photos, root / "train")
    shutil.copytree(photos / "cat", root / "test" / "cat")
    splits = from_image_folder(root, image_size=8)
    assert splits.notes == (
        "The given test folder has no photo of class 'dog': nothing is measured for it there.",
    )


def test_names_that_are_not_utf8_are_read_and_spelled_out(photos):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        shutil.move(photos / "cat" / "00.png", photos / "cat" / name)
    except OSError:
        pytest.skip("this file system stores only UTF-8 names")
    (photos / "cat" / os.fsdecode(b"\xe9.jpg")).touch()
    for memory_limit in (0, 2**30):
        splits = from_image_folder(photos, image_size=8, memory_limit=memory_limit)
        assert splits.quarantine[0].path == r"cat/\xe9.jpg"
        (split,) = (split for split in splits if r"cat/caf\xe9.png" in split.ids)
        images = np.concatenate([images for images, _ in split.dataset(8)])
        np.testing.assert_array_equal(images, split.images())


def test_pixels_are_kept_where_they_fit_twice(photos):
    size = 30 * 8 * 8 * 3
    for memory_limit, kept in ((2 * size, True), (2 * size - 1, False)):
        splits = from_image_folder(photos, image_size=8, memory_limit=memory_limit)
        assert (splits.train.examples.pixels is not None) is kept


def test_an_image_size_may_be_a_numpy_number(photos):
    for image_size in (np.int64(8), np.array([8, 8]), [8, 8]):
        size = from_image_folder(photos, image_size=image_size).spec.image_size
        assert size == (8, 8)
        assert all(type(side) is int for side in size)


def test_a_class_folder_that_cannot_be_listed_is_an_error(photos, monkeypatch):
    scandir = os.scandir

    def refuse_dog(path):
        if os.path.basename(path) in ("dog", ".cache"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_dog)
    (photos / "cat" / ".cache").mkdir()
    with pytest.raises(DataError, match=r"Cannot read the folder .*dog: Permission denied"):
        from_image_folder(photos, image_size=8)


def test_unicode_class_names_are_normalized_and_sorted(tmp_path, make_photo):
    for label, name in enumerate(("ZEBRA", "e\u0301toile", "猫")):
        for i in range(4):
            make_photo(tmp_path / name / f"{i}.png", seed=10 * label + i)
    assert from_image_folder(tmp_path, image_size=8).spec.class_names == (
        "ZEBRA",
        "\u00e9toile",
        "猫",
    )


def _only_cats(photos):
    shutil.rmtree(photos / "dog")


def _no_good_dog(photos):
    for path in (photos / "dog").iterdir():
        path.write_bytes(b"\xff\xd8\xff")


def _empty_fox(photos):
    (photos / "fox").mkdir()


def _videos_of_fox(photos):
    (photos / "fox").mkdir()
    (photos / "fox" / "fox.mp4").write_bytes(b"\0\0\0\x18ftypisom")


def _no_training_folder(photos):
    for name in ("Val", "Testing"):
        shutil.copytree(photos / "cat", photos / name / "cat")
        shutil.copytree(photos / "dog", photos / name / "dog")
    for name in ("cat", "dog"):
        shutil.rmtree(photos / name)


def _nothing(photos):
    shutil.rmtree(photos)
    photos.mkdir()


def _all_bad(photos):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")


def _unknown_in_validation(photos):
    shutil.copytree(photos, photos / "train")
    for name in ("cat", "dog"):
        shutil.move(photos / name, photos / "val" / name)
    (photos / "val" / "dog").rename(photos / "val" / "fox")


def _mixed(photos):
    shutil.copytree(photos / "cat", photos / "train" / "cat")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_only_cats, "one class only, 'cat'"),
        (_no_good_dog, "1 of 2 classes .* no usable photo: dog"),
        (_empty_fox, "1 of 3 classes .* no usable photo: fox.* fox holds no image file"),
        (_videos_of_fox, "1 of 3 classes .* no usable photo: fox.* fox holds no image file"),
        (_no_training_folder, "has no photo to train on"),
        (_nothing, "No photo was found"),
        (_all_bad, "No photo .* can be used: 30 images .* the file is empty"),
        (_unknown_in_validation, "in the train folder: fox"),
        (_mixed, "split folders beside others: cat, dog"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_an_unusable_folder_is_a_clear_error(photos, spoil, message):
    spoil(photos)
    with pytest.raises(DataError, match=message):
        from_image_folder(photos, image_size=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 0.5, "test": 0.5}, "less than 1"),
        ({"validation": -0.1}, "0 or more"),
        ({"aspect": "squeeze"}, "Known: crop, pad, stretch"),
        ({"image_size": 0}, "not a size"),
        ({"image_size": (8, 8, 3)}, "not a size"),
        ({"image_size": 8.5}, "not a size"),
        ({"seed": -1}, "seed=-1 .* 0 or more"),
    ],
)
def test_arguments_out_of_range_are_refused(photos, arguments, message):
    with pytest.raises(DataError, match=message):
        from_image_folder(photos, **arguments)


def test_decode_files_reports_each_bad_file_and_progress(photos):
    bad = photos / "cat" / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    good = photos / "cat" / "00.png"
    paths = [good, photos / "absent.png", bad, photos, photos / "dog" / "00.png"]
    steps = []
    images, failures = decode_files(
        paths, image_size=(8, 8), aspect="crop", progress=lambda done, total: steps.append(done)
    )
    assert list(failures) == [1, 2, 3]
    assert "No such file" in failures[1]
    assert failures[3] == "it is not a regular file"
    assert np.count_nonzero(images[[1, 2, 3]]) == 0
    np.testing.assert_array_equal(
        images[[0]], decode_files([good], image_size=(8, 8), aspect="crop")[0]
    )
    assert steps == sorted(steps)
    assert steps[-1] == 5
    assert decode_files([], image_size=(8, 8), aspect="crop")[0].shape == (0, 8, 8, 3)


@pytest.mark.slow
def test_trash_is_read_whole(shared):
    splits = from_image_folder(shared / "data" / "trash", image_size=64)
    assert sum(map(len, splits)) == 1011
    assert splits.quarantine == ()
    assert splits.ignored == 0
    assert max((len(group.ids) for group in splits.duplicates), default=0) <= 3
