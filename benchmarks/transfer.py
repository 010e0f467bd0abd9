"""What pretraining is worth: a linear probe on each backbone against the same one at random.

Both learn from the same splits, 30% of the photos for testing, one split for each seed. The random
one has the same architecture, image size and pixel range; its BatchNorm statistics are those of a
fresh layer. Each is used up to the depth that does best in cross-validation on its training photos.

    python -m benchmarks transfer --data photos/ --backbone a.h5 --backbone SqueezeNet=weights.h5
"""

import argparse
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmarks.results import Row

LEAST = 5.0
"""Points of accuracy that pretrained weights gain over random ones, on average."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks transfer`."""
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per class")
    parser.add_argument(
        "--backbone",
        action="append",
        required=True,
        help="file, SavedModel folder, or ARCHITECTURE=WEIGHTS; may be repeated",
    )
    parser.add_argument("--image-size", type=int, help="rebuild backbones that can be, at this")
    parser.add_argument("--seeds", type=int, default=3, help="splits to measure")


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure each backbone."""
    rows = []
    for source in arguments.backbone:
        trials = []
        for seed in range(arguments.seeds):
            size, pretrained = _accuracy(arguments, source, seed)
            _, random = _accuracy(arguments, source, seed, scratch=True)
            trials.append((pretrained, random))
            print(f"{source} seed {seed}: {pretrained:.3f}, random {random:.3f}", flush=True)
        pretrained, random = np.mean(trials, axis=0)
        gains = [100 * (mine - theirs) for mine, theirs in trials]
        name = "/".join(Path(source).parts[-2:])
        rows.append(
            Row(
                f"linear probe on {name} at {'x'.join(map(str, size))}",
                "random weights",
                value=float(np.mean(gains)),
                least=LEAST,
                unit="points",
                ours=f"{pretrained:.3f}",
                theirs=f"{random:.3f}",
                note=f"at least {min(gains):+.1f} of {len(gains)} splits",
            )
        )
    return rows


def _accuracy(
    arguments: argparse.Namespace, source: str, seed: int, *, scratch: bool = False
) -> tuple[tuple[int, int], float]:
    import tfinetune as ft
    from tfinetune.training import FeatureCache

    name, _, weights = source.partition("=")
    backbone = ft.load_backbone(
        name, weights=weights or "imagenet", image_size=arguments.image_size, seed=seed
    )
    if scratch:
        backbone = backbone.reinitialized(seed)
    splits = _splits(arguments.data, backbone.image_size, seed)
    backbone = ft.choose_depth(backbone, splits.train, seed=seed)
    tuner = ft.FineTuner(backbone, splits.spec, seed=seed, cache=FeatureCache())
    tuner.fit(splits, ft.strategies.LinearProbe())
    return backbone.image_size, tuner.evaluate(splits.test)["accuracy"]


@lru_cache(maxsize=1)
def _splits(data: Path, image_size: tuple[int, int], seed: int):
    import tfinetune as ft

    return ft.data.from_image_folder(data, image_size=image_size, validation=0, test=0.3, seed=seed)
