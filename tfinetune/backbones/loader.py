"""Open a pretrained model of any supported kind as a Backbone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from tfinetune.backbones.backbone import Backbone, Provenance
from tfinetune.backbones.graph import (
    alone,
    augmentation_layers,
    check_equal,
    check_weights,
    detach,
    flatten,
    rebuild,
)
from tfinetune.backbones.groups import is_group_name
from tfinetune.backbones.input_range import detect_input_scaling, own_scaling
from tfinetune.backbones.input_scaling import InputScaling
from tfinetune.backbones.opening import (
    DEFAULT_IMAGE_SIZE,
    Opened,
    Weights,
    check_graph,
    open_source,
)
from tfinetune.backbones.saved_model import without_head
from tfinetune.backbones.saved_model_layer import saved_model_layers
from tfinetune.backbones.top import find_features, named_features, takes_image
from tfinetune.errors import BackboneError, FixedSizeError, InputRangeError
from tfinetune.security.saved_model import trusting

InputRange = tuple[float, float] | str
ImageSize = int | tuple[int, int]


def load_backbone(
    source: str | Path | keras.Model | Callable[[], keras.Model],
    *,
    weights: str | Path = "imagenet",
    partial_weights: bool = False,
    image_size: ImageSize | None = None,
    input_range: InputRange | None = None,
    features: str | Sequence[str] | None = None,
    tags: str | Sequence[str] | None = None,
    endpoint: str | None = None,
    trust: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Backbone:
    """Open a pretrained model as a backbone: top removed, layers grouped, pixel range decided.

    Models of tables, sequences, texts or several inputs are backbones too; what is said of image
    sizes and pixel ranges goes for images only.

    Args:
        source: a `.keras` or `.h5` file of any version of Keras, a SavedModel folder, the name of
            an architecture of keras.applications (any case) or "SqueezeNet", a KerasHub preset
            ("hub:NAME" or a folder), the folder of a finished run, a functional `keras.Model`,
            which is left as it is, a function that builds one, or a `.json` or `.yaml` file of
            `to_json()` or `to_yaml()`.
        weights: "none" gives the same architecture from scratch. An architecture takes "imagenet"
            too. The path of a weights file goes with whatever has no weights of its own.
        partial_weights: fill the layers whose names the weights file has and leave the others.
        image_size: side, or (height, width). A backbone that cannot be rebuilt at it keeps its
            own size and says so in `provenance.warnings`. Default: the model's own.
        input_range: the range that the backbone expects pixels in, such as `(-1, 1)`, or the
            name of an `InputScaling.preset`. Default: found out.
        features: what to build on: a group to end with ("stage_3"), or the name of the layer, or
            layers, whose output to take. Default: found by structure, see `backbones.top`. Of a
            SavedModel that stays one layer: its outputs.
        tags: of the graph of a SavedModel, where it holds several.
        endpoint: of a SavedModel: the function or signature to call. It then stays one layer, even
            where native layers could be had.
        trust: let a SavedModel, also one inside a `.keras` file or a run, read, write and execute
            what it likes.
        custom_objects: name -> class that the model file may use beside Keras's own.
        seed: of random weights.

    Raises:
        BackboneError: if the source cannot be opened or has no features.
        UnsafeModelError: if it would run code or exhaust memory.
        BackboneUnavailableError: if weights must be downloaded and cannot be.
        InputRangeError: if the pixel range cannot be decided.
        FixedSizeError: if an architecture does not allow `image_size`.
        RunError: if a run is not finished, or its model was changed.
        MissingExtraError: if a preset is named and KerasHub is not installed.

    Example:
        >>> backbone = load_backbone("MobileNetV2", weights="none", image_size=96)
        >>> backbone.model.output_shape
        (None, 3, 3, 1280)
    """
    size = _as_size(image_size)
    scratch = str(weights).lower() == "none"
    given = Weights(weights, partial=partial_weights)
    group = features if isinstance(features, str) and is_group_name(features) else None
    named = [] if group else [features] if isinstance(features, str) else list(features or ())
    saved_model = {"tags": tags, "endpoint": endpoint, "features": named}
    with trusting(trust):
        opened = open_source(
            source, weights=given, size=size, custom_objects=custom_objects, saved_model=saved_model
        )
    if (tags or endpoint) and opened.kind != "saved_model":
        raise BackboneError(
            f"tags= and endpoint= choose what is used of a SavedModel; {opened.source} is none. "
            "Leave them out."
        )
    backbone = _adapt(opened, size=size, input_range=input_range, features=named)
    backbone = backbone.up_to(group) if group else backbone
    return backbone.reinitialized(seed) if scratch else backbone


def _adapt(
    opened: Opened,
    *,
    size: tuple[int, int] | None,
    input_range: InputRange | None,
    features: Sequence[str],
) -> Backbone:
    check_graph(opened)
    is_image = takes_image(opened.model)
    if not is_image and (size or input_range):
        raise BackboneError(
            f"{opened.source} takes no image, so it has no image size and no pixel range. Leave "
            "image_size and input_range out."
        )
    notes, warnings = list(opened.notes), list(opened.warnings)
    if augmentation := augmentation_layers(opened.model):
        notes.append(f"in-model augmentation was left out: {', '.join(augmentation)}")
    own_size = _own_size(opened.model, size, notes) if is_image else None
    if saved_model_layers(opened.model):
        if features and opened.kind != "saved_model":
            raise BackboneError(
                f"{opened.source} was built on a SavedModel, whose outputs were chosen then. "
                "Leave features= out, or open the SavedModel itself again."
            )
        model = without_head(opened.model)
    else:
        model = _cut(opened.model, own_size, features, notes, owned=opened.kind != "object")
    scaling = None
    if is_image:
        scaling, doubts = _scaling(model, opened, input_range)
        warnings.extend(doubts)
        notes.append(f"input range {scaling.describe()}: {scaling.origin} ({scaling.confidence})")
    backbone = Backbone.of(
        model,
        input_scaling=scaling,
        provenance=Provenance(
            opened.source, opened.kind, opened.era, opened.sha256, tuple(notes), tuple(warnings)
        ),
    )
    return backbone if size is None else _resized_or_warned(backbone, size)


def _cut(
    model: keras.Model,
    image_size: tuple[int, int] | None,
    features: Sequence[str],
    notes: list[str],
    *,
    owned: bool,
) -> keras.Model:
    """Return a model's features; of the very layers where they are `owned` and fit as they are."""
    flat = flatten(model, image_size=image_size)
    cut = named_features(flat, features) if features else find_features(flat)
    notes.append(cut.note)
    name = _safe_name(model.name)
    headless = keras.Model(alone(flat.inputs), alone(list(cut.tensors)), name=name)
    fits = image_size is None or tuple(flat.inputs[0].shape[1:3]) == image_size
    if owned and fits and not any("/" in operation.name for operation in headless.operations):
        check_weights(headless)
        return detach(headless)
    rebuilt = rebuild(headless, image_size=image_size)
    check_equal(headless, rebuilt, what="Cutting the top off")
    return rebuilt


