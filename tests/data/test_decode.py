"""The decoder agrees with Pillow on every supported kind of file and survives all others."""

import io
import struct
import subprocess
import sys
import textwrap
import zlib
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tfinetune.data import REASONS, decode_image, inspect_header, try_decode_image

HEIGHT, WIDTH = 24, 33  # odd, so that rows need padding in a BMP


@tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.string)])
def _stretch(contents):
    return try_decode_image(contents, image_size=(HEIGHT, WIDTH), aspect="stretch")


_inspect = tf.function(
    inspect_header, autograph=False, input_signature=[tf.TensorSpec([], tf.string)]
)


def _reason(contents: bytes) -> str:
    return REASONS[int(_inspect(contents))]


def _photo(height=HEIGHT, width=WIDTH) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / width, y * 255 / height, (x + y) * 255 / (height + width)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def _with_alpha() -> Image.Image:
    alpha = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    return Image.fromarray(np.dstack([np.array(_photo()), alpha]))


def _save(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _by_pillow(contents: bytes) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(contents))).convert("RGBA")
    canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
    canvas.alpha_composite(image)
    return np.array(canvas.convert("RGB"))


def _exif(orientation: int, order: str) -> bytes:
    magic = b"II" if order == "<" else b"MM"
    header = magic + struct.pack(f"{order}HIH", 42, 8, 2)
    make = struct.pack(f"{order}HHI4s", 0x010F, 2, 4, b"abc\0")
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + header + make + entry + b"\0" * 4


def _top_down_bmp() -> bytes:
    contents = bytearray(_save(_photo().transpose(Image.Transpose.FLIP_TOP_BOTTOM), "BMP"))
    contents[22:26] = struct.pack("<i", -HEIGHT)
    return bytes(contents)


def _small_gif_frame() -> bytes:
    """A frame of 4x5 at (6, 7) on the canvas, whose first colour is transparent."""
    frame = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5) % 3, "P")
    frame.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    contents = bytearray(_save(frame, "GIF", transparency=0))
    contents[6:10] = struct.pack("<HH", WIDTH, HEIGHT)
    start = contents.index(b"\x2c")
    contents[start + 1 : start + 5] = struct.pack("<HH", 6, 7)
    return bytes(contents)


