"""Decide which pixel range a model was trained on.

A preprocessing layer at the model's start says it, or else the architecture, if it is a published
one. BatchNorm has the last word: its moving statistics are a memory of the activations in training,
so the right range is the one under which real photos reproduce them. Models with none of these are
undecidable, and guessing would quietly cost accuracy.
"""

from collections.abc import Iterator
from dataclasses import replace

import keras
import numpy as np

from tfinetune.backbones.graph import ordered_nodes
from tfinetune.backbones.input_scaling import PRESETS, InputScaling
from tfinetune.backbones.range_probe import probe_ranges
from tfinetune.backbones.recognition import published_scaling
from tfinetune.errors import InputRangeError

# The best candidate must fit this many times better than the next, or nothing was decided.
MIN_MARGIN = 1.15
# Statistics overrule what a layer or an architecture says from here on.
MARGIN_TO_OVERRULE = 2.0
# Right ranges of real models measure 0.1 to 0.3 deviations, wrong ones 0.4 and more.
MAX_DISTANCE = 1.0
# Less than this between black and white, where layers expect 1 to 5, was scaled twice.
MIN_SPAN = 0.05
_NO_RANGE_CHANGE = (
    "ZeroPadding2D",
    "Cropping2D",
    "CenterCrop",
    "Resizing",
    "Reshape",
    "Permute",
    "Identity",
    "InputLayer",
    "Dropout",
    "GaussianNoise",
)


def detect_input_scaling(
    model: keras.Model, *, known: InputScaling | None = None
) -> tuple[InputScaling, tuple[str, ...]]:
    """Return the scaling from 0..255 to what `model` expects, and warnings.

    Args:
        model: flat functional model of one image input, without its top.
        known: what the model's family is documented to expect, where that is certain.

    Returns:
        The scaling, whose `origin` and `confidence` say how it was decided, and what looks wrong
        about it: pixels that are normalized twice, statistics that contradict.

    Raises:
        InputRangeError: if no layer, no architecture and no BatchNorm statistics tell.
    """
    if known is not None:
        return replace(known, confidence="known"), ()
    scores = probe_ranges(model)
    declared = own_scaling(model)
    if declared is not None:
        warnings = (*_scaled_twice(model, declared), *_contradiction(declared, scores))
        return replace(declared, confidence="declared"), warnings
    published = published_scaling(model)
    if published is None:
        return _best(model, scores), ()
    if contradiction := _contradiction(published, scores):
        return _best(model, scores), contradiction
    return replace(published, confidence=_agreement(published, scores)), ()


def own_scaling(model: keras.Model) -> InputScaling | None:
    """Return what a Rescaling or Normalization layer at the start wants to be given."""
    for layer in leading_layers(model):
        if isinstance(layer, keras.layers.Rescaling):
            return _wanted_by_rescaling(layer)
        if isinstance(layer, keras.layers.Normalization):
            return _wanted_by_normalization(layer)
    return None


def leading_layers(model: keras.Model) -> Iterator[keras.Operation]:
    """Yield the layers at the start that scale pixels or leave their values as they are."""
    for node in ordered_nodes(model):
        operation = node.operation
        if not (
            isinstance(operation, keras.layers.Rescaling | keras.layers.Normalization)
            or type(operation).__name__ in _NO_RANGE_CHANGE
        ):
            return
        yield operation


def _wanted_by_rescaling(layer: keras.layers.Rescaling) -> InputScaling | None:
    scale, offset = float(np.mean(layer.scale)), float(np.mean(layer.offset))
    origin = f"the model's own Rescaling layer {layer.name!r}"
    if 0 < scale < 0.05:  # 1/255, 1/127.5, 1/(255 * deviation)
        return InputScaling.preset("raw", origin=origin)
    if scale > 20:  # 255 * x, or 127.5 * x + 127.5
        name = "tf" if offset > scale / 4 else "unit"
        return InputScaling.preset(name, origin=origin)
    if 1.5 <= scale <= 20 and offset < 0:  # 2 * x - 1
        return InputScaling.preset("unit", origin=origin)
    return None


