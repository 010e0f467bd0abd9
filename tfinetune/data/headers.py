"""Read what an image file says about itself, in graph, before anything is decoded.

The container, the dimensions, the EXIF orientation and the use of alpha are taken from the first
bytes, so that what TensorFlow's decoders would refuse, get wrong, or die of is named and set aside.
Nothing here raises: every read is clamped to the file, every walk is bounded.
"""

from functools import partial
from typing import NamedTuple

import tensorflow as tf

MAX_PIXELS = 50_000_000

OK, EMPTY, NOT_AN_IMAGE, FOREIGN, TOO_LARGE, ANIMATED_WEBP, BMP_KIND, JPEG_KIND, DAMAGED = range(9)
REASONS: tuple[str, ...] = (
    "ok",
    "the file is empty",
    "the content is not an image (no JPEG, PNG, GIF, BMP or WebP signature)",
    "the image is a TIFF, HEIC, AVIF, JPEG XL, JPEG 2000 or Photoshop file; "
    "convert it to JPEG or PNG",
    f"the image has more than {MAX_PIXELS:,} pixels",
    "the image is an animated WebP; save one frame of it as PNG or JPEG",
    "the BMP is of a kind that TensorFlow decodes wrongly (palette, 1-bit, 16-bit or compressed); "
    "save it as PNG",
    "the JPEG is of a kind that TensorFlow does not decode (12-bit, lossless or arithmetic coding)",
    "the image is damaged or truncated",
)

JPEG, PNG, GIF, BMP, WEBP, UNKNOWN = range(6)
JPEG_SIGNATURE = b"\xff\xd8\xff"

# Real photos have tens of segments; a hostile file of four-byte segments would walk for hours.
_MAX_SEGMENTS = 1024
_MAX_EXIF_ENTRIES = 256


class Header(NamedTuple):
    """What the first bytes of an image say: scalar tensors.

    Attributes:
        format: int32, one of `JPEG`, `PNG`, `GIF`, `BMP`, `WEBP`, `UNKNOWN`.
        reason: int32, an index into `REASONS`; 0 where the image may be decoded.
        height, width: int32, in pixels as stored, before EXIF orientation.
        orientation: int32 in 1..8, as EXIF defines it.
        alpha: bool, the decoder must be asked for an alpha channel.
    """

    format: tf.Tensor
    reason: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    orientation: tf.Tensor
    alpha: tf.Tensor


class _Sighting(NamedTuple):
    """As `Header`, but with the place of the EXIF data (0 where there is none)."""

    format: tf.Tensor
    reason: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    exif: tf.Tensor
    alpha: tf.Tensor


class FileBytes:
    """Random access to the bytes of a scalar string tensor; reads past the end give zeros.

    Positions and values are int32: TensorFlow's strings are shorter than 2^31 bytes, and a 32-bit
    number beyond that comes out negative, which no caller accepts as a length.
    """

    _PADDING = 128

    def __init__(self, contents: tf.Tensor) -> None:
        self.size = tf.strings.length(contents)
        self._padded = tf.strings.join([contents, "\0" * self._PADDING])

    def text(self, position: tf.Tensor | int, length: int) -> tf.Tensor:
        """Return `length` bytes from `position` as a scalar string; past the end, up to 128."""
        if not isinstance(position, int):
            position = tf.clip_by_value(position, 0, self.size)
        elif position + length > self._PADDING:
            raise ValueError("a fixed position must lie in the padding of an empty file")
        return tf.strings.substr(self._padded, position, length)

    def matches(self, position: tf.Tensor | int, signature: bytes) -> tf.Tensor:
        return self.text(position, len(signature)) == signature

    def byte(self, position: tf.Tensor | int) -> tf.Tensor:
        return tf.cast(tf.io.decode_raw(self.text(position, 1), tf.uint8)[0], tf.int32)

    def number(self, position: tf.Tensor | int, length: int, *, big_endian: bool) -> tf.Tensor:
        """Return the integer in 2 (unsigned) or 4 (signed) bytes as int32."""
        kind = {2: tf.uint16, 4: tf.int32}[length]
        text = self.text(position, length)
        return tf.cast(tf.io.decode_raw(text, kind, little_endian=not big_endian)[0], tf.int32)

    def words(self, position: tf.Tensor | int, count: int) -> list[tf.Tensor]:
        """Return `count` big-endian 16-bit numbers as scalar int32."""
        text = self.text(position, 2 * count)
        words = tf.cast(tf.io.decode_raw(text, tf.uint16, little_endian=False), tf.int32)
        return tf.unstack(words, num=count)


# The executor visits every node of a branch not taken, too. Calls that are not inlined keep the
# rare branches out of its way, and are traced once for all who call them.
outlined = partial(tf.function, autograph=False, experimental_attributes={"_noinline": True})


