"""What a recipe names, loaded: the backbone and the photos at its size."""

from pathlib import Path
from typing import Any

import keras

from tfinetune.backbones import Backbone, load_backbone
from tfinetune.data import DECODER_VERSION, Splits, from_image_folder, get_policy
from tfinetune.distribution import device_strategy
from tfinetune.errors import BackboneUnavailableError, RecipeError
from tfinetune.finetuner import FineTuner
from tfinetune.recipe import Recipe
from tfinetune.reporting import Reporter
from tfinetune.security.saved_model import is_trusting
from tfinetune.training import FeatureCache
from tfinetune.training.depth import choose_depth

AUTO_FEATURES = "auto"
DEFAULT_BACKBONE = "EfficientNetV2B0"
EMBEDDED_BACKBONE = Path(__file__).parents[1] / "assets" / "demo_backbone.h5"

PHOTO_FIELDS = ("data", "aspect", "validation", "test", "seed", "decoder_version")
"""Fields of a recipe that decide, with the size, what `read_photos` gives."""

BACKBONE_FIELDS = (
    "backbone",
    "weights",
    "image_size",
    "features",
    "endpoint",
    "trust",
    "input_range",
    "distribute",
)
"""Fields that decide, with those of the photos, what `open_backbone` and `cut` give."""

HEAD_FIELDS = ("head_units", "head_activation")
"""Fields that decide the shape of the head."""


def prepare(
    recipe: Recipe,
    reporter: Reporter,
    *,
    backbone: keras.Model | None = None,
    cache: FeatureCache | None = None,
) -> tuple[Recipe, FineTuner, Splits]:
    """Load the backbone, then read the photos at its size.

    Args:
        recipe: what to load.
        reporter: told of warnings and progress.
        backbone: a model in memory, in place of the one that the recipe names.
        cache: for the tuner.

    Returns:
        The recipe with its backbone named, the tuner, and the data.

    Raises:
        RecipeError: if the recipe was made with another decoder, or with trust that the caller did
            not give.
    """
    get_policy(recipe.augmentation)  # a wrong name is refused before anything slow
    if recipe.decoder_version != DECODER_VERSION:
        raise RecipeError(
            f"The recipe was made with decoder {recipe.decoder_version}, and this tfinetune has "
            f"decoder {DECODER_VERSION}: pixels would differ. Use the tfinetune that made it, or "
            "start a new run without --recipe."
        )
    check_trust(recipe)
    if backbone is None and not recipe.backbone:
        recipe, backbone = load_default(recipe, reporter)
    else:
        backbone = open_backbone(recipe, recipe.backbone if backbone is None else backbone)
    for warning in backbone.provenance.warnings:
        reporter.say(warning)
    splits = read_photos(recipe, backbone.image_size, reporter)
    backbone = cut(recipe, backbone, splits, reporter, cache=cache)
    options = {**tuner_options(recipe), "cache": cache, "reporter": reporter}
    return recipe, FineTuner(backbone, splits.spec, **options), splits


def check_trust(recipe: Recipe) -> None:
    """Refuse a recipe that was made with trust where the caller does not give it.

    Raises:
        RecipeError: then.
    """
    if recipe.trust and not is_trusting():
        raise RecipeError(
            f"The recipe was made with trust: its backbone {recipe.backbone} may read, write and "
            "execute what it likes. A file cannot decide that. If you know who made the model, add "
            "trust=True (--trust); else remove the line `trust: true`."
        )


def read_photos(recipe: Recipe, image_size: tuple[int, int], reporter: Reporter) -> Splits:
    """Return a recipe's photos at a size, divided."""
    with reporter.bar("reading photos") as advance:
        return from_image_folder(
            recipe.data,
            image_size=image_size,
            aspect=recipe.aspect,
            validation=recipe.validation,
            test=recipe.test,
            seed=recipe.seed,
            progress=advance,
        )


def cut(
    recipe: Recipe,
    backbone: Backbone,
    splits: Splits,
    reporter: Reporter,
    *,
    cache: FeatureCache | None = None,
) -> Backbone:
    """Return a backbone as deep as a recipe wants it; what it names is cut already."""
    if recipe.features != AUTO_FEATURES:
        return backbone
    return choose_depth(backbone, splits.train, seed=recipe.seed, cache=cache, reporter=reporter)


def tuner_options(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says of head, devices and seed, as arguments of `FineTuner`."""
    fields = ("dropout", "head_units", "head_activation", "precision", "distribute", "seed")
    return {name: getattr(recipe, name) for name in fields}


def open_backbone(recipe: Recipe, source: str | keras.Model) -> Backbone:
    """Return a backbone as a recipe wants it; its source may be another than the recipe names."""
    with device_strategy(recipe.distribute).scope():
        return load_backbone(
            source,
            weights=recipe.weights,
            image_size=recipe.image_size,
            input_range=recipe.input_range,
            features=None if recipe.features == AUTO_FEATURES else recipe.features,
            endpoint=recipe.endpoint,
            seed=recipe.seed,
        )


def photos_key(recipe: Recipe) -> tuple:
    """Return what recipes agree in that have the same photos, divided the same way."""
    return tuple(getattr(recipe, name) for name in PHOTO_FIELDS)


def backbone_key(recipe: Recipe) -> tuple:
    """Return what recipes agree in that have the same backbone before it is trained."""
    return (*(getattr(recipe, name) for name in BACKBONE_FIELDS), *photos_key(recipe))


def model_key(recipe: Recipe) -> tuple:
    """Return what recipes agree in that have the same layers before they are trained."""
    return (*(getattr(recipe, name) for name in HEAD_FIELDS), *backbone_key(recipe))


def load_default(recipe: Recipe, reporter: Reporter) -> tuple[Recipe, Backbone]:
    """Load the best backbone that is available without being named, and say which."""
    name = DEFAULT_BACKBONE
    try:
        backbone = open_backbone(recipe, name)
    except BackboneUnavailableError:
        reporter.say(
            f"No --backbone was given and the weights of {DEFAULT_BACKBONE} cannot be downloaded: "
            "using the small one that is embedded for the demo. Name a real one with --backbone "
            "for good results."
        )
        name = str(EMBEDDED_BACKBONE)
        backbone = open_backbone(recipe, name)
    else:
        reporter.say(f"No --backbone was given: using {name} with ImageNet weights.")
    return recipe.replace(backbone=name), backbone
