"""Join backbone and head into one plain functional model: photo in, probabilities out."""

import copy

import keras
from keras import ops

from tfinetune import heads
from tfinetune.backbones import Backbone


class Assembly:
    """A backbone and a head as plain Keras models that share their weights.

        image [b, H, W, 3], 0..255 -> range of the backbone -> backbone -> pool -> dropout
            -> logits -> temperature -> probabilities [b, classes]

    Attributes:
        backbone: what `load_backbone` returned; its layers are the ones trained.
        model: image -> probabilities, the model that is saved and served.
        logits_model: image -> logits, the model that is trained.
        features_model: image -> pooled features, everything that a linear probe freezes.
        head_layers: the layers that the rule `"head"` means.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, *, dropout: float = 0.2, seed: int = 0
    ) -> None:
        self.backbone = backbone
        height, width = backbone.image_size
        image = keras.Input((height, width, 3), name="image")
        scaled = image
        if backbone.channels == 1:
            scaled = ops.image.rgb_to_grayscale(scaled)
        scaled = backbone.input_scaling.apply(scaled)
        features = heads.pool_features(backbone.model(scaled))
        self.features_model = keras.Model(image, features, name="features")

        dropped = keras.layers.Dropout(dropout, seed=seed, name="dropout")(features)
        self.logits_layer = heads.logits_layer(num_classes, seed=seed)
        logits = self.logits_layer(dropped)
        self.logits_model = keras.Model(image, logits, name="classifier_logits")
        self.head_layers: tuple[keras.Layer, ...] = (self.logits_layer,)
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
