"""Isolate the first frame of a GIF, in graph, as a GIF of its own.

TensorFlow unpacks every frame before it returns the first, so a small animation can ask for
gigabytes; it loses a frame that does not start in the corner of its canvas; and it paints
transparent pixels black. The first frame is therefore rewritten as a GIF that it fills, whose
transparent colour is white: composited over white exactly.
"""

from typing import NamedTuple

import tensorflow as tf

from tfinetune.data.headers import FileBytes

# 255 bytes each: first frames of up to 50 MB.
_MAX_SUB_BLOCKS = 200_000
_MAX_BLOCKS = 256


class FirstFrame(NamedTuple):
    """A GIF of one frame, and where that frame lay on its canvas.

    Attributes:
        contents: scalar string, a GIF of the size of the frame.
        canvas: int32 [2], height and width of the original.
        box: int32 [4], top, left, height and width of the frame.
        complete: bool, the frame was found whole and inside the canvas; decode only then.
    """

    contents: tf.Tensor
    canvas: tf.Tensor
    box: tf.Tensor
    complete: tf.Tensor


def first_frame(contents: tf.Tensor) -> FirstFrame:
    """Rewrite the first frame of a GIF as a GIF of its own.

    Args:
        contents: scalar string that starts with a GIF signature.
    """
    data = FileBytes(contents)
    canvas = tf.stack([data.number(8, 2, big_endian=False), data.number(6, 2, big_endian=False)])
    global_palette = _palette_size(data.byte(10))

    def unfinished(position, control, descriptor):
        return (descriptor == 0) & (position < data.size)

    def next_block(position, control, descriptor):
        introducer, label = data.byte(position), data.byte(position + 1)
        is_image, is_extension = introducer == 0x2C, introducer == 0x21
        after_extension = tf.cond(
            is_extension, lambda: _skip_sub_blocks(data, position + 2), lambda: data.size
        )
        return (
            tf.where(is_image, position, after_extension),
            tf.where(is_extension & (label == 0xF9), position, control),
            tf.where(is_image, position, descriptor),
        )

    zero = tf.constant(0)
    _, control, descriptor = tf.while_loop(
        unfinished,
        next_block,
        (13 + global_palette, zero, zero),
        maximum_iterations=_MAX_BLOCKS,
    )
    left, top, width, height = (
        data.number(descriptor + i, 2, big_endian=False) for i in (1, 3, 5, 7)
    )
    local_palette = _palette_size(data.byte(descriptor + 9))
    end = _skip_sub_blocks(data, descriptor + 10 + local_palette + 1)
    inside = (top + height <= canvas[0]) & (left + width <= canvas[1])
    complete = (descriptor > 0) & (end <= data.size) & (data.byte(end - 1) == 0)

    has_local = local_palette > 0
    palette = tf.where(
        has_local,
        tf.strings.substr(contents, tf.minimum(descriptor + 10, data.size), local_palette),
        tf.strings.substr(contents, tf.minimum(13, data.size), global_palette),
    )
    transparent = 3 * data.byte(control + 6)
    is_transparent = (control > 0) & (data.byte(control + 3) % 2 == 1)
    palette = tf.cond(
        is_transparent & (transparent < tf.strings.length(palette)),
        lambda: _whiten(palette, transparent),
        lambda: palette,
    )
    frame_size = data.text(descriptor + 5, 4)
    is_interlaced = data.byte(descriptor + 9) // 0x40 % 2 == 1
    pixels = tf.minimum(descriptor + 10 + local_palette, data.size)
    parts = [
        b"GIF89a",
        frame_size,
        # Announces the palette and its size; the other bits mean nothing to a decoder.
        tf.where(has_local, data.text(descriptor + 9, 1), data.text(10, 1)),
        b"\0\0",
        palette,
        b",\0\0\0\0",
        frame_size,
        tf.where(is_interlaced, b"\x40", b"\0"),
        tf.strings.substr(contents, pixels, tf.maximum(end - pixels, 0)),
        b";",
    ]
    return FirstFrame(
        tf.strings.join(parts),
        canvas,
        tf.stack([top, left, height, width]),
        complete & inside & (width > 0) & (height > 0),
    )


def _palette_size(flags: tf.Tensor) -> tf.Tensor:
    """Return the bytes of the palette that a packed flag byte announces."""
    entries = tf.bitwise.left_shift(tf.constant(2), flags % 8)
    return tf.where(flags >= 0x80, 3 * entries, 0)


def _skip_sub_blocks(data: FileBytes, position: tf.Tensor) -> tf.Tensor:
    """Return the position after a chain of sub-blocks, past the end of the file if it is cut."""
    (last,) = tf.while_loop(
        lambda p: (p < data.size) & (data.byte(p) > 0),
        lambda p: (p + 1 + data.byte(p),),
        (position,),
        maximum_iterations=_MAX_SUB_BLOCKS,
    )
    return last + 1


def _whiten(palette: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Set the colour at byte `start` to white."""
    rest = tf.strings.length(palette) - start - 3
    before, after = (
        tf.strings.substr(palette, 0, start),
        tf.strings.substr(palette, start + 3, rest),
    )
    return tf.strings.join([before, b"\xff\xff\xff", after])
