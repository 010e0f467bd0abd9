"""Decide which pixel range a model was trained on.

A preprocessing layer at the model's start says it. Otherwise BatchNorm does: its moving statistics
are a memory of the activations in training, so the right range is the one under which real photos
reproduce them. Models with neither are undecidable, and guessing would quietly cost accuracy.
"""

from functools import lru_cache

import keras
import numpy as np
from sklearn.datasets import load_sample_images

from tfinetune.backbones.graph import ordered_nodes
from tfinetune.backbones.input_scaling import PRESETS, InputScaling
from tfinetune.errors import InputRangeError

# The best candidate must fit this many times better than the next, or nothing was decided.
MIN_MARGIN = 1.15
_PROBED_LAYERS = 3
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
) -> tuple[InputScaling, str]:
    """Return the scaling from 0..255 to what `model` expects, and how sure that is.

    Args:
        model: flat functional model of one image input, without its top.
        known: what the model's family is documented to expect, where that is certain.

    Returns:
        The scaling (its `origin` says how it was decided) and "declared", "known" or
        "measured, k.k times better than the next".

    Raises:
        InputRangeError: if neither a layer nor BatchNorm statistics tell.
    """
    if known is not None:
        return known, "known"
    declared = own_scaling(model)
    if declared is not None:
        return declared, "declared"
    return _from_statistics(model)


def own_scaling(model: keras.Model) -> InputScaling | None:
    """Return what a Rescaling or Normalization layer at the start wants to be given."""
    for node in ordered_nodes(model):
        operation = node.operation
        if isinstance(operation, keras.layers.Rescaling):
            return _wanted_by_rescaling(operation)
        if isinstance(operation, keras.layers.Normalization):
            return _wanted_by_normalization(operation)
        if type(operation).__name__ not in _NO_RANGE_CHANGE:
            return None
    return None


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


def _from_statistics(model: keras.Model) -> tuple[InputScaling, str]:
    nodes = _first_batch_norms(model)
    if not nodes:
        raise InputRangeError(
            f"The pixel range that {model.name!r} expects cannot be decided: it starts with no "
            "Rescaling or Normalization layer and has no trained BatchNorm statistics to compare "
            "with. Pass input_range=(low, high) (--input-range LOW,HIGH): what its author "
            "scaled pixels to, most often -1,1 or 0,1 or 0,255, or the name of a preset: "
            f"{', '.join(PRESETS)}."
        )
    scores = probe_ranges(model)
    (best, lowest), (second, next_lowest) = sorted(scores.items(), key=lambda item: item[1])[:2]
    margin = next_lowest / max(lowest, 1e-9)
    if margin < MIN_MARGIN:
        raise InputRangeError(
            f"The pixel range that {model.name!r} expects cannot be decided: its BatchNorm "
            f"statistics fit {_preset_words(best)} and {_preset_words(second)} about equally "
            f"({lowest:.2f} and {next_lowest:.2f}). Pass input_range=(low, high) "
            "(--input-range LOW,HIGH)."
        )
    confidence = f"measured, {margin:.1f} times better than {_preset_words(second)}"
    return InputScaling.preset(best, origin="BatchNorm statistics"), confidence


def probe_ranges(model: keras.Model) -> dict[str, float]:
    """Return preset name -> how far photos in that range are from the BatchNorm statistics.

    The distance is in units of the stored deviations, averaged over channels and the first few
    BatchNorm layers; 0 is a perfect fit.
    """
    nodes = _first_batch_norms(model)
    probe = keras.Model(model.inputs[0], [node.input_tensors[0] for node in nodes])
    height, width, channels = model.inputs[0].shape[1:]
    photos = _sample_photos(height, width, grey=channels == 1)
    names = ("tf", "unit", "raw") if channels == 1 else ("tf", "unit", "raw", "torch", "caffe")
    scores = {}
    for name in names:
        pixels = InputScaling.preset(name).apply(photos)
        incoming = probe(pixels, training=False)
        incoming = incoming if isinstance(incoming, list) else [incoming]
        distances = [
            _distance(np.asarray(values, "float64"), node.operation)
            for values, node in zip(incoming, nodes, strict=True)
        ]
        scores[name] = float(np.mean(distances))
    return scores


def _distance(incoming: np.ndarray, layer: keras.layers.BatchNormalization) -> float:
    """Compare incoming activations with a BatchNorm layer's memory of them.

    Shift in units of the larger deviation and log ratio of deviations: both stay bounded for dead
    channels, whose stored variance is next to nothing.
    """
    axes = tuple(range(incoming.ndim - 1))
    mean, variance = incoming.mean(axes), incoming.var(axes) + layer.epsilon
    stored_mean = np.asarray(layer.moving_mean, "float64")
    stored_variance = np.asarray(layer.moving_variance, "float64") + layer.epsilon
    shift = np.abs(mean - stored_mean) / np.sqrt(np.maximum(variance, stored_variance))
    spread = np.abs(np.log(variance / stored_variance)) / 2
    return float(np.mean(shift + spread))


def _first_batch_norms(model: keras.Model) -> list:
    """Return the nodes of the first trained BatchNorm layers over maps, in order."""
    found = []
    for node in ordered_nodes(model):
        layer = node.operation
        if not isinstance(layer, keras.layers.BatchNormalization) or layer.axis not in (-1, 3):
            continue
        mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
        if np.all(mean == 0) and np.all(variance == 1):
            continue
        if len(node.input_tensors[0].shape) == 4:
            found.append(node)
        if len(found) == _PROBED_LAYERS:
            break
    return found


@lru_cache(maxsize=4)
def _sample_photos(height: int, width: int, *, grey: bool) -> np.ndarray:
    """Return crops of two real photos at several scales, `[n, height, width, channels]` 0..255."""
    crops = []
    for photo in load_sample_images().images:
        for side in (427, 320, 214):
            for top, left in ((0, 0), (427 - side, 640 - side), ((427 - side) // 2, 160)):
                crops.append(
                    keras.ops.image.resize(
                        photo[top : top + side, left : left + side].astype("float32"),
                        (height, width),
                        antialias=True,
                    )
                )
    photos = np.stack([np.asarray(crop) for crop in crops])
    return photos @ np.float32([[0.299], [0.587], [0.114]]) if grey else photos


def _preset_words(name: str) -> str:
    return InputScaling.preset(name).describe()
