"""Pretrain the backbone that `tfinetune demo` fine-tunes, on images that this script draws itself.

The classes are random glyphs: strokes of arcs, loops, lines, polylines and splines, invented from a
seed. Every image redraws its glyph by another hand (other proportions, slant, wobble, pen width)
and on other paper: a crisp, blurred or noisy drawing in any contrast, or a coarse scan of 8x8 cells
of 17 grey levels. No font and no digit is involved, so whatever helps on real digits is transfer.

Run it in full to make the shipped file again (`--quick` only shows that it works):

    python examples/pretrain_demo_backbone.py --output tfinetune/assets/demo_backbone.h5
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from PIL import Image
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter

SEED = 2024
CLASSES = 256
SIZE = 32
CELLS = 8
"""Cells per side of a coarse scan, the format of scikit-learn's scanned digits."""
STEPS = 1200
BATCH = 256
STEPS_PER_ROUND = 25
"""Images are drawn for one round at a time, which keeps memory small and never shows one twice."""
EXPECTED_ACCURACY = 0.853
"""Accuracy of the shipped file on newly drawn images; a full rerun comes within 0.01 of it."""

LONE_KINDS = ("arc", "polyline", "spline")
KINDS = (*LONE_KINDS, "loop", "line", "arc")
"""A loop or a line alone looks like any other once it is slanted: it only comes with company."""
STROKES = 3
CONTROL_POINTS = 7
SAMPLES = 40
"""Points per stroke that are inked; 40 on a 32-pixel image leave no gap."""


@dataclass(frozen=True)
class Glyphs:
    """The classes: `control` [classes, STROKES, CONTROL_POINTS, 2], and which strokes are curved
    and which are drawn at all, each [classes, STROKES]."""

    control: np.ndarray
    curved: np.ndarray
    drawn: np.ndarray


def invent_glyphs(seed: int = SEED, *, classes: int = CLASSES) -> Glyphs:
    """Invent the glyph classes; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    control = np.zeros((classes, STROKES, CONTROL_POINTS, 2))
    curved = np.zeros((classes, STROKES), bool)
    drawn = np.zeros((classes, STROKES), bool)
    for glyph in range(classes):
        strokes = rng.choice([1, 2, 3], p=[0.35, 0.4, 0.25])
        for stroke in range(strokes):
            kind = rng.choice(LONE_KINDS if strokes == 1 else KINDS)
            control[glyph, stroke], curved[glyph, stroke] = _invent_stroke(kind, rng)
            drawn[glyph, stroke] = True
            if stroke and rng.random() < 0.7:
                # Most pens continue where they are or start on ink that is already there.
                joint = control[glyph, stroke - 1, rng.choice([0, 3, 6, 6])]
                control[glyph, stroke] += joint - control[glyph, stroke, 0]
    return Glyphs(control, curved, drawn)


def _invent_stroke(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    centre = rng.uniform(-0.5, 0.5, 2)
    if kind in ("arc", "loop"):
        extent = 2 * np.pi if kind == "loop" else rng.uniform(0.7, 1.7) * np.pi
        angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, extent, CONTROL_POINTS)
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.3, 0.9, 2)
        return centre + points * rng.choice([-1, 1]), True
    if kind == "line":
        angle = rng.uniform(0, 2 * np.pi)
        reach = np.linspace(-1, 1, CONTROL_POINTS)[:, None] * rng.uniform(0.3, 1)
        return centre + reach * np.array([np.cos(angle), np.sin(angle)]), False
    corners = rng.uniform(-1, 1, (3 if kind == "polyline" else 4, 2))
    position = np.linspace(0, len(corners) - 1, CONTROL_POINTS)
    degree = 1 if kind == "polyline" else 3
    return make_interp_spline(np.arange(len(corners)), corners, k=degree)(position), degree == 3


def _stroke_basis(degree: int) -> np.ndarray:
    """Matrix [SAMPLES, CONTROL_POINTS] from control points to points along the stroke."""
    knots = np.linspace(0, 1, CONTROL_POINTS)
    spline = make_interp_spline(knots, np.eye(CONTROL_POINTS), k=degree)
    return spline(np.linspace(0, 1, SAMPLES))


LINE_BASIS, CURVE_BASIS = _stroke_basis(1), _stroke_basis(3)
ENLARGE = np.asarray(
    Image.fromarray(np.eye(CELLS, dtype=np.float32)).resize((CELLS, SIZE), Image.Resampling.BICUBIC)
)
"""Matrix [SIZE, CELLS] of Pillow's bicubic enlargement along one axis."""


