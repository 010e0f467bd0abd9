"""What `tfinetune inspect` shows of a backbone, as plain values."""

from typing import Any

import keras

from tfinetune.backbones.backbone import Backbone
from tfinetune.backbones.groups import LayerGroup, is_batch_norm
from tfinetune.backbones.saved_model_layer import VariableScope


def describe(backbone: Backbone) -> dict[str, Any]:
    """Return everything worth knowing about a backbone, ready for JSON.

    Example:
        >>> describe(load_backbone("MobileNetV2", weights="none"))["groups"][0]["name"]
        'stem'
    """
    model, provenance, scaling = backbone.model, backbone.provenance, backbone.input_scaling
    batch_norms = [layer for layer in model._flatten_layers() if is_batch_norm(layer)]
    return {
        "source": provenance.source,
        "kind": provenance.kind,
        "era": provenance.era,
        "sha256": provenance.sha256,
        "inputs": [
            {"name": tensor.name, "shape": list(tensor.shape[1:]), "dtype": tensor.dtype}
            for tensor in model.inputs
        ],
        "input_shape": _shapes(model.inputs),
        "output_shape": _shapes(model.outputs),
        "input_range": scaling.describe() if scaling else None,
        "input_range_origin": scaling.origin if scaling else None,
        "input_range_confidence": scaling.confidence if scaling else None,
        "parameters": model.count_params(),
        "batch_norm_layers": len(batch_norms),
        "batch_norm_policy": "frozen" if batch_norms else "none",
        "groups": [
            {
                "name": group.name,
                "depth": len(group.layers),
                "parameters": group.parameters,
                "output_shape": _output_shape(group),
            }
            for group in backbone.groups
        ],
        "notes": list(provenance.notes),
        "warnings": list(provenance.warnings),
    }


def _output_shape(group: LayerGroup) -> list[int | None] | None:
    """Return the shape that a group ends with; unknown inside a SavedModel."""
    if not group.layers or isinstance(group.layers[-1], VariableScope):
        return None
    return list(keras.tree.flatten(group.layers[-1].output)[0].shape[1:])


def _shapes(tensors: list[keras.KerasTensor]) -> list[int | None] | dict[str, list[int | None]]:
    """Return the shape of the only tensor, or of each by its name."""
    shapes = {tensor.name: list(tensor.shape[1:]) for tensor in tensors}
    return next(iter(shapes.values())) if len(tensors) == 1 else shapes
