"""The options of benchmarks that run any backbone on photos in memory."""

import argparse

import tfinetune as ft
from tfinetune.backbones import Backbone


def add_arguments(parser: argparse.ArgumentParser, *, image_size: int) -> None:
    """Declare the backbone, the photos and the repeats."""
    parser.add_argument("--backbone", default="MobileNetV2", help="file or architecture")
    parser.add_argument("--weights", default="none", help="of an architecture")
    parser.add_argument("--image-size", type=int, default=image_size)
    parser.add_argument("--photos", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)


def open_backbone(arguments: argparse.Namespace) -> Backbone:
    """Open the backbone that was named, for pixels in [-1, 1]."""
    return ft.load_backbone(
        arguments.backbone,
        weights=arguments.weights,
        image_size=arguments.image_size,
        input_range="tf",
    )
