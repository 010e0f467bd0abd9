"""Measure how well photos in each candidate range reproduce a model's BatchNorm statistics."""

from functools import lru_cache
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_sample_images

from tfinetune.backbones.graph import ordered_nodes
from tfinetune.backbones.input_scaling import InputScaling

_PROBED_LAYERS = 2


def probe_ranges(model: keras.Model) -> dict[str, float]:
    """Return preset name -> how far photos in that range are from the BatchNorm statistics.

    The distance is in units of the stored deviations, averaged over channels and the first few
    BatchNorm layers; 0 is a perfect fit. Empty where there are no trained statistics.
    """
    nodes = _first_batch_norms(model)
    if not nodes:
        return {}
    probe = keras.Model(model.inputs[0], [node.input_tensors[0] for node in nodes])
    height, width, channels = model.inputs[0].shape[1:]
    photos = _sample_photos(height, width, grey=channels == 1)
    names = ("tf", "unit", "raw") if channels == 1 else ("tf", "unit", "raw", "torch", "caffe")
    scores = {}
    for name in names:
        incoming = probe(InputScaling.preset(name).apply(photos), training=False)
        incoming = incoming if isinstance(incoming, list) else [incoming]
        distances = [
            _distance(values, node.operation) for values, node in zip(incoming, nodes, strict=True)
        ]
        scores[name] = float(np.mean(distances))
    return scores


def _distance(incoming: Any, layer: keras.layers.BatchNormalization) -> float:
    """Compare incoming activations with a BatchNorm layer's memory of them.

    Shift in units of the larger deviation and log ratio of deviations: both stay bounded for dead
    channels, whose stored variance is next to nothing.
    """
    moments = keras.ops.moments(incoming, axes=list(range(len(incoming.shape) - 1)))
    mean, variance = (np.asarray(moment, "float64") for moment in moments)
    variance += layer.epsilon
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
        for top, left, side in ((0, 0, 427), (0, 213, 427), (106, 160, 214)):
            crop = photo[top : top + side, left : left + side].astype("float32")
            crops.append(keras.ops.image.resize(crop, (height, width), antialias=True))
    photos = np.stack([np.asarray(crop) for crop in crops])
    return photos @ np.float32([[0.299], [0.587], [0.114]]) if grey else photos
