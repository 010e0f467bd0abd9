"""Operations that change all colours of a photo by one linear map."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfinetune.data.augmentation.operation import Colour, stack_matrix

# ITU-R BT.601.
GREY_WEIGHTS = (0.299, 0.587, 0.114)
# Luma and two coordinates of the plane without it (the YIQ model).
_YIQ = np.eye(4, dtype=np.float32)
_YIQ[:3, :3] = [GREY_WEIGHTS, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)]


@dataclass(frozen=True)
class Brightness(Colour):
    """Add up to `amount` of the full range to every channel, or take it away."""

    amount: float = 0.1
    name = "brightness"
    neutral = (0.0,)

    def draw(self, uniform):
        """Draw the fraction of the range."""
        return uniform * self.amount

    def matrix(self, parameters):
        """Shift the channels alike."""
        b = parameters[:, 0]
        return stack_matrix([[1, 0, 0, b], [0, 1, 0, b], [0, 0, 1, b], [0, 0, 0, 1]], like=b)


@dataclass(frozen=True)
class Contrast(Colour):
    """Scale the distance from mid-grey by 1 - `amount` to 1 + `amount`."""

    amount: float = 0.2
    name = "contrast"
    neutral = (1.0,)

    def draw(self, uniform):
        """Draw a factor."""
        return 1 + uniform * self.amount

    def matrix(self, parameters):
        """Scale about one half."""
        c = parameters[:, 0]
        o = (1 - c) / 2
        return stack_matrix([[c, 0, 0, o], [0, c, 0, o], [0, 0, c, o], [0, 0, 0, 1]], like=c)


@dataclass(frozen=True)
class Saturation(Colour):
    """Scale the distance from a pixel's own grey by 1 - `amount` to 1 + `amount`."""

    amount: float = 0.2
    name = "saturation"
    neutral = (1.0,)

    def draw(self, uniform):
        """Draw a factor; 0 is a grey photo."""
        return 1 + uniform * self.amount

    def matrix(self, parameters):
        """Blend with the grey."""
        s = parameters[:, 0]
        r, g, b = ((1 - s) * weight for weight in GREY_WEIGHTS)
        rows = [[r + s, g, b, 0], [r, g + s, b, 0], [r, g, b + s, 0], [0, 0, 0, 1]]
        return stack_matrix(rows, like=s)


@dataclass(frozen=True)
class Grayscale(Saturation):
    """Take all colour away from a share `amount` of the views."""

    amount: float = 0.1
    name = "grayscale"

    def draw(self, uniform):
        """Draw 1, or 0 where the view is grey."""
        return tf.where((uniform + 1) / 2 < self.amount, 0.0, 1.0)


@dataclass(frozen=True)
class Hue(Colour):
    """Turn the colour circle by up to `amount` of a full turn either way.

    The turn keeps luma (a rotation in the YIQ model), so it is linear, unlike one of HSV's hue.
    """

    amount: float = 0.02
    name = "hue"
    limit = 0.5
    neutral = (0.0,)

    def draw(self, uniform):
        """Draw an angle in full turns."""
        return uniform * self.amount

    def matrix(self, parameters):
        """Rotate the plane without luma."""
        angle = parameters[:, 0] * (2 * np.pi)
        cosine, sine = tf.cos(angle), tf.sin(angle)
        turn = [[1, 0, 0, 0], [0, cosine, -sine, 0], [0, sine, cosine, 0], [0, 0, 0, 1]]
        return tf.linalg.inv(_YIQ) @ stack_matrix(turn, like=angle) @ _YIQ
