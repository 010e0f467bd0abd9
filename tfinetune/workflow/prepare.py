"""What a recipe names, loaded: the backbone and the photos at its size."""

from pathlib import Path

from tfinetune.backbones import load_backbone
from tfinetune.data import Splits, from_image_folder, get_policy
from tfinetune.errors import BackboneUnavailableError, RunError
from tfinetune.finetuner import FineTuner
from tfinetune.recipe import Recipe
from tfinetune.reporting import Reporter
from tfinetune.runs import RunFolder

DEFAULT_BACKBONE = "EfficientNetV2B0"
EMBEDDED_BACKBONE = Path(__file__).parents[1] / "assets" / "demo_backbone.h5"


def default_backbone(reporter: Reporter) -> str:
    """Return the best backbone that is available without being named, and say which."""
    try:
        load_backbone(DEFAULT_BACKBONE)
    except BackboneUnavailableError:
        reporter.say(
            f"No --backbone was given and the weights of {DEFAULT_BACKBONE} cannot be downloaded: "
            "using the small one that is embedded for the demo. Name a real one with --backbone "
            "for good results."
        )
        return str(EMBEDDED_BACKBONE)
    reporter.say(f"No --backbone was given: using {DEFAULT_BACKBONE} with ImageNet weights.")
    return DEFAULT_BACKBONE


def prepare(recipe: Recipe, reporter: Reporter) -> tuple[FineTuner, Splits]:
    """Load the backbone, then read the photos at its size."""
    get_policy(recipe.augmentation)  # a wrong name is refused before anything slow
    backbone = load_backbone(
        recipe.backbone,
        weights=recipe.weights,
        image_size=recipe.image_size,
        input_range=recipe.input_range,
        seed=recipe.seed,
    )
    for warning in backbone.provenance.warnings:
        reporter.say(warning)
    with reporter.bar("reading photos") as advance:
        splits = from_image_folder(
            recipe.data,
            image_size=backbone.image_size,
            aspect=recipe.aspect,
            validation=recipe.validation,
            test=recipe.test,
            seed=recipe.seed,
            progress=advance,
        )
    tuner = FineTuner(
        backbone, splits.spec, dropout=recipe.dropout, seed=recipe.seed, reporter=reporter
    )
    return tuner, splits


def check_same_data(folder: RunFolder, splits: Splits) -> None:
    started = folder.phases_path.exists()  # else it was killed before it looked at the photos
    if started and folder.phases().get("fingerprint") != splits.spec.fingerprint:
        raise RunError(
            f"The photos changed since the run in {folder.path} was started, so it cannot be "
            "continued as it was. Restore them, or start a new run with another --output."
        )
