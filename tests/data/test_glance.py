"""The size of a JPEG is read where nothing turns it; in any doubt it takes the way of all files."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tfinetune.data.glance import glance

_PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3)).astype(np.uint8))


def _jpeg(photo: Image.Image = _PHOTO, **options) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _with_segment(marker: int, data: bytes) -> bytes:
    contents = _jpeg()
    return contents[:2] + struct.pack(">HH", marker, 2 + len(data)) + data + contents[2:]


def _announcing(height: int, width: int) -> bytes:
    contents = bytearray(_jpeg())
    frame = contents.index(b"\xff\xc0")
    contents[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(contents)


PLAIN = {
    "baseline": _jpeg(),
    "progressive": _jpeg(progressive=True),
    "grey": _jpeg(_PHOTO.convert("L")),
    "colour profile": _jpeg(icc_profile=bytes(9000)),
    "comment that looks like a frame": _with_segment(0xFFFE, b"\xff\xc0\0\x11\x08\0\x01\0\x01"),
    "XMP": _with_segment(0xFFE1, b"http://ns.adobe.com/xap/1.0/\0Exif\0\0"),
}
OTHER = {
    "EXIF": _jpeg(exif=_turned()),
    "EXIF behind a colour profile": _with_segment(0xFFE2, bytes(9000))[:9006]
    + _jpeg(exif=_turned())[2:],
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "cut off": _jpeg()[:100],
    "unknown marker": _with_segment(0xFF01, b"abcd"),
    "segment of no length": b"\xff\xd8\xff\xe0\0\0" + bytes(40),
    "no height": _announcing(0, 41),
    "too large": _announcing(20_000, 20_000),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", PLAIN)
def test_the_size_of_a_jpeg_without_exif_data_is_read(tmp_path, kind):
    (tmp_path / "photo").write_bytes(PLAIN[kind])
    assert glance(tmp_path / "photo") == (None, (30, 41))


@pytest.mark.parametrize("kind", OTHER)
def test_of_all_other_files_no_size_is_read(tmp_path, kind):
    (tmp_path / "photo").write_bytes(OTHER[kind])
    assert glance(tmp_path / "photo").extent is None