KINDS = {
    "jpeg": lambda: _save(_photo(), "JPEG", quality=95),
    "jpeg grey": lambda: _save(_photo().convert("L"), "JPEG"),
    "jpeg progressive": lambda: _save(_photo(), "JPEG", progressive=True),
    "jpeg cmyk": lambda: _save(_photo().convert("CMYK"), "JPEG"),
    "png": lambda: _save(_photo(), "PNG"),
    "png grey": lambda: _save(_photo().convert("L"), "PNG"),
    "png 1-bit": lambda: _save(_photo().convert("1"), "PNG"),
    "png 1-bit transparent": lambda: _save(_photo().convert("1"), "PNG", transparency=0),
    "png palette": lambda: _save(_photo().quantize(9), "PNG"),
    "png palette transparent": lambda: _save(_photo().quantize(9), "PNG", transparency=3),
    "png rgb transparent": lambda: _save(_photo(), "PNG", transparency=(0, 0, 0)),
    "png rgba": lambda: _save(_with_alpha(), "PNG"),
    "png grey alpha": lambda: _save(_with_alpha().convert("LA"), "PNG"),
    "png exif": lambda: _save(_photo(WIDTH, HEIGHT), "PNG", exif=_exif(6, "<")),
    "gif": lambda: _save(_photo().quantize(64), "GIF"),
    "gif interlaced": lambda: _save(_photo().quantize(64), "GIF", interlace=1),
    "gif transparent": lambda: _save(_photo().quantize(64), "GIF", transparency=5),
    "gif animated": lambda: _save(
        _photo(), "GIF", save_all=True, append_images=[_photo().rotate(90), _photo().rotate(180)]
    ),
    "bmp 24": lambda: _save(_photo(), "BMP"),
    "bmp 32": lambda: _save(_with_alpha(), "BMP"),
    "bmp grey": lambda: _save(_photo().convert("L"), "BMP"),
    "bmp top-down": _top_down_bmp,
    "webp": lambda: _save(_photo(), "WEBP"),
    "webp lossless": lambda: _save(_photo(), "WEBP", lossless=True),
    "webp alpha": lambda: _save(_with_alpha(), "WEBP"),
    "webp lossless alpha": lambda: _save(_with_alpha(), "WEBP", lossless=True),
    "webp exif": lambda: _save(_photo(WIDTH, HEIGHT), "WEBP", exif=_exif(8, ">")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_equal_pillows_over_white(kind):
    contents = KINDS[kind]()
    image, valid = _stretch(contents)
    assert valid
    assert _reason(contents) == "ok"
    np.testing.assert_allclose(image.numpy().astype(int), _by_pillow(contents), atol=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_of_a_jpeg_is_undone(orientation, order):
    photo = _photo() if orientation < 5 else _photo(WIDTH, HEIGHT)
    contents = _save(photo, "JPEG", exif=_exif(orientation, order))
    image, valid = _stretch(contents)
    assert valid
    np.testing.assert_allclose(image.numpy().astype(int), _by_pillow(contents), atol=1)


def test_16_bit_png_keeps_its_high_byte():
    grey = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    image, valid = _stretch(_save(Image.fromarray(grey), "PNG"))
    assert valid
    expected = np.repeat((grey / 257)[..., None], 3, axis=-1)
    np.testing.assert_allclose(image.numpy(), expected, atol=1)


def test_what_a_gif_frame_leaves_bare_is_white():
    image, valid = _stretch(_small_gif_frame())
    assert valid
    expected = np.full((HEIGHT, WIDTH, 3), 255)
    palette = np.array([[255, 255, 255], [255, 0, 0], [0, 255, 0]])
    expected[7:11, 6:11] = palette[np.arange(20).reshape(4, 5) % 3]
    np.testing.assert_array_equal(image, expected)


# An opaque animated WebP kills the process if it is decoded: passing means that it was not.
REFUSED = {
    "empty": (lambda: b"", "the file is empty"),
    "text": (lambda: b"class,photo\n" * 9, "not an image"),
    "wave": (lambda: b"RIFF\x24\0\0\0WAVEfmt ", "not an image"),
    "tiff": (lambda: _save(_photo(), "TIFF"), "TIFF"),
    "heic": (lambda: b"\0\0\0\x18ftypheic" + b"\0" * 90, "HEIC"),
    "animated webp": (
        lambda: _save(_photo(), "WEBP", save_all=True, append_images=[_photo().rotate(90)]),
        "animated WebP",
    ),
    "bmp palette": (lambda: _save(_photo().quantize(9), "BMP"), "BMP"),
    "bmp 1-bit": (lambda: _save(_photo().convert("1"), "BMP"), "BMP"),
    "jpeg 12-bit": (lambda: b"\xff\xd8\xff\xc1\0\x11\x0c\0\x10\0\x10\3" + b"\0" * 30, "12-bit"),
    "jpeg without a frame": (lambda: b"\xff\xd8\xff\xd9", "damaged"),
    "png of no height": (
        lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\0\x08\2\0\0\0" + b"\0" * 9,
        "damaged",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unsupported_content_is_named_and_never_decoded(kind):
    build, reason = REFUSED[kind]
    contents = build()
    assert reason in _reason(contents)
    image, valid = _stretch(contents)
    assert not valid
    assert np.count_nonzero(image) == 0


def _bomb(side: int) -> bytes:
    """A tiny PNG that announces side x side pixels and holds almost none."""

    def chunk(tag, data):
        body = tag + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7_072, 20_000, 2**31 - 1])
def test_images_of_too_many_pixels_are_refused_from_the_header(side):
    assert "50,000,000 pixels" in _reason(_bomb(side))
    assert not _stretch(_bomb(side))[1]


def test_a_jpeg_of_too_many_pixels_is_refused_before_decoding():
    contents = bytearray(_save(_photo(), "JPEG"))
    frame = contents.index(b"\xff\xc0")
    contents[frame + 5 : frame + 9] = struct.pack(">HH", 20_000, 20_000)
    assert "50,000,000 pixels" in _reason(bytes(contents))
    with pytest.raises(tf.errors.InvalidArgumentError, match="50,000,000 pixels"):
        decode_image(bytes(contents), image_size=(8, 8), aspect="crop")


@pytest.mark.parametrize("kind", ["jpeg", "png rgba", "gif", "bmp 24", "webp alpha"])
def test_truncated_and_mutated_files_never_raise(kind):
    contents = KINDS[kind]()
    generator = np.random.default_rng(0)
    for length in [*range(1, 40), len(contents) // 3, len(contents) // 2]:
        assert not _stretch(contents[:length])[1], length
    for _ in range(40):
        mutated = bytearray(contents)
        for position in generator.integers(0, min(len(contents), 120), 3):
            mutated[position] = generator.integers(256)
        if "animated" not in _reason(bytes(mutated)):
            _stretch(bytes(mutated))


def test_random_bytes_after_any_signature_never_raise():
    generator = np.random.default_rng(1)
    signatures = [
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"GIF89a",
        b"BM",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"II*\0",
    ]
    for signature in signatures:
        for _ in range(10):
            assert not _stretch(signature + generator.bytes(300))[1]


def test_decode_image_says_why_it_refuses():
    with pytest.raises(tf.errors.InvalidArgumentError, match="palette, 1-bit"):
        decode_image(REFUSED["bmp palette"][0](), image_size=(8, 8), aspect="crop")


def test_crop_takes_the_centre():
    photo = np.zeros((20, 60, 3), np.uint8)
    photo[:, 20:40] = 200
    contents = _save(Image.fromarray(photo), "PNG")
    image = decode_image(contents, image_size=(10, 10), aspect="crop")
    np.testing.assert_array_equal(image, np.full((10, 10, 3), 200))


def test_pad_keeps_all_between_black_bars():
    contents = _save(Image.fromarray(np.full((20, 60, 3), 200, np.uint8)), "PNG")
    image = decode_image(contents, image_size=(30, 30), aspect="pad").numpy()
    np.testing.assert_array_equal(image[10:20], 200)
    np.testing.assert_array_equal(image[:10], 0)
    np.testing.assert_array_equal(image[20:], 0)


def test_a_photo_of_one_pixel_is_enlarged():
    contents = _save(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")
    for aspect in ("crop", "pad", "stretch"):
        image = decode_image(contents, image_size=(6, 4), aspect=aspect)
        assert image.shape == (6, 4, 3)
        np.testing.assert_array_equal(image[3, 2], [9, 8, 7])


def test_large_jpegs_decoded_at_reduced_scale_match_full_decoding():
    y, x = np.mgrid[0:2100, 0:2200]
    waves = 127 + 80 * np.sin(x / 40)[..., None] * np.cos(y[..., None] / np.array([30, 50, 70]))
    contents = _save(Image.fromarray(waves.astype(np.uint8)), "JPEG", quality=95)
    image = decode_image(contents, image_size=(96, 96), aspect="stretch").numpy()
    reference = tf.io.decode_jpeg(contents, channels=3)
    reference = tf.image.resize(reference, (96, 96), antialias=True).numpy()
    assert _decibels(image, reference) > 40


@pytest.mark.parametrize("aspect", ["stretch", "pad"])
@pytest.mark.parametrize(("height", "width"), [(375, 500), (333, 501), (1021, 1033)])
def test_a_jpeg_that_ends_within_a_reduced_row_is_not_moved(height, width, aspect):
    """Were rows moved by up to half of one, this would be 37 dB or less."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / k) * np.cos(y / k) for k in (6, 7, 8)], axis=-1)
    photo = Image.fromarray((127 + 100 * waves).astype(np.uint8))
    contents = _save(photo, "JPEG", quality=98, subsampling=0)
    image_size = (150, 160)
    image = decode_image(contents, image_size=image_size, aspect=aspect).numpy()
    whole = decode_image(_save(photo, "PNG"), image_size=image_size, aspect=aspect).numpy()
    assert _decibels(image, whole) > 44


def _decibels(image, reference) -> float:
    error = np.mean((np.asarray(image, float) - np.asarray(reference, float)) ** 2)
    return 10 * np.log10(255**2 / error)


@pytest.mark.parametrize(("side", "gain"), [(96, 6), (160, 5), (224, 4)])
def test_real_photos_come_nearer_to_an_antialiased_resize_than_keras_does(shared, side, gain):
    """Keras's `image_dataset_from_directory` decodes whole photos and samples them bilinearly."""
    photos = [
        *sorted((shared / "data/trash").glob("*/*"))[::90],
        *sorted((shared / "data/clothing/train").glob("*/*"))[::90],
    ]
    assert len(photos) > 10
    image_size = (side, side)
    ours, keras = [], []
    for contents in (photo.read_bytes() for photo in photos):
        whole = tf.io.decode_jpeg(contents, channels=3)
        reference = tf.image.resize(whole, image_size, antialias=True)
        image = decode_image(contents, image_size=image_size, aspect="stretch")
        ours.append(_decibels(image, reference))
        keras.append(_decibels(tf.image.resize(whole, image_size), reference))
    assert min(ours) > 32
    assert np.median(ours) > np.median(keras) + gain


@pytest.mark.parametrize("size", [(20, 33), (60, 33), (20, 90), (60, 90)])
def test_a_photo_is_averaged_where_it_shrinks_and_interpolated_where_it_does_not(size):
    """Each of these sizes is larger or smaller than the photo in either direction."""
    photo = _photo(40, 60)
    image = decode_image(_save(photo, "PNG"), image_size=size, aspect="stretch").numpy()
    both = size[0] <= 40 and size[1] <= 60
    method = Image.Resampling.BOX if both else Image.Resampling.BILINEAR
    expected = np.asarray(photo.resize(size[::-1], method))
    np.testing.assert_allclose(image.astype(float), expected, atol=2)


@pytest.mark.slow
def test_try_decode_image_serves_a_tf1_session(tmp_path):
    """The route of TF Serving: a fresh process, an exported map over strings, bad rows flagged."""
    import keras

    decode = partial(try_decode_image, image_size=(8, 8), aspect="crop")
    signature = (tf.TensorSpec([8, 8, 3], tf.uint8), tf.TensorSpec([], tf.bool))
    archive = keras.export.ExportArchive()
    archive.add_endpoint(
        "serving_default",
        lambda contents: dict(
            zip(
                ("images", "valid"),
                tf.map_fn(decode, contents, fn_output_signature=signature),
                strict=True,
            )
        ),
        input_signature=[tf.TensorSpec([None], tf.string, name="contents")],
    )
    archive.write_out(str(tmp_path / "model"), verbose=False)
    good = [KINDS[kind]() for kind in ("jpeg", "png rgba", "gif animated", "bmp 24", "webp alpha")]
    rows = [good[0], b"", *good[1:3], good[0][:90], *good[3:], REFUSED["animated webp"][0]()]
    np.save(tmp_path / "rows.npy", np.array([list(r + b"\0" * (9999 - len(r))) for r in rows]))
    (tmp_path / "lengths.txt").write_text(" ".join(str(len(row)) for row in rows))
    script = """
        import sys
        import numpy as np
        import tensorflow as tf
        folder = sys.argv[1]
        lengths = [int(n) for n in open(folder + "/lengths.txt").read().split()]
        table = np.load(folder + "/rows.npy").astype(np.uint8)
        rows = [bytes(row[:n]) for row, n in zip(table, lengths)]
        with tf.compat.v1.Session(graph=tf.Graph()) as session:
            model = tf.compat.v1.saved_model.load(session, ["serve"], folder + "/model")
            endpoint = model.signature_def["serving_default"]
            outputs = {k: v.name for k, v in endpoint.outputs.items()}
            name = endpoint.inputs["contents"].name
            answer = session.run(outputs, {name: np.array(rows, object)})
            empty = session.run(outputs, {name: np.array([], object)})
        assert empty["images"].shape == (0, 8, 8, 3), empty["images"].shape
        assert empty["valid"].shape == (0,)
        np.savez(folder + "/answer.npz", **answer)
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    answer = np.load(tmp_path / "answer.npz")
    assert answer["valid"].tolist() == [True, False, True, True, False, True, True, False]
    for row, image, valid in zip(rows, answer["images"], answer["valid"], strict=True):
        expected = decode(row)[0].numpy() if valid else np.zeros((8, 8, 3))
        np.testing.assert_array_equal(image, expected)
