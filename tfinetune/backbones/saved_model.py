"""Open a SavedModel as a Keras model: native layers where that is proven right, else one layer."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import keras

from tfinetune.backbones.saved_model_endpoints import (
    Tensor,
    choose_endpoint,
    find_endpoints,
)
from tfinetune.backbones.saved_model_layer import SavedModelLayer
from tfinetune.errors import BackboneError
from tfinetune.security.saved_model import read_saved_model
from tfinetune.security.saved_model_loading import prepare

NEEDS_TFINETUNE = (
    "this SavedModel is one custom layer inside the model: loading the fine-tuned `.keras` needs "
    "tfinetune (`import tfinetune.backbones`); the exported SavedModel does not"
)


@dataclass(frozen=True)
class OpenedSavedModel:
    """A SavedModel as a Keras model.

    Attributes:
        model: of native layers, or around one `SavedModelLayer`.
        era: the TensorFlow that wrote it.
        notes: what was chosen.
        warnings: what the user should know.
    """

    model: keras.Model
    era: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def open_saved_model(
    path: str | Path,
    *,
    tags: Iterable[str] | None = None,
    endpoint: str | None = None,
    features: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> OpenedSavedModel:
    """Open the SavedModel in the folder `path`.

    Args:
        path: folder that holds `saved_model.pb`.
        tags: of the graph, where there are several.
        endpoint: function or signature to call.
        features: output to use, where there are several.
        image_size: (height, width) where the SavedModel takes images of any size.

    Raises:
        UnsafeModelError: if it would read, write or execute something, or exhaust memory.
        BackboneError: if it cannot be opened, or a choice is to be made: the options are listed.
    """
    saved = read_saved_model(path, tags=tags)
    prepared = prepare(saved)
    chosen = choose_endpoint(
        find_endpoints(prepared.meta_graph), endpoint, features, source=str(path)
    )
    inputs = tuple(_sized(tensor, image_size, source=str(path)) for tensor in chosen.inputs)
    layer = SavedModelLayer(endpoint=replace(chosen, inputs=inputs), name="saved_model")
    layer.attach(prepared)
    return OpenedSavedModel(
        _around(layer, inputs),
        f"TensorFlow {saved.tensorflow_version}",
        (f"called at its endpoint {chosen.name}, output {chosen.outputs[0].name}",),
        (NEEDS_TFINETUNE,),
    )


def _around(layer: SavedModelLayer, inputs: tuple[Tensor, ...]) -> keras.Model:
    tensors = {
        tensor.name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name)
        for tensor in inputs
    }
    given = tensors if len(tensors) > 1 else next(iter(tensors.values()))
    return keras.Model(given, layer(given), name="saved_model_backbone")


def _sized(tensor: Tensor, image_size: tuple[int, int] | None, *, source: str) -> Tensor:
    """Return an input with the image size filled in where it takes any.

    Raises:
        BackboneError: if it does not take a batch of examples.
    """
    shape = tensor.shape
    if not shape or shape[0] is not None:
        raise BackboneError(
            f"{source} takes {tensor}, which is no batch of any number of examples. Choose "
            "another endpoint with endpoint=, or save the model with an input of [None, …]."
        )
    if image_size is not None and len(shape) == 4:
        shape = (
            None,
            *(own or side for own, side in zip(shape[1:3], image_size, strict=True)),
            shape[3],
        )
    return replace(tensor, shape=shape)
