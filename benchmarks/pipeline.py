"""Reading speed and quality: a folder of JPEGs to batches, against Keras's directory reader.

The peer is `keras.utils.image_dataset_from_directory` with `prefetch`, as its documentation shows
it. Photos of 500x375 are scaled from those in `--data`; photos of 12 megapixels are four of them,
enlarged, side by side. Three passes, each to the last batch:

- decoding: of a folder opened before, by both; nothing is kept in memory.
- first: opens the folder, too. tfinetune's also checks and hashes every file, compares all photos
  to find duplicates, and keeps them: what that adds is the difference to the row above.
- later: by tfinetune from memory.

Quality is the median PSNR against the whole photo decoded and resized with antialiasing.

    python -m benchmarks pipeline --data photos/
"""

import argparse
import math
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import tfinetune as ft
from benchmarks.augmentation import reader
from benchmarks.race import race
from benchmarks.results import Row

BATCH_SIZE = 32
SMALL, LARGE = (500, 375), (4000, 3000)
TILES = {SMALL: 1, LARGE: 2}
LEAST_FIRST = {SMALL: 1.1, LARGE: 1.7}
LEAST_LATER = 8.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m benchmarks pipeline`."""
    parser.add_argument("--data", type=Path, required=True, help="folder of JPEG photos")
    parser.add_argument("--small", type=int, default=1024, help="photos of 500x375")
    parser.add_argument("--large", type=int, default=48, help="photos of 12 megapixels")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=5)


def run(arguments: argparse.Namespace) -> list[Row]:
    """Measure both sizes."""
    sources = sorted(path for path in arguments.data.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not sources:
        raise SystemExit(f"There is no JPEG in {arguments.data}.")
    rows = []
    for size, count in ((SMALL, arguments.small), (LARGE, arguments.large)):
        with tempfile.TemporaryDirectory() as folder:
            files = write_photos(sources, Path(folder), count=count, size=size)
            rows += compare(Path(folder), files, size=size, arguments=arguments)
    return rows


SUFFIXES = (".jpg", ".jpeg")


def compare(
    folder: Path, files: list[Path], *, size: tuple[int, int], arguments: argparse.Namespace
) -> list[Row]:
    """Race first and later passes over a folder."""
    side = arguments.image_size

    def read_by_keras() -> tf.data.Dataset:
        dataset = keras.utils.image_dataset_from_directory(
            folder, image_size=(side, side), batch_size=BATCH_SIZE, shuffle=False, verbose=False
        )
        return dataset.prefetch(tf.data.AUTOTUNE)

    def read_by_us(**options) -> tf.data.Dataset:
        splits = ft.data.from_image_folder(folder, image_size=side, validation=0, test=0, **options)
        return splits.train.dataset(BATCH_SIZE)

    ours, theirs, decoding = read_by_us(), read_by_keras(), read_by_us(memory_limit=0)
    gain = np.median(psnr(ours, files, side)) - np.median(psnr(theirs, files, side))
    name = f"{len(files)} of {size[0]}x{size[1]}"
    options = {
        "peer_name": "image_dataset_from_directory",
        "examples": len(files),
        "repeats": arguments.repeats,
    }
    note = f"{gain:+.1f} dB"
    least = LEAST_FIRST[size]
    return [
        race(
            f"{name}, decoding pass",
            reader(decoding),
            reader(theirs),
            least=least,
            note=note,
            **options,
        ),
        race(
            f"{name}, first pass",
            lambda: reader(read_by_us())(),
            lambda: reader(read_by_keras())(),
            least=least,
            note=note,
            **options,
        ),
        race(f"{name}, later pass", reader(ours), reader(theirs), least=LEAST_LATER, **options),
    ]


def psnr(dataset: tf.data.Dataset, files: list[Path], side: int) -> list[float]:
    """Compare batches, in the order of `files`, with whole photos resized with antialiasing."""
    images = np.concatenate([images for images, _ in dataset])
    decibels = []
    for image, path in zip(images, files, strict=True):
        whole = tf.io.decode_jpeg(path.read_bytes(), channels=3)
        reference = tf.image.resize(whole, (side, side), antialias=True)
        error = float(np.mean((np.round(image) - reference) ** 2))
        decibels.append(10 * math.log10(255**2 / error))
    return decibels


def write_photos(
    sources: list[Path], folder: Path, *, count: int, size: tuple[int, int]
) -> list[Path]:
    """Write JPEGs of one size in two classes."""
    random = np.random.default_rng(0)
    tiles = TILES[size]
    width, height = (side // tiles for side in size)
    files = []
    for index in range(count):
        photo = Image.new("RGB", size)
        for tile in range(tiles**2):
            source = Image.open(sources[random.integers(len(sources))]).convert("RGB")
            place = (tile % tiles * width, tile // tiles * height)
            photo.paste(source.resize((width, height)), place)
        path = folder / ("first" if index < count // 2 else "second") / f"{index:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        photo.save(path, quality=90)
        files.append(path)
    return files
