"""Architectures by name: those of keras.applications and SqueezeNet, with or without weights."""

import difflib
import errno
import inspect
from collections.abc import Callable
from pathlib import Path

import keras

from tfinetune.backbones.input_scaling import InputScaling
from tfinetune.backbones.squeezenet import SqueezeNet
from tfinetune.errors import (
    BackboneError,
    BackboneUnavailableError,
    FixedSizeError,
    StorageError,
)
from tfinetune.security.loading import load_weights

# Read from each family's `preprocess_input`; "raw" families scale pixels inside the model.
_SCALING_OF_FAMILY = {
    "ConvNeXt": "raw",
    "DenseNet": "torch",
    "EfficientNet": "raw",
    "Inception": "tf",
    "MobileNet": "tf",
    "MobileNetV3": "raw",
    "NASNet": "tf",
    "ResNet": "caffe",
    "SqueezeNet": "caffe",
    "VGG": "caffe",
    "Xception": "tf",
}
_IMAGE_SIZES = {
    "EfficientNetB1": 240,
    "EfficientNetB2": 260,
    "EfficientNetB3": 300,
    "EfficientNetB4": 380,
    "EfficientNetB5": 456,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300,
    "EfficientNetV2S": 384,
    "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
    "InceptionResNetV2": 299,
    "InceptionV3": 299,
    "NASNetLarge": 331,
    "Xception": 299,
}
# Not among keras.applications, so that their weights come from a file.
_BUILT_IN: dict[str, Callable[..., keras.Model]] = {"SqueezeNet": SqueezeNet}
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def application_names() -> list[str]:
    """Return the architectures that can be built by name, sorted."""
    offered = {
        name
        for name, value in vars(keras.applications).items()
        if inspect.isfunction(value) and name[0].isupper()
    }
    return sorted(offered | set(_BUILT_IN))


def find_application(name: str) -> str | None:
    """Return the proper spelling of an architecture's name given in any case, or None."""
    return {known.lower(): known for known in application_names()}.get(name.lower())


def closest_applications(name: str) -> list[str]:
    """Return up to three architectures whose names look like `name`."""
    lowered = {known.lower(): known for known in application_names()}
    return [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3)]


def application_scaling(name: str) -> InputScaling:
    """Return what an architecture expects of its input pixels."""
    if name.startswith("ResNet") and name.endswith("V2"):
        preset = "tf"
    else:
        family = max((f for f in _SCALING_OF_FAMILY if name.startswith(f)), key=len)
        preset = _SCALING_OF_FAMILY[family]
    return InputScaling.preset(preset, origin=f"keras.applications.{name}")


def default_image_size(name: str) -> int:
    """Return the side of the square images that the architecture was designed for."""
    return _IMAGE_SIZES.get(name, 224)


def build_application(
    name: str, *, image_size: tuple[int, int], weights: str | Path, partial: bool = False
) -> tuple[keras.Model, tuple[str, ...]]:
    """Return an architecture without its top at `image_size`, and notes on its weights.

    Args:
        name: as `find_application` returns it.
        image_size: height and width.
        weights: "imagenet" (downloaded by Keras once), "none", or the path of an `.h5` weights
            file with or without the top.
        partial: of a weights file, see `security.loading.load_weights`.

    Raises:
        BackboneUnavailableError: if the ImageNet weights cannot be downloaded, or Keras has none.
        StorageError: if they cannot be written to the disk.
        FixedSizeError: if the architecture does not allow this image size.
        BackboneError: if the weights file does not fit.
    """
    constructor = _BUILT_IN.get(name) or getattr(keras.applications, name)
    pretrained = "imagenet" if str(weights).lower() == "imagenet" else None
    if pretrained and name in _BUILT_IN:
        raise BackboneUnavailableError(
            f"Keras offers no weights of {name} for download. Pass a weights file (weights=PATH, "
            "--weights PATH) or start from random weights (weights='none')."
        )
    try:
        model = constructor(
            include_top=False, weights=pretrained, input_shape=(*image_size, 3), pooling=None
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:400].rstrip(".")
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise StorageError(
                f"The ImageNet weights of {name} could not be kept on this disk: {reason}. Free "
                "some space, or set KERAS_HOME to another folder."
            ) from error
        if pretrained and _is_download_failure(error):
            raise BackboneUnavailableError(
                f"The ImageNet weights of {name} could not be downloaded: {reason}. Connect to the "
                "internet once, pass a weights file (weights=PATH, --weights PATH), start from "
                "random weights (weights='none'), or use a model file as the backbone."
            ) from error
        if isinstance(error, ValueError):
            raise FixedSizeError(
                f"{name} cannot be built for {image_size[0]}x{image_size[1]} images: {reason}."
            ) from error
        raise
    if pretrained:
        return model, ("ImageNet weights from keras.applications",)
    if str(weights).lower() == "none":
        return model, ()
    match = load_weights(model, weights, partial=partial)
    return model, (f"{match.describe()}, from {weights}",)


def _is_download_failure(error: Exception) -> bool:
    # Keras raises a bare Exception without a connection, a ValueError for a wrong checksum.
    return isinstance(error, OSError) or any(
        words in str(error) for words in ("URL fetch failure", "corrupted file")
    )


def unknown_source(source: str) -> BackboneError:
    """Return the error for a source that is neither a file nor an architecture."""
    closest = closest_applications(source)
    hint = f" Did you mean {', '.join(closest)}?" if closest else ""
    return BackboneError(
        f"There is no file {source!r}, and no architecture of that name."
        f"{hint} Allowed: a .keras or .h5 file, a keras.Model, or one of "
        f"{', '.join(application_names())}."
    )
