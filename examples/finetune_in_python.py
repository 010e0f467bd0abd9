"""The main job in Python: split, fine-tune, measure, save, export.

python examples/finetune_in_python.py PHOTOS BACKBONE OUTPUT
"""

import sys
from pathlib import Path

import tfinetune as ft


def main(photos: str, backbone: str, output: str) -> float:
    """Return the test accuracy."""
    base = ft.load_backbone(backbone)
    print(f"expects pixels in {base.input_scaling.describe()}, groups:", *base.groups, sep="\n  ")

    splits = ft.data.from_image_folder(photos, image_size=base.image_size)
    tuner = ft.FineTuner(base, splits.spec, seed=0)
    outcome = tuner.fit(splits, ft.strategies.LPFT(epochs=3), batch_size=16)
    print(f"{outcome.shipped.phase} ships")

    metrics = tuner.evaluate(splits.test)
    print(f"accuracy {metrics['accuracy']:.1%} on {metrics['n']} photos never seen")

    tuner.save(Path(output) / "model.keras")
    tuner.export(Path(output) / "serving" / "1")
    return metrics["accuracy"]


if __name__ == "__main__":
    main(*sys.argv[1:])
