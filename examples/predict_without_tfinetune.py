"""What came out is a plain Keras model: use it where tfinetune is not installed.

Pillow resizes a little differently from the decoder of training, so probabilities differ slightly.
`saved_model/1` takes the bytes of a file and decodes them exactly as training did.

python examples/predict_without_tfinetune.py RUN/model.keras PHOTO
"""

import sys

import keras
import numpy as np


def main(model_path: str, photo: str) -> np.ndarray:
    """Return the probabilities `[classes]` of one photo."""
    model = keras.models.load_model(model_path)
    height, width = model.input_shape[1:3]
    image = keras.utils.load_img(photo, target_size=(height, width), interpolation="bilinear")
    return model.predict(np.asarray(image, "float32")[None], verbose=0)[0]  # pixels in 0..255


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
