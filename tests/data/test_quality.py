"""Copies of a photo are grouped; photos that merely resemble each other are not."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from tfinetune.data.quality import find_duplicates, perceptual_hash


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [Image.fromarray(photo).resize((320, 214)) for photo in load_sample_images().images]


def _thumbnails(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.array(image.resize((32, 32), Image.Resampling.BOX)) for image in images])


def _members(thumbnails, checksums=None) -> list[tuple[int, ...]]:
    checksums = checksums or [str(i) for i in range(len(thumbnails))]
    return [group.members for group in find_duplicates(thumbnails, checksums)]


def _recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer)


EDITS = {
    "recompressed": _recompressed,
    "resized": lambda image: image.resize((97, 61)),
    "brighter": lambda image: image.point(lambda level: min(255, level + 15)),
    "more contrast": lambda image: image.point(lambda level: level * 1.1),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_copy_is_a_near_duplicate(photos, edit):
    thumbnails = _thumbnails([*photos, EDITS[edit](photos[1])])
    (group,) = find_duplicates(thumbnails, list("abc"))
    assert (group.kind, group.members) == ("near", (1, 2))


def test_files_of_the_same_bytes_are_exact_duplicates(photos):
    thumbnails = _thumbnails([photos[0], photos[1], photos[0]])
    (group,) = find_duplicates(thumbnails, ["same", "other", "same"])
    assert (group.kind, group.members) == ("exact", (0, 2))


def test_a_mirrored_photo_is_not_a_duplicate(photos):
    mirrored = photos[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert _members(_thumbnails([photos[0], mirrored])) == []


def test_flat_photos_are_duplicates_only_of_their_own_colour():
    colours = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (128, 0, 0), (128, 128, 128)]
    thumbnails = np.array([np.full((32, 32, 3), colour, np.uint8) for colour in colours])
    assert _members(thumbnails) == [(2, 4)]


def test_a_flat_photo_is_no_duplicate_of_a_structured_one(photos):
    mean = np.array(photos[0]).mean(axis=(0, 1)).astype(np.uint8)
    flat = np.full((1, 32, 32, 3), mean, np.uint8)
    assert _members(np.concatenate([_thumbnails(photos[:1]), flat])) == []


def test_handwritten_digits_are_not_chained_together():
    """Tiny images of few shapes: by the hash alone, 45 of them make one group."""
    digits = (load_digits().images * 255 / 16).astype(np.uint8)
    enlarged = digits.repeat(4, axis=1).repeat(4, axis=2)[..., None].repeat(3, axis=-1)
    groups = _members(enlarged)
    assert max(map(len, groups)) <= 3
    assert sum(map(len, groups)) <= 0.01 * len(digits)


def test_thousands_of_views_of_one_scene_are_one_group_in_little_memory(photos):
    random = np.random.default_rng(0)
    scene = np.repeat(_thumbnails(photos[:1]), 3000, axis=0).astype(np.int16)
    views = np.clip(scene + random.integers(-2, 3, scene.shape), 0, 255).astype(np.uint8)
    other = _thumbnails(photos[1:])
    tracemalloc.start()
    (group,) = _members(np.concatenate([other, views]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert group == tuple(range(1, 3001))
    # The thumbnails' spectra take 50 MB; a list of all pairs would take three times that.
    assert peak < 100e6


def test_nothing_is_found_in_nothing():
    assert _members(np.empty((0, 32, 32, 3), np.uint8)) == []


def test_a_hash_ignores_brightness(photos):
    thumbnail = _thumbnails([photos[0]]) // 2
    distance = np.bitwise_count(perceptual_hash(thumbnail) ^ perceptual_hash(thumbnail + 20))
    assert distance[0] <= 2
