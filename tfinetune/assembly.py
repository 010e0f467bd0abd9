"""Join backbone and head into one plain functional model, from inputs to probabilities."""

import copy
from typing import Any

import keras
from keras import ops

from tfinetune import heads
from tfinetune.backbones import Backbone


class Assembly:
    """A backbone and a head as plain Keras models that share their weights.

        image [b, H, W, 3], 0..255 -> range of the backbone -> backbone -> pool (-> hidden)
            -> dropout -> logits -> temperature -> probabilities [b, classes]

    What takes no image gets its inputs as they are: one tensor, or a dict of several by name.

    Attributes:
        backbone: what `load_backbone` returned; its layers are the ones trained.
        model: input -> probabilities, the model that is saved and served.
        logits_model: input -> logits, the model that is trained.
        features_model: input -> pooled features, everything that a linear probe freezes.
        head_layers: the layers that the rule `"head"` means.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        dropout: float = 0.2,
        head_units: int = 0,
        head_activation: str = "relu",
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.features_model = pooled_features(backbone, backbone.model)
        inputs, features = self.features_model.input, self.features_model.output

        self.logits_layer = heads.logits_layer(num_classes, seed=seed)
        self.head_layers: tuple[keras.Layer, ...] = (self.logits_layer,)
        if head_units:
            hidden = heads.hidden_layer(head_units, activation=head_activation, seed=seed)
            features = hidden(features)
            self.head_layers = (hidden, self.logits_layer)
        if dropout:  # else it would count as frozen: features behind it, and a cut of their own
            features = keras.layers.Dropout(dropout, seed=seed, name="dropout")(features)
        logits = self.logits_layer(features)
        self.logits_model = keras.Model(inputs, logits, name="classifier_logits")
        self.temperature = 1.0
        self.set_temperature(1.0)

    def set_temperature(self, temperature: float) -> None:
        """Divide the logits by `temperature` in `model`; the trained layers stay the same ones."""
        self.temperature = temperature
        self.model = keras.Model(
            self.logits_model.input,
            heads.probabilities(self.logits_model.output, temperature=temperature),
            name="classifier",
        )

    def get_weights(self) -> list:
        """Return a copy of every weight, seed-generator states included."""
        return [copy.copy(ops.convert_to_numpy(v)) for v in self.logits_model.variables]

    def set_weights(self, weights: list) -> None:
        """Put back what `get_weights` returned."""
        for variable, value in zip(self.logits_model.variables, weights, strict=True):
            variable.assign(value)


def pooled_features(backbone: Backbone, body: keras.Model) -> keras.Model:
    """Return a model from inputs as data sets have them to pooled features `[b, c]`.

    Args:
        backbone: says what its inputs are scaled to.
        body: its model, or one that shares layers with it.
    """
    inputs = _inputs(backbone)
    outputs = keras.tree.flatten(body(_scaled(inputs, backbone)))
    return keras.Model(inputs, heads.pool_features(outputs), name="features")


def _inputs(backbone: Backbone) -> keras.KerasTensor | dict[str, keras.KerasTensor]:
    if backbone.takes_image:
        return keras.Input((*backbone.image_size, 3), name="image")
    inputs = {
        tensor.name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name)
        for tensor in backbone.model.inputs
    }
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def _scaled(inputs: keras.KerasTensor | dict[str, keras.KerasTensor], backbone: Backbone) -> Any:
    """Return what the backbone is given."""
    if not backbone.takes_image:
        return list(inputs.values()) if isinstance(inputs, dict) else inputs
    if backbone.channels == 1:
        inputs = ops.image.rgb_to_grayscale(inputs)
    return backbone.input_scaling.apply(inputs)
