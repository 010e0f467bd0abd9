"""The Backbone: a pretrained model without its top, and what must be known to use it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfinetune.backbones.graph import bottlenecks, rebuild
from tfinetune.backbones.groups import LayerGroup, layer_groups
from tfinetune.backbones.input_scaling import InputScaling
from tfinetune.backbones.saved_model_layer import saved_model_layers
from tfinetune.errors import BackboneError, FixedSizeError, UnknownLayerError


@dataclass(frozen=True)
class Provenance:
    """Where a backbone comes from and what was done to it.

    Attributes:
        source: path or name it was loaded from.
        kind: "keras" (`.keras`), "hdf5" (`.h5`), "saved_model", "run" (of tfinetune), "hub" (a
            KerasHub preset), "application" or "object".
        era: the Keras or TensorFlow that wrote it.
        sha256: of the file, or of all files of the folder, where there is one.
        notes: what was done, such as where the top was cut.
        warnings: what the user should know before trusting the result.
    """

    source: str
    kind: str
    era: str
    sha256: str | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backbone:
    """A pretrained feature extractor.

    Attributes:
        model: functional model of fresh stock layers, or around a SavedModel as one layer. An
            image input is in the backbone's own pixel range. Its output, or each of them, is a map
            `[b, h, w, c]`, tokens `[b, t, c]` or a vector `[b, c]`.
        input_scaling: takes photos of 0..255 to that range; None where it takes no image.
        groups: "stem", "stage_1", …; every layer of `model` is in exactly one.
        provenance: where it comes from.
    """

    model: keras.Model
    input_scaling: InputScaling | None
    groups: tuple[LayerGroup, ...]
    provenance: Provenance

    @classmethod
    def of(
        cls, model: keras.Model, *, input_scaling: InputScaling | None, provenance: Provenance
    ) -> "Backbone":
        """Return a backbone around `model`, its layers grouped."""
        return cls(model, input_scaling, layer_groups(model), provenance)

    @property
    def takes_image(self) -> bool:
        """Whether its one input is an image."""
        return self.input_scaling is not None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images it takes.

        Raises:
            BackboneError: if it takes no image.
        """
        if not self.takes_image:
            shapes = [list(tensor.shape[1:]) for tensor in self.model.inputs]
            shown = ", ".join(map(str, shapes)).replace("None", "any")
            raise BackboneError(
                f"{self.provenance.source} takes no image: its input is {shown} per example. "
                "Photos need a backbone that takes one input of height, width and 1 or 3 channels."
            )
        return tuple(self.model.inputs[0].shape[1:3])

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return self.model.inputs[0].shape[-1]

    def resized(self, image_size: tuple[int, int]) -> "Backbone":
        """Return the backbone rebuilt for images of `image_size` (height, width), same weights.

        Raises:
            FixedSizeError: if a layer or its weights depend on the present size.
            UnsafeModelError: if an activation would be immense at `image_size`.
        """
        if tuple(image_size) == self.image_size:
            return self
        if saved_model_layers(self.model):
            raise FixedSizeError(
                "A SavedModel works at the size that it was opened at. Pass image_size= to "
                "load_backbone."
            )
        before = "x".join(map(str, self.image_size))
        after = "x".join(map(str, image_size))
        return self._around(
            rebuild(self.model, image_size=tuple(image_size)),
            note=f"rebuilt from {before} to {after} pixels with the same weights",
        )

    def depths(self) -> dict[str, keras.KerasTensor]:
        """Return for each group the last tensor in it that everything behind is computed from.

        Groups without one, or whose tensor has no channels to average, are left out.
        """
        group_of = {id(layer): group.name for group in self.groups for layer in group.layers}
        # A SavedModel can end nowhere but at its end.
        group_of |= {id(layer): self.groups[-1].name for layer in saved_model_layers(self.model)}
        return {
            group_of[id(step.operation)]: step.tensor
            for step in bottlenecks(self.model)
            if id(step.operation) in group_of and 2 <= len(step.tensor.shape) <= 5
        }

    def up_to(self, group: str) -> "Backbone":
        """Return the backbone that ends with a group, sharing its layers.

        Raises:
            UnknownLayerError: if it cannot end there.
        """
        depths = self.depths()
        if group not in depths:
            raise UnknownLayerError(
                f"The backbone cannot end with {group!r}. Allowed: {', '.join(depths)}."
            )
        model = keras.Model(self.model.input, depths[group], name=self.model.name)
        return self._around(model, note=f"ends with {group}")

    def reinitialized(self, seed: int) -> "Backbone":
        """Return the same architecture with fresh random weights, reproducible under `seed`.

        Statistics of preprocessing layers are data, not something learned: they stay.

        Raises:
            BackboneError: for a SavedModel, which does not say how it was initialized.
        """
        if saved_model_layers(self.model):
            raise BackboneError(
                "A SavedModel cannot be started from scratch: it does not say how its variables "
                "were initialized. Leave weights='none' out."
            )
        model = _reseeded_clone(self.model, seed)
        for old, new in zip(self.model.layers, model.layers, strict=True):
            new.trainable = True
            if isinstance(old, keras.layers.Normalization):
                new.set_weights(old.get_weights())
                new.finalize_state()
        return self._around(model, note=f"weights initialized at random (seed {seed})")

    def _around(self, model: keras.Model, *, note: str) -> "Backbone":
        notes = (*self.provenance.notes, note)
        return Backbone.of(
            model,
            input_scaling=self.input_scaling,
            provenance=dataclasses.replace(self.provenance, notes=notes),
        )


def _reseeded_clone(model: keras.Model, seed: int) -> keras.Model:
    """Return a clone whose initializers are all seeded, each differently."""
    seeds = iter(np.random.SeedSequence(seed).generate_state(100_000).tolist())

    def clone(operation: keras.Operation) -> keras.Operation:
        return type(operation).from_config(_with_seeds(operation.get_config(), seeds))

    return keras.models.clone_model(model, clone_function=clone)


def _with_seeds(value: Any, seeds: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: next(seeds) if key == "seed" else _with_seeds(item, seeds)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_seeds(item, seeds) for item in value]
    return value
