"""Operations that move pixels. What a view shows beyond its photo is the photo's mirror image."""

import math
from dataclasses import dataclass

import tensorflow as tf

from tfinetune.data.augmentation.operation import Geometric, stack_matrix


@dataclass(frozen=True)
class Flip(Geometric):
    """Mirror left to right; `amount` is the share of views that are mirrored."""

    amount: float = 0.5
    name = "flip"
    neutral = (1.0,)

    def draw(self, uniform):
        """Draw 1, or -1 where the view is mirrored."""
        return tf.where((uniform + 1) / 2 < self.amount, -1.0, 1.0)

    def matrix(self, parameters, size):
        """Change the sign of x."""
        mirror = parameters[:, 0]
        return stack_matrix([[mirror, 0, 0], [0, 1, 0], [0, 0, 1]], like=mirror)


@dataclass(frozen=True)
class FlipVertical(Flip):
    """Mirror top to bottom; `amount` is the share of views that are mirrored."""

    name = "flip_vertical"

    def matrix(self, parameters, size):
        """Change the sign of y."""
        mirror = parameters[:, 0]
        return stack_matrix([[1, 0, 0], [0, mirror, 0], [0, 0, 1]], like=mirror)


@dataclass(frozen=True)
class Rotate(Geometric):
    """Turn about the centre, by up to `amount` degrees either way."""

    amount: float = 15.0
    name = "rotate"
    limit = 180.0
    neutral = (0.0,)

    def draw(self, uniform):
        """Draw an angle in radians, clockwise."""
        return uniform * math.radians(self.amount)

    def matrix(self, parameters, size):
        """Turn back."""
        cosine, sine = tf.cos(parameters[:, 0]), tf.sin(parameters[:, 0])
        return stack_matrix([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]], like=sine)


@dataclass(frozen=True)
class Zoom(Geometric):
    """Scale about the centre, by 1 / (1 + `amount`) to 1 + `amount`, evenly in logarithm."""

    amount: float = 0.1
    name = "zoom"
    limit = 9.0
    neutral = (1.0,)

    def draw(self, uniform):
        """Draw a factor; above 1 enlarges."""
        return tf.exp(uniform * math.log1p(self.amount))

    def matrix(self, parameters, size):
        """Divide by the factor."""
        inverse = 1 / parameters[:, 0]
        return stack_matrix([[inverse, 0, 0], [0, inverse, 0], [0, 0, 1]], like=inverse)


@dataclass(frozen=True)
class Shear(Geometric):
    """Slant along both axes, each by up to `amount` pixels a pixel."""

    amount: float = 0.1
    name = "shear"
    neutral = (0.0, 0.0)

    def draw(self, uniform):
        """Draw the slants of the rows and of the columns."""
        return uniform * self.amount

    def matrix(self, parameters, size):
        """Slant the other way: along the rows first."""
        x, y = tf.unstack(parameters, axis=1)
        return stack_matrix([[1, -x, 0], [-y, 1 + x * y, 0], [0, 0, 1]], like=x)


@dataclass(frozen=True)
class Translate(Geometric):
    """Shift right or left and down or up, each by up to `amount` of the side."""

    amount: float = 0.1
    name = "translate"
    neutral = (0.0, 0.0)

    def draw(self, uniform):
        """Draw the shifts right and down, as fractions of width and height."""
        return uniform * self.amount

    def matrix(self, parameters, size):
        """Shift back."""
        right, down = tf.unstack(parameters, axis=1)
        x, y = -right * size[1], -down * size[0]
        return stack_matrix([[1, 0, x], [0, 1, y], [0, 0, 1]], like=right)


@dataclass(frozen=True)
class Perspective(Geometric):
    """Tilt the photo: an edge comes up to `amount` nearer, the opposite one as much farther."""

    amount: float = 0.2
    name = "perspective"
    # Both tilts together must leave every corner in front of the camera.
    limit = 0.45
    neutral = (0.0, 0.0)

    def draw(self, uniform):
        """Draw the relative change of distance at the right and at the lower edge."""
        return uniform * self.amount

    def matrix(self, parameters, size):
        """Divide by a distance that changes evenly from edge to edge."""
        right, down = tf.unstack(parameters, axis=1)
        x, y = 2 * right / size[1], 2 * down / size[0]
        return stack_matrix([[1, 0, 0], [0, 1, 0], [x, y, 1]], like=x)


@dataclass(frozen=True)
class Crop(Geometric):
    """Take a box anywhere in the photo and stretch it to the photo's size.

    Its area is a share of 1 - `amount` to 1, its proportions are the photo's times 3/4 to 4/3,
    evenly in logarithm ("random resized crop", Szegedy et al. 2015, arXiv:1409.4842).
    """

    amount: float = 0.5
    name = "crop"
    limit = 0.99
    neutral = (1.0, 1.0, 0.0, 0.0)

    def draw(self, uniform):
        """Draw the box's width and height as shares of the photo's, and where its centre lies."""
        area = 1 - (uniform[:, 0] + 1) / 2 * self.amount
        # Proportions at which a side would be longer than the photo's are not drawn.
        widest = tf.minimum(math.log(4 / 3), -tf.math.log(area))
        root = tf.exp(uniform[:, 1] * widest / 2)
        width, height = tf.sqrt(area) * root, tf.sqrt(area) / root
        # Fractions of the photo's sides from its centre.
        x, y = uniform[:, 2] * (1 - width) / 2, uniform[:, 3] * (1 - height) / 2
        return tf.stack([width, height, x, y], axis=1)

    def matrix(self, parameters, size):
        """Shrink the view to the box."""
        width, height, x, y = tf.unstack(parameters, axis=1)
        rows = [[width, 0, x * size[1]], [0, height, y * size[0]], [0, 0, 1]]
        return stack_matrix(rows, like=width)
