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
    assert splits.spec.imbalance == pytest.approx(14 / 6)
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


@pytest.mark.parametrize("validation_name", ["val", "Validation", "VALID"])
def test_given_folders_are_used_as_they_are(tmp_path, make_photo, validation_name):
    for name, seed in (("Train", 0), (validation_name, 50), ("test", 90)):
        for label in ("cat", "dog"):
            for i in range(3):
                seed += 1
                make_photo(tmp_path / name / label / f"{i}.png", seed=seed)
    splits = from_image_folder(tmp_path, image_size=8)
    counts = {name: tuple(c.values()) for name, c in splits.spec.counts.items()}
    assert counts == {"train": (3, 3), "validation": (3, 3), "test": (3, 3)}
    assert all(id.startswith("Train/") for id in splits.train.ids)


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
    (photos / "cat" / "noise.jpg").write_bytes(os.urandom(200))
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
    for name in ("cat", "dog"):
        make_photo(root / "val" / name / "new.png", seed=hash(name) % 1000 + 500)
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