def draw(glyphs: Glyphs, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one new image for each label: uint8 [n, 32, 32, 3], values 0..255."""
    ink = _ink(_handwrite(glyphs, labels, rng), glyphs.drawn[labels], rng)
    scanned = rng.random(len(labels)) < 0.6
    images = np.empty((len(labels), SIZE, SIZE, 3), np.float32)
    images[scanned] = _scan(ink[scanned], rng)[..., None]
    images[~scanned] = _print(ink[~scanned], rng)
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def _handwrite(glyphs: Glyphs, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points of each stroke by another hand: [n, STROKES, SAMPLES, 2] in -1..1."""
    n = len(labels)
    control = glyphs.control[labels]
    control = control + rng.normal(0, 0.07, control.shape)
    control += rng.normal(0, 0.06, (n, STROKES, 1, 2))
    curved = glyphs.curved[labels][:, :, None, None]
    points = np.where(curved, CURVE_BASIS @ control, LINE_BASIS @ control)
    # A slow wave across the paper bends neighbouring strokes alike.
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1, 2))
    height = rng.uniform(0, 0.1, (n, 1, 1, 2))
    points = points + height * np.sin(rng.uniform(1, 3, (n, 1, 1, 2)) * points[..., ::-1] + phase)
    angle, slant = rng.normal(0, 0.13, n), rng.normal(0, 0.2, n)
    rotation = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1)
    shear = np.stack([np.ones(n), slant, np.zeros(n), np.ones(n)], 1)
    points = points @ (rotation.reshape(n, 1, 2, 2) @ shear.reshape(n, 1, 2, 2))
    return _fit_to_paper(points, glyphs.drawn[labels], rng)


