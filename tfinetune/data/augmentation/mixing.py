"""Operations that mix the examples of a batch, and their labels with them.

Each example meets the one before it in the batch: the order is drawn anew in every epoch, so that
is a random one, and a function of seed and epoch like everything else.
"""

from dataclasses import dataclass

import numpy as np
import scipy.stats
import tensorflow as tf

from tfinetune.data.augmentation.operation import Mixing
from tfinetune.data.augmentation.pixelwise import inside_box

_QUANTILES = 4096


@dataclass(frozen=True)
class MixUp(Mixing):
    """Average two photos; the share of the one is drawn from Beta(`amount`, `amount`).

    Zhang et al. 2018, arXiv:1710.09412.
    """

    amount: float = 0.2
    name = "mixup"
    limit = 100.0
    neutral = (1.0,)

    def draw(self, uniform):
        """Draw the share."""
        return _beta(uniform, self.amount)

    def mix(self, images, parameters):
        """Average."""
        share = parameters[:, 0]
        weight = share[:, None, None, None]
        return weight * images + (1 - weight) * tf.roll(images, 1, axis=0), share


@dataclass(frozen=True)
class CutMix(Mixing):
    """Paste a box of one photo, centred anywhere, into the other at the same place.

    The area outside of the box is drawn from Beta(`amount`, `amount`); what of the box lies beyond
    the edge is lost, and the label keeps the area that is left (Yun et al. 2019, arXiv:1905.04899).
    """

    amount: float = 1.0
    name = "cutmix"
    limit = 100.0
    neutral = (1.0, 0.0, 0.0)

    def draw(self, uniform):
        """Draw the area, and the centre as fractions of height and width."""
        share = _beta(uniform[:, :1], self.amount)
        return tf.concat([share, (uniform[:, 1:] + 1) / 2], axis=1)

    def mix(self, images, parameters):
        """Paste."""
        share, row, column = tf.unstack(parameters, axis=1)
        size = tf.cast(tf.shape(images)[1:3], tf.float32)
        half = tf.sqrt(1 - share) / 2
        box = inside_box(images, row, column, half_height=half * size[0], half_width=half * size[1])
        kept = 1 - tf.reduce_mean(tf.cast(box, tf.float32), axis=(1, 2, 3))
        return tf.where(box, tf.roll(images, 1, axis=0), images), kept


def _beta(uniform: tf.Tensor, concentration: float) -> tf.Tensor:
    """Turn numbers uniform in [-1, 1) into numbers of Beta(concentration, concentration)."""
    if concentration == 0:
        return tf.ones_like(uniform)
    # TensorFlow has no quantiles of this distribution: interpolate in a table of them.
    probabilities = np.linspace(0, 1, _QUANTILES + 1)
    table = scipy.stats.beta.ppf(probabilities, concentration, concentration)
    place = (uniform + 1) / 2 * _QUANTILES
    below = tf.minimum(tf.cast(place, tf.int32), _QUANTILES - 1)
    low, high = (tf.gather(tf.constant(table, tf.float32), below + i) for i in range(2))
    return low + (high - low) * (place - tf.cast(below, tf.float32))
