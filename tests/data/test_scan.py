"""Whatever lies on the disk, a scan ends, and every file that dropped out has its reason."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfinetune.data import decode_image, scan
from tfinetune.data.glance import MAX_FILE_BYTES
from tfinetune.data.headers import DAMAGED, NOT_AN_IMAGE, REASONS
from tfinetune.data.pixels import MemoryStore


def _scan(paths, **options):
    store = MemoryStore((8, 8))
    return scan.scan_files(paths, image_size=(8, 8), aspect="crop", store=store, **options)


def _break_read(path):
    raise OSError(5, "Input/output error")


def test_a_file_that_cannot_be_hashed_is_set_aside(photos, monkeypatch):
    paths = sorted((photos / "cat").iterdir())
    original = scan.sha256_file

    def checksum(path):
        return _break_read(path) if path == paths[3] else original(path)

    whole = _scan(paths)
    monkeypatch.setattr(scan, "sha256_file", checksum)
    read = _scan(paths)
    assert read.failures == {3: "the file cannot be read (Input/output error)"}
    rest = [i for i in range(len(paths)) if i != 3]
    assert read.usable.tolist() == rest
    assert read.sha256 == tuple(whole.sha256[i] for i in rest)
    assert (read.pixels.numpy() == whole.pixels.numpy()[rest]).all()
    assert (read.thumbnails == whole.thumbnails[rest]).all()


def test_plain_jpegs_and_all_others_keep_their_order_and_pixels(tmp_path):
    """JPEGs without EXIF data are read first, by a graph of their own."""
    random = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    paths = []
    for index, kind in enumerate(["png", "plain", "turned", "plain", "damaged", "png", "plain"]):
        paths.append(tmp_path / f"{index}.{'png' if kind == 'png' else 'jpg'}")
        photo = Image.fromarray(random.integers(0, 256, (30, 40, 3)).astype(np.uint8))
        photo.save(paths[-1], **({"exif": turned} if kind == "turned" else {}))
        if kind == "damaged":
            paths[-1].write_bytes(paths[-1].read_bytes()[:300])
    read = _scan(paths)
    usable = [0, 1, 2, 3, 5, 6]
    expected = [
        decode_image(paths[index].read_bytes(), image_size=(8, 8), aspect="crop").numpy()
        for index in usable
    ]
    assert read.usable.tolist() == usable
    assert read.failures == {4: REASONS[DAMAGED]}
    assert read.extents.all(axis=1).tolist() == [False, True, False, True, False, True]
    assert read.sha256 == tuple(scan.sha256_file(paths[index]) for index in usable)
    np.testing.assert_array_equal(read.pixels.numpy()[read.rows], expected)
    alone = [_scan([paths[index]]).thumbnails[0] for index in usable]
    np.testing.assert_array_equal(read.thumbnails, alone)
    images, failures = scan.decode_files(paths, image_size=(8, 8), aspect="crop")
    np.testing.assert_array_equal(images[usable], expected)
    assert failures == read.failures


def test_a_bad_file_that_can_no_longer_be_explained_is_set_aside(photos, monkeypatch):
    bad = photos / "cat" / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff")
    monkeypatch.setattr(Path, "read_bytes", _break_read)
    paths = [photos / "cat" / "00.png", bad]
    reason = {1: "the file cannot be read (Input/output error)"}
    assert _scan(paths).failures == reason
    assert scan.decode_files(paths, image_size=(8, 8), aspect="crop")[1] == reason


@pytest.mark.parametrize(
    "beginning", [b"\0\0\0\x14ftypqt  ", b"RIFF\0\0\0\0AVI LIST", b"BM, said the text"]
)
def test_a_large_stray_is_not_read_beyond_its_beginning(photos, monkeypatch, beginning):
    stray = photos / "cat" / "film.mov"
    stray.write_bytes(beginning)
    os.truncate(stray, MAX_FILE_BYTES + 1)
    hashed = []
    monkeypatch.setattr(scan, "sha256_file", lambda path: hashed.append(path) or "digest")
    monkeypatch.setattr(Path, "read_bytes", _break_read)
    read = _scan([photos / "cat" / "00.png", stray])
    assert read.foreign == (1,)
    assert read.failures == {}
    assert hashed == [photos / "cat" / "00.png"]
    claims_image = stray.rename(stray.with_suffix(".jpg"))
    assert _scan([claims_image]).failures == {0: REASONS[NOT_AN_IMAGE]}


def test_an_image_larger_than_the_limit_is_set_aside(photos):
    large = photos / "cat" / "00.png"
    os.truncate(large, MAX_FILE_BYTES + 1)
    assert _scan([large]).failures == {0: "the file is larger than 256 MiB"}


def test_an_interrupted_scan_does_not_hash_the_rest(photos, monkeypatch):
    first, other = photos / "cat" / "00.png", photos / "cat" / "01.png"
    started, release = [], threading.Event()

    def checksum(path):
        if path == other:
            started.append(path)
            release.wait(60)
        return "digest"

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            release.set()
            super().shutdown(wait=wait)

    def interrupt(done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr(scan, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(scan, "sha256_file", checksum)
    paths = [first] * 8 + [other] * 1000
    with pytest.raises(KeyboardInterrupt):
        _scan(paths, progress=interrupt)
    # The pool has at most 32 threads, each of which ends what it was at: 8 files or less.
    assert len(started) <= 32 * 8