@outlined(input_signature=[tf.TensorSpec([], tf.string)])
def read_header(contents: tf.Tensor) -> Header:
    """Read the header of an image.

    Args:
        contents: scalar string, a whole image file (any bytes at all are answered).
    """
    data = FileBytes(contents)
    signatures = [
        data.matches(0, JPEG_SIGNATURE),
        data.matches(0, b"\x89PNG\r\n\x1a\n") & data.matches(12, b"IHDR"),
        data.matches(0, b"GIF87a") | data.matches(0, b"GIF89a"),
        data.matches(0, b"BM") & data.matches(15, b"\0\0\0"),
        data.matches(0, b"RIFF") & data.matches(8, b"WEBP"),
        tf.constant(True),
    ]
    readers = [_read_jpeg, _read_png, _read_gif, _read_bmp, _read_webp, _read_unknown]
    kind = tf.argmax(tf.stack(signatures), output_type=tf.int32)
    seen = _Sighting(*tf.switch_case(kind, [lambda read=read: read(data) for read in readers]))
    height, width = seen.height, seen.width
    too_large = height > MAX_PIXELS // tf.maximum(width, 1)
    size_reason = tf.where((height < 1) | (width < 1), DAMAGED, tf.where(too_large, TOO_LARGE, OK))
    reason = tf.where(seen.reason == OK, size_reason, seen.reason)
    orientation = _exif_orientation(data, seen.exif)
    return Header(seen.format, reason, height, width, orientation, seen.alpha)


def _sighting(
    kind: int,
    *,
    reason: tf.Tensor | int = OK,
    height: tf.Tensor | int = 0,
    width: tf.Tensor | int = 0,
    exif: tf.Tensor | int = 0,
    alpha: tf.Tensor | bool = False,
) -> _Sighting:
    """Make the dtypes agree between the branches of a switch."""
    return _Sighting(
        tf.constant(kind, tf.int32),
        tf.cast(reason, tf.int32),
        tf.cast(height, tf.int32),
        tf.cast(width, tf.int32),
        tf.cast(exif, tf.int32),
        tf.cast(alpha, tf.bool),
    )


def _read_jpeg(data: FileBytes) -> _Sighting:
    def unfinished(position, frame, exif):
        return (frame == 0) & (position < data.size)

    def next_segment(position, frame, exif):
        marker, length, letters, more_letters = data.words(position, 4)
        # C4, C8 and CC lie among the frame markers but are tables.
        is_frame = (
            (marker >= 0xFFC0) & (marker <= 0xFFCF) & ((marker % 4 != 0) | (marker == 0xFFC0))
        )
        is_exif = (marker == 0xFFE1) & (letters == 0x4578) & (more_letters == 0x6966)
        is_end = (marker < 0xFF00) | (marker == 0xFFDA) | (marker == 0xFFD9)
        step = tf.where(is_end, data.size, tf.where(marker == 0xFFFF, 1, 2 + length))
        return (
            position + step,
            tf.where(is_frame, position, frame),
            tf.where(is_exif & (exif == 0), position + 10, exif),
        )

    _, frame, exif = tf.while_loop(
        unfinished,
        next_segment,
        (tf.constant(2), tf.constant(0), tf.constant(0)),
        maximum_iterations=_MAX_SEGMENTS,
    )
    marker, precision, components = (data.byte(frame + i) for i in (1, 4, 9))
    known_components = (components == 1) | (components == 3) | (components == 4)
    decodable = (marker <= 0xC2) & (precision == 8) & known_components
    return _sighting(
        JPEG,
        reason=tf.where(frame == 0, DAMAGED, tf.where(decodable, OK, JPEG_KIND)),
        height=data.number(frame + 5, 2, big_endian=True),
        width=data.number(frame + 7, 2, big_endian=True),
        exif=exif,
    )


def _read_png(data: FileBytes) -> _Sighting:
    transparency, exif = _walk_chunks(data, 8, wanted=(b"tRNS", b"eXIf"), png=True)
    colour_type = data.byte(25)
    return _sighting(
        PNG,
        height=data.number(20, 4, big_endian=True),
        width=data.number(16, 4, big_endian=True),
        exif=exif,
        # Asked for an alpha it does not have, TensorFlow fills that of a 1-bit PNG wrongly.
        alpha=(colour_type == 4) | (colour_type == 6) | (transparency > 0),
    )


def _read_gif(data: FileBytes) -> _Sighting:
    width, height = (data.number(at, 2, big_endian=False) for at in (6, 8))
    return _sighting(GIF, height=height, width=width)


def _read_bmp(data: FileBytes) -> _Sighting:
    info_size, compression = (data.number(at, 4, big_endian=False) for at in (14, 30))
    bits = data.number(28, 2, big_endian=False)
    # Blue, green, red in this order of bytes is all that TensorFlow knows.
    usual_masks = data.matches(54, b"\0\0\xff\0\0\xff\0\0\xff\0")
    grey_ramp = b"".join(bytes([level, level, level, 0]) for level in range(256))
    is_grey = data.matches(14 + info_size, grey_ramp)
    decodable = (info_size >= 40) & (
        ((compression == 0) & ((bits == 24) | (bits == 32) | ((bits == 8) & is_grey)))
        | ((compression == 3) & (bits == 32) & usual_masks)
    )
    return _sighting(
        BMP,
        reason=tf.where(decodable, OK, BMP_KIND),
        # Rows from top to bottom are announced by a negative height.
        height=tf.abs(data.number(22, 4, big_endian=False)),
        width=data.number(18, 4, big_endian=False),
        alpha=(compression == 3) & (info_size >= 56) & data.matches(66, b"\0\0\0\xff"),
    )


