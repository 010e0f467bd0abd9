"""Policies: which operations make the views of a run, by name or written out."""

import re
from dataclasses import dataclass

import tensorflow as tf

from tfinetune.data.augmentation.colour import Brightness, Contrast, Grayscale, Hue, Saturation
from tfinetune.data.augmentation.geometric import (
    Crop,
    Flip,
    FlipVertical,
    Perspective,
    Rotate,
    Shear,
    Translate,
    Zoom,
)
from tfinetune.data.augmentation.mixing import CutMix, MixUp
from tfinetune.data.augmentation.operation import Mixing, Operation
from tfinetune.data.augmentation.pixelwise import (
    AutoContrast,
    Blur,
    Cutout,
    Erase,
    Noise,
    Posterize,
    Sharpness,
    Solarize,
)
from tfinetune.errors import DataError

OPERATIONS: dict[str, type[Operation]] = {
    operation.name: operation
    for operation in (
        Flip,
        FlipVertical,
        Rotate,
        Zoom,
        Shear,
        Translate,
        Perspective,
        Crop,
        Brightness,
        Contrast,
        Saturation,
        Hue,
        Grayscale,
        AutoContrast,
        Sharpness,
        Blur,
        Posterize,
        Solarize,
        Noise,
        Cutout,
        Erase,
        MixUp,
        CutMix,
    )
}
"""Every operation by the name that policies call it."""


@dataclass(frozen=True)
class Policy:
    """Operations that make views.

    Geometry comes first, in the order given, then colour, then the other pixels, then mixing.

    Attributes:
        always: what every view is drawn from.
        pool: operations of which only some are drawn for each view.
        choose: how many of the pool, without repetition.
    """

    always: tuple[Operation, ...] = ()
    pool: tuple[Operation, ...] = ()
    choose: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.choose <= len(self.pool):
            raise DataError(
                f"Cannot draw {self.choose} of {len(self.pool)} operations; give 0 to "
                f"{len(self.pool)}."
            )

    def __str__(self) -> str:
        """Return what `get_policy` reads as this policy."""
        always = ", ".join(map(str, self.always))
        pool = f"{self.choose} of: {', '.join(map(str, self.pool))}" if self.pool else ""
        return ", ".join(part for part in (always, pool) if part) or "none"

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Read operations written out, as `get_policy` does."""
        always, choose, pool = re.fullmatch(r"(.*?)(?:,?\s*\b(\d+) of:(.*))?", text, re.S).groups()
        terms = [(part or "").split(",") if (part or "").strip() else [] for part in (always, pool)]
        return cls(*(tuple(map(_parse, part)) for part in terms), choose=int(choose or 0))

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All operations, in the order of their parameters."""
        return self.always + self.pool

    @property
    def mirrors(self) -> bool:
        """Whether some views are mirrored left to right."""
        return any(type(operation) is Flip and operation.amount for operation in self.operations)

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of several classes."""
        return any(isinstance(operation, Mixing) for operation in self.operations)

    @property
    def columns(self) -> int:
        """How many parameters describe a view."""
        return sum(len(operation.neutral) for operation in self.operations)

    def split(self, parameters: tf.Tensor) -> list[tuple[Operation, tf.Tensor]]:
        """Return each operation with its columns of a table [n, columns]."""
        widths = [len(operation.neutral) for operation in self.operations]
        parts = tf.split(parameters, widths, axis=1) if widths else []
        return list(zip(self.operations, parts, strict=True))


def _parse(term: str) -> Operation:
    name, equals, amount = (part.strip() for part in term.partition("="))
    if name not in OPERATIONS:
        raise DataError(
            f"Unknown augmentation {name!r}. Known policies: {', '.join(POLICIES)}. Or write "
            f"operations out, such as 'flip, rotate=15': {', '.join(OPERATIONS)}."
        )
    try:
        given = (float(amount),) if equals else ()
    except ValueError:
        raise DataError(f"{term.strip()!r}: {amount!r} is not a number.") from None
    return OPERATIONS[name](*given)


POLICIES: dict[str, Policy] = {
    "none": Policy(),
    "light": Policy.parse("flip, translate=0.05, zoom=0.1"),
    # For what means something else in the mirror: text, digits, signs.
    "no_flip": Policy.parse("rotate=8, zoom=0.1, translate=0.05"),
    "standard": Policy.parse(
        "flip, rotate=15, zoom=0.15, translate=0.08, saturation=0.2, hue=0.02, contrast=0.2, "
        "brightness=0.1"
    ),
    # After RandAugment and TrivialAugment (Cubuk et al. 2020, arXiv:1909.13719; Müller & Hutter
    # 2021, arXiv:2103.10158): few operations a view, of any strength.
    "strong": Policy.parse(
        "flip, crop=0.4, 2 of: rotate=30, shear=0.3, translate=0.2, perspective=0.3, "
        "brightness=0.3, contrast=0.6, saturation=0.8, hue=0.08, grayscale=1, autocontrast=1, "
        "sharpness=0.9, blur=1.5, posterize=5, solarize=0.7, cutout=0.5"
    ),
}
"""What `augment=` and `--augmentation` call by name."""


def get_policy(augment: str | Policy) -> Policy:
    """Return the policy of a name in `POLICIES` or of operations written out.

    Args:
        augment: a name; or operations of `OPERATIONS`, comma-separated, each with how far it goes
            (`rotate=20`) or without (its usual amount). `2 of:` draws two of those that follow for
            each view. A policy is returned as it is.

    Raises:
        DataError: if a policy or operation is unknown or an amount out of range.

    Example:
        >>> str(get_policy("flip, rotate=20"))
        'flip=0.5, rotate=20'
        >>> get_policy("flip, 1 of: cutout=0.4, solarize").choose
        1
    """
    if isinstance(augment, Policy):
        return augment
    return POLICIES.get(augment) or Policy.parse(augment)