def _fit_to_paper(points: np.ndarray, drawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(points)
    inked = drawn[:, :, None, None]
    low = np.where(inked, points, np.inf).min((1, 2), keepdims=True)
    high = np.where(inked, points, -np.inf).max((1, 2), keepdims=True)
    extent = high - low
    longest = extent.max(-1, keepdims=True)
    proportions = np.exp(rng.normal(0, 0.12, (n, 1, 1, 2)))
    # Half of the hands write between two lines: what is flat is drawn taller.
    ruled = rng.random((n, 1, 1)) < 0.5
    height = np.clip(longest[..., 0] / extent[..., 1], 1, 1.6)
    proportions[..., 1] *= np.where(ruled, height, 1)
    reach = rng.uniform(0.65, 1.0, (n, 1, 1, 1)) * proportions / longest
    placed = (points - (low + high) / 2) * 2 * reach
    return placed + rng.normal(0, 0.06, (n, 1, 1, 2))


def _ink(points: np.ndarray, drawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ink on paper, float32 [n, 32, 32] in 0..1: Gaussian pens, summed along the strokes."""
    n = len(points)
    pixels = ((points + 1) * (SIZE - 1) / 2).astype(np.float32)
    lengths = np.linalg.norm(np.diff(pixels, axis=2, append=pixels[:, :, -1:]), axis=-1)
    width = rng.uniform(0.8, 2.0, (n, 1, 1)).astype(np.float32)
    # The integral along a straight stroke is one at its middle, whatever the pen's width.
    weight = lengths * drawn[:, :, None] / (width * float(np.sqrt(2 * np.pi)))
    weight[..., -1] = weight[..., -2]
    grid = np.arange(SIZE, dtype=np.float32)
    distance = (pixels.reshape(n, -1, 2, 1) - grid) / width[..., None]
    pen = np.exp(-0.5 * distance**2)
    down = pen[:, :, 1] * weight.reshape(n, -1, 1)
    # TensorFlow multiplies a stack of small matrices eight times faster than NumPy.
    amount = keras.ops.convert_to_numpy(keras.ops.matmul(np.swapaxes(down, 1, 2), pen[:, :, 0]))
    edge = rng.uniform(0.05, 0.25, (n, 1, 1)).astype(np.float32)
    return np.clip(0.5 + (amount - 0.5) / (2 * edge), 0, 1)


def _scan(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coarse scans [n, 32, 32] in 0..255: inked dots counted in 8x8 cells, enlarged smoothly."""
    n, side = len(ink), SIZE // CELLS
    dots = ink + rng.normal(0, 0.15, ink.shape) > rng.uniform(0.35, 0.65, (n, 1, 1))
    counts = dots.reshape(n, CELLS, side, CELLS, side).sum((2, 4), dtype=np.float32)
    cells = counts * (255 / side**2)
    return np.clip(ENLARGE @ cells @ ENLARGE.T, 0, 255)


def _print(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coloured drawings [n, 32, 32, 3] in 0..255 of any contrast, on shaded, noisy paper."""
    n = len(ink)
    ink = gaussian_filter(ink, (0, 0.6, 0.6))
    paper = rng.uniform(0, 255, (n, 1, 1, 3))
    pen = rng.uniform(0, 255, (n, 1, 1, 3))
    too_faint = np.abs(paper.mean(-1) - pen.mean(-1))[..., None] < 70
    pen = np.where(too_faint, (paper + 128) % 256, pen)
    slope = np.linspace(-1, 1, SIZE)
    shade = rng.normal(0, 20, (n, 1, 1, 1)) * slope[:, None, None]
    shade = shade + rng.normal(0, 20, (n, 1, 1, 1)) * slope[:, None]
    noise = rng.normal(0, 1, (n, SIZE, SIZE, 1)) * rng.uniform(0, 25, (n, 1, 1, 1))
    return paper + (pen - paper) * ink[..., None] + shade + noise


def draw_batch(glyphs: Glyphs, count: int, *, seed: tuple[int, ...]) -> tuple:
    """Draw `count` images of random glyphs: (uint8 [count, 32, 32, 3], int32 [count])."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(glyphs.control), count, dtype=np.int32)
    return draw(glyphs, labels, rng), labels


def held_out_accuracy(model: keras.Model, *, count: int = 8192, seed: int = 1) -> float:
    """Return the accuracy of `model` on newly drawn images that no training round has seen."""
    images, labels = draw_batch(invent_glyphs(), count, seed=(SEED, 10**6, seed))
    predicted = model.predict(images.astype(np.float32), batch_size=512, verbose=0).argmax(-1)
    return float(np.mean(predicted == labels))


def build_model(*, classes: int = CLASSES) -> keras.Model:
    """Build the network: photos float32 [b, 32, 32, 3] in 0..255 to probabilities [b, classes]."""
    photos = keras.Input((SIZE, SIZE, 3), name="photos")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")(photos)
    plan = [(32, 5, 2), (64, 3, 2), (96, 3, 1), (120, 3, 2), (120, 3, 1)]
    for index, (filters, kernel, stride) in enumerate(plan, start=1):
        x = keras.layers.Conv2D(
            filters, kernel, stride, padding="same", use_bias=False, name=f"conv_{index}"
        )(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"bn_{index}")(x)
        x = keras.layers.ReLU(name=f"relu_{index}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pooling")(x)
    outputs = keras.layers.Dense(classes, activation="softmax", name="glyphs")(x)
    return keras.Model(photos, outputs, name="demo_backbone")


def pretrain(*, steps: int = STEPS) -> keras.Model:
    """Train a new network for `steps` batches of new images and print its progress."""
    keras.utils.set_random_seed(SEED)
    glyphs = invent_glyphs()
    model = build_model()
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps, warmup_target=3e-3, warmup_steps=max(1, steps // 20)
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    started = time.perf_counter()
    for first in range(0, steps, STEPS_PER_ROUND):
        count = min(STEPS_PER_ROUND, steps - first) * BATCH
        images, labels = draw_batch(glyphs, count, seed=(SEED, first))
        history = model.fit(images, labels, batch_size=BATCH, shuffle=False, verbose=0).history
        print(
            f"step {first + count // BATCH:5d}/{steps}  loss {history['loss'][0]:.3f}  "
            f"accuracy {history['accuracy'][0]:.3f}  {time.perf_counter() - started:4.0f} s",
            flush=True,
        )
    return model


def main() -> None:
    """Pretrain, measure and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo_backbone.h5"))
    parser.add_argument("--steps", type=int, default=STEPS, help=f"batches of {BATCH} images")
    parser.add_argument("--quick", action="store_true", help="20 steps: shows that it works")
    arguments = parser.parse_args()
    model = pretrain(steps=20 if arguments.quick else arguments.steps)
    accuracy = held_out_accuracy(model)
    print(f"held-out accuracy {accuracy:.4f} (of a full run: {EXPECTED_ACCURACY:.4f})")
    uncompiled = keras.Model(model.inputs, model.outputs, name=model.name)
    uncompiled.save(arguments.output)
    print(f"wrote {arguments.output} ({arguments.output.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
