"""What `tfinetune inspect` shows of a backbone, as plain values."""

from typing import Any

import keras

from tfinetune.backbones.backbone import Backbone
from tfinetune.backbones.groups import LayerGroup
from tfinetune.backbones.saved_model_layer import VariableScope


def describe(backbone: Backbone) -> dict[str, Any]:
    """Return everything worth knowing about a backbone, ready for JSON.

    Example:
        >>> describe(load_backbone("MobileNetV2", weights="none"))["groups"][0]["name"]
        'stem'
    """
    model, provenance = backbone.model, backbone.provenance
    batch_norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        or getattr(layer, "is_batch_norm", False)
    ]
    return {
        "source": provenance.source,
        "kind": provenance.kind,
        "era": provenance.era,
        "sha256": provenance.sha256,
        "input_shape": [*backbone.image_size, backbone.channels],
        "output_shape": list(model.output_shape[1:]),
        "input_range": backbone.input_scaling.describe(),
        "input_range_origin": backbone.input_scaling.origin,
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
    last = group.layers[-1]
    return None if isinstance(last, VariableScope) else list(last.output.shape[1:])
