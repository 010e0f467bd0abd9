"""What augmentations are made of: small objects with one number each.

An operation draws its parameters for every example and says what they do to a photo. The geometric
ones say it as a matrix of coordinates, the colour ones as a matrix of colours, so that any number
of them costs one pass over the pixels; the others change the pixels one after the other.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from tfinetune.errors import DataError


@dataclass(frozen=True)
class Operation(ABC):
    """One way in which a view may differ from its photo.

    Attributes:
        amount: how far, in the unit that the class states; 0 is not at all.
        name: how policies are written: `rotate=15`.
        limit: the largest amount that makes sense.
        neutral: the parameters that change nothing, one for each that is drawn.
    """

    amount: float

    name: ClassVar[str]
    limit: ClassVar[float] = 1.0
    neutral: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= self.limit:
            raise DataError(
                f"{self.name}={self.amount:g} is out of range: give 0 (not at all) to "
                f"{self.limit:g}."
            )

    def __str__(self) -> str:
        return f"{self.name}={self.amount:g}"

    @abstractmethod
    def draw(self, uniform: tf.Tensor) -> tf.Tensor:
        """Draw parameters.

        Args:
            uniform: float32 [n, len(neutral)], independent and uniform in [-1, 1).

        Returns:
            float32 of the same shape.
        """


class Geometric(Operation):
    """Moves pixels, by a projective map."""

    @abstractmethod
    def matrix(self, parameters: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """Return the map from a place in the view to its place in the photo.

        Args:
            parameters: float32 [b, len(neutral)].
            size: float32 [2], height and width.

        Returns:
            float32 [b, 3, 3] for columns (x, y, 1) in pixels, right and down from the centre.
        """


class Colour(Operation):
    """Changes colours, by a linear map. Nothing is clipped before the last of them."""

    @abstractmethod
    def matrix(self, parameters: tf.Tensor) -> tf.Tensor:
        """Return float32 [b, 4, 4] for columns (red, green, blue, 1), colours in [0, 1]."""


class Pixelwise(Operation):
    """Changes pixels in its own way, after geometry and colour, and only those it was drawn for.

    What `apply` does is compiled by XLA: the shapes of its tensors must not depend on their values.
    """

    @abstractmethod
    def apply(self, images: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
        """Return the changed images.

        Args:
            images: float32 [b, height, width, channels] in [0, 255].
            parameters: float32 [b, len(neutral)].
        """


class Mixing(Operation):
    """Mixes each example of a batch, and its label, with another one of it."""

    @abstractmethod
    def mix(self, images: tf.Tensor, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mix each image with the one before it (the first with the last).

        Returns:
            The images, and the share [b] that each keeps of its own label.
        """


def stack_matrix(rows: Sequence[Sequence[tf.Tensor | int]], *, like: tf.Tensor) -> tf.Tensor:
    """Return float32 [b, n, n] of rows of entries that are 0, 1 or tensors [b] as `like` is."""
    numbers = {0: tf.zeros_like(like), 1: tf.ones_like(like)}
    entries = [numbers[e] if isinstance(e, int) else e for row in rows for e in row]
    return tf.reshape(tf.stack(entries, axis=-1), [-1, len(rows), len(rows)])