def _read_webp(data: FileBytes) -> _Sighting:
    is_lossy, is_lossless, is_extended = (data.matches(12, t) for t in (b"VP8 ", b"VP8L", b"VP8X"))
    bits = data.number(21, 4, big_endian=False)
    lossy = [data.number(at, 2, big_endian=False) % 0x4000 for at in (28, 26)]
    lossless = [bits // 0x4000 % 0x4000 + 1, bits % 0x4000 + 1]
    # Three bytes each.
    extended = [data.number(at, 4, big_endian=False) % 0x1000000 + 1 for at in (27, 24)]
    height, width = (
        tf.where(is_extended, in_extended, tf.where(is_lossless, in_lossless, in_lossy))
        for in_extended, in_lossless, in_lossy in zip(extended, lossless, lossy, strict=True)
    )
    # An opaque animation kills TensorFlow's process: this flag is the one that its library obeys.
    animated = is_extended & (data.byte(20) // 2 % 2 == 1)
    (exif,) = _walk_chunks(data, 12, wanted=(b"EXIF",), png=False)
    # Some writers put the JPEG preamble before the TIFF header here too.
    exif = tf.where(data.matches(exif, b"Exif\0\0"), exif + 6, exif)
    known = is_lossy | is_lossless | is_extended
    return _sighting(
        WEBP,
        reason=tf.where(known, tf.where(animated, ANIMATED_WEBP, OK), DAMAGED),
        height=height,
        width=width,
        exif=tf.where(is_extended, exif, 0),
    )


def _read_unknown(data: FileBytes) -> _Sighting:
    brands = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
    foreign = [data.matches(4, b"ftyp" + brand) for brand in brands]
    foreign += [data.matches(0, magic) for magic in (b"II*\0", b"MM\0*", b"\xff\x0a", b"8BPS")]
    foreign += [data.matches(4, magic) for magic in (b"JXL \r\n\x87\n", b"jP  \r\n\x87\n")]
    reason = tf.where(tf.reduce_any(foreign), FOREIGN, NOT_AN_IMAGE)
    return _sighting(UNKNOWN, reason=tf.where(data.size == 0, EMPTY, reason))


def _walk_chunks(
    data: FileBytes, start: int, *, wanted: tuple[bytes, ...], png: bool
) -> tuple[tf.Tensor, ...]:
    """Return the position of the payload of each wanted chunk; 0 where it is absent.

    A PNG is read up to its pixels, a RIFF file (`png=False`) to its end.
    """

    def unfinished(position, *_):
        going_on = position < data.size
        return going_on & ~data.matches(position + 4, b"IDAT") if png else going_on

    def next_chunk(position, *found):
        tag = data.text(position + 4 if png else position, 4)
        length = data.number(position if png else position + 4, 4, big_endian=png)
        # A length beyond 2^31 comes out negative; either way there is nothing after it.
        length = tf.where(length < 0, data.size, tf.minimum(length, data.size))
        found = [
            tf.where((tag == name) & (seen == 0), position + 8, seen)
            for name, seen in zip(wanted, found, strict=True)
        ]
        return position + (12 + length if png else 8 + length + length % 2), *found

    return tf.while_loop(
        unfinished,
        next_chunk,
        (tf.constant(start), *[tf.constant(0)] * len(wanted)),
        maximum_iterations=_MAX_SEGMENTS,
    )[1:]


def _exif_orientation(data: FileBytes, start: tf.Tensor) -> tf.Tensor:
    """Return the orientation (1..8) in the TIFF structure at `start`; 1 where there is none."""

    magic = data.text(start, 4)
    is_big_endian = magic == b"MM\0*"

    def number(position, length):
        little, big = (data.number(position, length, big_endian=big) for big in (False, True))
        return tf.where(is_big_endian, big, little)

    directory = start + number(start + 4, 4)
    last = directory + 2 + 12 * tf.minimum(number(directory, 2), _MAX_EXIF_ENTRIES)
    # Nothing is searched where there is no TIFF structure.
    last = tf.where((start > 0) & (is_big_endian | (magic == b"II*\0")), last, 0)
    (entry,) = tf.while_loop(
        lambda entry: (entry < last) & (number(entry, 2) != 0x0112),
        lambda entry: (entry + 12,),
        (directory + 2,),
        maximum_iterations=_MAX_EXIF_ENTRIES,
    )
    value = number(entry + 8, 2)
    return tf.where((entry < last) & (value >= 1) & (value <= 8), value, 1)