def _wanted_by_normalization(layer: keras.layers.Normalization) -> InputScaling | None:
    mean, variance = np.mean(layer.mean), np.mean(layer.variance)
    origin = f"the model's own Normalization layer {layer.name!r}"
    if mean > 2 and variance > 4:
        return InputScaling.preset("raw", origin=origin)
    if 0.1 < mean < 0.9 and variance < 0.4:
        return InputScaling.preset("unit", origin=origin)
    return None


def _scaled_twice(model: keras.Model, declared: InputScaling) -> tuple[str, ...]:
    """Warn where the layers at the start leave next to nothing between black and white."""
    names, span = [], declared.scale[0] * 255.0
    for layer in leading_layers(model):
        if isinstance(layer, keras.layers.Rescaling):
            span *= float(np.mean(np.abs(layer.scale)))
        elif isinstance(layer, keras.layers.Normalization):
            span /= max(float(np.sqrt(np.mean(layer.variance))), keras.config.epsilon())
        else:
            continue
        names.append(repr(layer.name))
    if len(names) < 2 or span >= MIN_SPAN:
        return ()
    return (
        f"the layers {', '.join(names)} at the model's start leave {span:.2g} between black and "
        "white: pixels seem to be normalized twice inside the model",
    )


def _contradiction(said: InputScaling, scores: dict[str, float]) -> tuple[str, ...]:
    """Warn where BatchNorm statistics clearly fit another range than a layer or a name says."""
    fits = {_preset_words(name): score for name, score in scores.items()}
    if said.describe() not in fits:
        return ()
    best = min(fits, key=fits.__getitem__)
    margin = fits[said.describe()] / max(fits[best], 1e-9)
    if margin < MARGIN_TO_OVERRULE or fits[best] > MAX_DISTANCE:
        return ()
    return (
        f"{said.origin} wants {said.describe()}, but the BatchNorm statistics fit photos in {best} "
        f"{margin:.1f} times better: in training, pixels were scaled differently, or twice. Where "
        "its author knows better, pass input_range=(low, high) (--input-range LOW,HIGH)",
    )


def _agreement(published: InputScaling, scores: dict[str, float]) -> str:
    if not scores:
        return "known by the names of its layers, not measured"
    best = _preset_words(min(scores, key=scores.__getitem__))
    if best == published.describe():
        return "known by the names of its layers, BatchNorm statistics agree"
    return f"known by the names of its layers, though BatchNorm statistics fit {best} as well"


def _best(model: keras.Model, scores: dict[str, float]) -> InputScaling:
    way_out = (
        "Pass input_range=(low, high) (--input-range LOW,HIGH): what its author scaled pixels to, "
        f"most often -1,1 or 0,1 or 0,255, or the name of a preset: {', '.join(PRESETS)}."
    )
    failed = f"The pixel range that {model.name!r} expects cannot be decided"
    if not scores:
        raise InputRangeError(
            f"{failed}: it starts with no Rescaling or Normalization layer, its layers have the "
            "names of no published architecture, and it has no trained BatchNorm statistics to "
            f"compare with. {way_out}"
        )
    (best, lowest), (second, next_lowest) = sorted(scores.items(), key=lambda item: item[1])[:2]
    margin = next_lowest / max(lowest, 1e-9)
    if margin < MIN_MARGIN:
        raise InputRangeError(
            f"{failed}: its BatchNorm statistics fit {_preset_words(best)} and "
            f"{_preset_words(second)} about equally ({lowest:.2f} and {next_lowest:.2f} deviations "
            f"off). {way_out}"
        )
    if lowest > MAX_DISTANCE:
        raise InputRangeError(
            f"{failed}: its BatchNorm statistics fit no known range; the nearest is "
            f"{_preset_words(best)}, {lowest:.2f} deviations off. {way_out}"
        )
    return replace(
        InputScaling.preset(best, origin="BatchNorm statistics"),
        confidence=f"measured, {margin:.1f} times better than {_preset_words(second)}",
    )


def _preset_words(name: str) -> str:
    return InputScaling.preset(name).describe()
