"""How photos of 0..255 become what a backbone was trained on."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfinetune.errors import InputRangeError

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputScaling:
    """The map `x * scale + offset` from 0..255 pixels to a backbone's own range.

    Attributes:
        scale: one factor, or one per channel.
        offset: one summand, or one per channel.
        bgr: whether the channels are reversed first; `scale` and `offset` are then in BGR order.
        origin: what says so.
        confidence: how sure that is.
    """

    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    bgr: bool = False
    origin: str = "given"
    confidence: str = ""

    @classmethod
    def from_range(cls, low: float, high: float, *, origin: str = "given") -> "InputScaling":
        """Return the scaling that takes 0..255 to `low`..`high`.

        Raises:
            InputRangeError: unless `low` < `high` and both are finite.
        """
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise InputRangeError(
                f"The input range {low!r}, {high!r} is not a range: two numbers are needed, the "
                "lower one first, such as -1,1 or 0,1 or 0,255."
            )
        return cls(((high - low) / 255.0,), (float(low),), origin=origin)

    @classmethod
    def preset(cls, name: str, *, origin: str = "given") -> "InputScaling":
        """Return one of the scalings that pretrained models use.

        Args:
            name: "tf" ([-1, 1]), "unit" ([0, 1]), "raw" ([0, 255]), "torch" (standardized by the
                ImageNet mean and deviation) or "caffe" (BGR minus the ImageNet mean).
            origin: how it was decided.

        Raises:
            InputRangeError: if there is no such preset.
        """
        if name == "tf":
            return cls((1 / 127.5,), (-1.0,), origin=origin)
        if name == "unit":
            return cls((1 / 255.0,), origin=origin)
        if name == "raw":
            return cls(origin=origin)
        if name == "torch":
            scale = tuple(1 / (255.0 * deviation) for deviation in _IMAGENET_STD)
            pairs = zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)
            return cls(scale, tuple(-mean / std for mean, std in pairs), origin=origin)
        if name == "caffe":
            return cls((1.0,), (-103.939, -116.779, -123.68), bgr=True, origin=origin)
        raise InputRangeError(f"There is no input scaling {name!r}. Allowed: {', '.join(PRESETS)}.")

    @property
    def identity(self) -> bool:
        """Whether photos go in as they are."""
        return not self.bgr and set(self.scale) == {1.0} and set(self.offset) == {0.0}

    def describe(self) -> str:
        """Return the range in a few words, such as "[-1, 1]"."""
        if self.bgr:
            return "BGR minus ImageNet mean"
        if len(self.scale) > 1 or len(self.offset) > 1:
            return "standardized by ImageNet mean and deviation"
        low, high = self.offset[0], self.scale[0] * 255.0 + self.offset[0]
        return f"[{round(low, 4):g}, {round(high, 4):g}]"

    def apply(self, tensor: Any) -> Any:
        """Apply the scaling to pixels `[..., height, width, channels]` of 0..255.

        A symbolic tensor goes through stock layers, so that the model saves and loads anywhere.
        """
        if isinstance(tensor, np.ndarray):
            tensor = tensor[..., ::-1] if self.bgr else tensor
            return tensor * np.float32(self.scale) + np.float32(self.offset)
        for layer in self.layers():
            tensor = layer(tensor)
        return tensor

    def layers(self) -> list[Any]:
        """Return the stock layers (and `keras.ops`) that apply the scaling, in order."""
        if self.identity:
            return []
        rescaling = keras.layers.Rescaling(
            scale=_plain(self.scale), offset=_plain(self.offset), name="input_scaling"
        )
        return [_reverse_channels, rescaling] if self.bgr else [rescaling]


PRESETS = ("tf", "unit", "raw", "torch", "caffe")


def _plain(values: tuple[float, ...]) -> float | list[float]:
    return values[0] if len(values) == 1 else list(values)


def _reverse_channels(tensor: Any) -> Any:
    return keras.ops.flip(tensor, axis=-1)
