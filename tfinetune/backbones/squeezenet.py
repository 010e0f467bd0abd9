"""SqueezeNet 1.1, which keras.applications lacks.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
size" (2016), https://arxiv.org/abs/1602.07360; version 1.1 is the authors' later, cheaper variant.
Layers are named as in the weights files of keras-squeezenet, with `_` for `/`.
"""

import keras
from keras import layers

# Channels of squeeze and expand of each fire module; None is a pooling.
_FIRE = ((16, 64), (16, 64), None, (32, 128), (32, 128), None, *[(48, 192)] * 2, *[(64, 256)] * 2)


def SqueezeNet(
    *,
    input_shape: tuple[int, int, int],
    include_top: bool = False,
    weights: None = None,
    pooling: None = None,
) -> keras.Model:
    """Return SqueezeNet 1.1 without a top, with random weights, as keras.applications would.

    Example:
        >>> SqueezeNet(input_shape=(64, 64, 3)).output_shape
        (None, 3, 3, 512)
    """
    image = keras.Input(input_shape)
    x = layers.Conv2D(64, 3, strides=2, name="conv1")(image)
    x = layers.Activation("relu", name="relu_conv1")(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    number = 2
    for channels in _FIRE:
        if channels is None:
            x = layers.MaxPooling2D(3, strides=2, name=f"pool{number - 1}")(x)
        else:
            x = _fire(x, *channels, name=f"fire{number}")
            number += 1
    x = layers.Dropout(0.5, name="drop9")(x)
    return keras.Model(image, x, name="squeezenet")


def _fire(x: keras.KerasTensor, squeeze: int, expand: int, *, name: str) -> keras.KerasTensor:
    def convolved(x: keras.KerasTensor, filters: int, size: int, part: str) -> keras.KerasTensor:
        x = layers.Conv2D(filters, size, padding="same", name=f"{name}_{part}")(x)
        return layers.Activation("relu", name=f"{name}_relu_{part}")(x)

    x = convolved(x, squeeze, 1, "squeeze1x1")
    left, right = convolved(x, expand, 1, "expand1x1"), convolved(x, expand, 3, "expand3x3")
    return layers.Concatenate(name=f"{name}_concat")([left, right])
