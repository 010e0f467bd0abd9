"""What a search is worth: the winner's test accuracy against that of the default recipe.

For each seed the photos are divided anew, 30% for the test and 15% for validation. The search takes
the default space; its first trial is the default recipe, which is trained once more to be tested.

    python -m benchmarks search_worth --data photos/ --backbone base_model.keras
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.results import Row

TEST_SHARE = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks search_worth`."""
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per class")
    parser.add_argument("--backbone", required=True, help="as for `tfinetune search`")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)


def run(arguments: argparse.Namespace) -> list[Row]:
    """Search once for each seed, and compare the means over the seeds."""
    pairs = []
    for seed in range(arguments.seeds):
        started = time.monotonic()
        default, winner, taken = _search(arguments, seed)
        pairs.append((default, winner))
        print(
            f"seed {seed}  default {default:.3f}  winner {winner:.3f} (trial {taken})  "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
    defaults, winners = zip(*pairs, strict=True)
    error = statistics.stdev(defaults) / len(defaults) ** 0.5 if len(defaults) > 1 else 0.0
    return [
        Row(
            f"test accuracy of the winner of {arguments.trials} trials",
            "the default recipe",
            value=100 * (statistics.mean(winners) - statistics.mean(defaults)),
            least=-100 * error,
            unit="points",
            ours=f"{statistics.mean(winners):.3f}",
            theirs=f"{statistics.mean(defaults):.3f}",
            note=f"at most one standard error below; {len(pairs)} splits",
            details=pairs,
        )
    ]


def _search(arguments: argparse.Namespace, seed: int) -> tuple[float, float, str]:
    """Return the test accuracy of the default recipe and of the winner, and the latter's trial."""
    import tfinetune as ft
    from tfinetune.training import FeatureCache
    from tfinetune.training.strategies import build_strategy

    recipe = ft.Recipe(
        data=str(arguments.data.resolve()),
        backbone=arguments.backbone,
        image_size=arguments.image_size,
        strategy_parameters={"epochs": arguments.epochs},
        test=TEST_SHARE,
        seed=seed,
    )
    search = ft.search.SearchRecipe(recipe=recipe, trials=arguments.trials)
    workbench = ft.search.Workbench(FeatureCache())
    with tempfile.TemporaryDirectory() as folder:
        found = ft.search.run(search, Path(folder) / "search", workbench=workbench)
    tuner, splits = workbench.tuner(recipe)
    tuner.fit(
        splits,
        build_strategy(recipe.strategy, recipe.strategy_parameters),
        batch_size=recipe.batch_size,
        augment=recipe.augmentation,
        class_weighting=recipe.class_weights,
    )
    default = tuner.evaluate(splits.test)["accuracy"]
    return default, found.best.metrics["test"]["accuracy"], found.leaderboard[0].trial