def _own_size(
    model: keras.Model, size: tuple[int, int] | None, notes: list[str]
) -> tuple[int, int]:
    """Return the image size that a model declares; one that it leaves open is chosen."""
    declared = model.inputs[0].shape[1:3]
    fallback = size or (DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE)
    own_size = (declared[0] or fallback[0], declared[1] or fallback[1])
    if None in declared:
        notes.append(f"takes any image size; built at {own_size[0]}x{own_size[1]}")
    return own_size


def _scaling(
    model: keras.Model, opened: Opened, input_range: InputRange | None
) -> tuple[InputScaling, tuple[str, ...]]:
    """Return the scaling that was asked for, or else found, and warnings."""
    if input_range is None:
        return detect_input_scaling(model, known=opened.scaling)
    if isinstance(input_range, str):
        given = InputScaling.preset(input_range)
    elif isinstance(input_range, list | tuple) and len(input_range) == 2:
        given = InputScaling.from_range(*input_range)
    else:
        raise InputRangeError(
            f"input_range={input_range!r} is no pixel range. Allowed: (low, high), such as (-1, 1)."
        )
    given = replace(given, confidence="override")
    own = own_scaling(model)
    if own is None or own.describe() == given.describe():
        return given, ()
    return given, (
        f"the input range {given.describe()} was given, but the model begins with {own.origin}, "
        f"which wants {own.describe()}: pixels may be normalized twice",
    )


def _resized_or_warned(backbone: Backbone, size: tuple[int, int]) -> Backbone:
    try:
        return backbone.resized(size)
    except FixedSizeError as error:
        height, width = backbone.image_size
        warning = f"images are resized to {height}x{width}, not {size[0]}x{size[1]}: {error}"
        provenance = backbone.provenance
        return replace(
            backbone, provenance=replace(provenance, warnings=(*provenance.warnings, warning))
        )


def _as_size(image_size: ImageSize | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    size = tuple(image_size) if isinstance(image_size, list | tuple) else (image_size, image_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise BackboneError(
            f"image_size={image_size!r} is no image size. Allowed: a side in pixels, or "
            "(height, width)."
        )
    return size


def _safe_name(name: str) -> str:
    return name.replace("/", "_")
