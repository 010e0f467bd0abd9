"""SavedModel with two signatures: pixels, and the bytes of image files.

Serving needs TensorFlow alone. The decoder inside is the one that training used.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from tfinetune.data import try_decode_image
from tfinetune.errors import StorageError


def export_saved_model(
    model: keras.Model, path: str | Path, *, class_names: Sequence[str], aspect: str
) -> None:
    """Write a SavedModel folder.

    Signatures:
        serving_default: `images` float32 `[n, H, W, 3]`, 0..255.
        serving_bytes: `image_bytes` string `[n]`, files of any size in any format that training
            reads.

    Both answer `probabilities` float32 `[n, classes]`, `label` string `[n]` and `valid` bool `[n]`.
    A row that cannot be read (or holds a number that is not finite) is flagged: its probabilities
    are 0 and its label is empty; other rows are unaffected. An empty batch is answered.

    Args:
        model: image -> probabilities.
        path: folder to write; the caller makes it appear atomically.
        class_names: in the order of the model's outputs.
        aspect: how photos are brought to the model's size.

    Raises:
        StorageError: if the disk refuses.
    """
    size = tuple(model.input_shape[1:3])
    names = tf.constant(list(class_names))

    def answer(images: tf.Tensor, valid: tf.Tensor) -> dict[str, tf.Tensor]:
        # An empty batch crashes some CPU kernels: one row more, and cut it off again.
        padded = tf.concat([images, tf.zeros([1, *size, 3])], axis=0)
        probabilities = model(padded, training=False)[:-1]
        valid = valid & tf.reduce_all(tf.math.is_finite(probabilities), axis=-1)
        probabilities = tf.where(valid[:, None], probabilities, tf.zeros_like(probabilities))
        label = tf.where(valid, tf.gather(names, tf.argmax(probabilities, axis=-1)), "")
        return {"probabilities": probabilities, "label": label, "valid": valid}

    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        valid = tf.reduce_all(tf.math.is_finite(images), axis=[1, 2, 3])
        return answer(tf.where(valid[:, None, None, None], images, 0.0), valid)

    def serving_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images, valid = tf.map_fn(
            lambda contents: try_decode_image(contents, image_size=size, aspect=aspect),
            image_bytes,
            fn_output_signature=(tf.TensorSpec([*size, 3], tf.uint8), tf.TensorSpec([], tf.bool)),
        )
        return answer(tf.cast(images, tf.float32), valid)

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default",
        serving_default,
        input_signature=[tf.TensorSpec([None, *size, 3], tf.float32, name="images")],
    )
    archive.add_endpoint(
        "serving_bytes",
        serving_bytes,
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
    )
    try:
        archive.write_out(str(path), verbose=False)
    except tf.errors.OpError as error:  # TensorFlow writes the variables itself
        raise StorageError(
            f"Could not write the SavedModel {path}: {error.message}. Free some space or choose "
            "another folder."
        ) from error
