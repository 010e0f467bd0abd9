"""The parity gate: an export is good when fresh processes predict what Keras predicts."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from tfinetune.data import decode_files
from tfinetune.errors import ParityError

TOLERANCE = 1e-4
MAX_PHOTOS = 32
ROUTES = ("tf2", "v1")


@dataclass(frozen=True)
class ParityRow:
    """Largest difference of a probability between Keras and one way to serve."""

    route: str
    signature: str
    examples: int
    max_difference: float
    tolerance: float


def check_parity(
    model: keras.Model,
    saved_model: str | Path,
    *,
    photos: Sequence[str | Path],
    aspect: str,
    tolerance: float = TOLERANCE,
) -> list[ParityRow]:
    """Compare Keras with both signatures, loaded by TensorFlow 2 and by a version 1 Session.

    The Session takes the route of TensorFlow Serving. Each route runs in a process of its own,
    which sees the SavedModel and TensorFlow, and neither Keras code nor tfinetune.

    Args:
        model: image -> probabilities.
        saved_model: the exported folder.
        photos: real files; at most 32 of them are used, evenly spread.
        aspect: how they are brought to the model's size.
        tolerance: largest difference allowed, as a probability.

    Raises:
        ParityError: if a route fails or differs by more.
    """
    photos = list(photos)[:: max(1, len(photos) // MAX_PHOTOS)][:MAX_PHOTOS]
    images, failures = decode_files(photos, image_size=model.input_shape[1:3], aspect=aspect)
    usable = [index for index in range(len(photos)) if index not in failures]
    if not usable:
        raise ParityError(f"None of the {len(photos)} photos for the parity gate can be read.")
    images = images[usable].astype(np.float32)
    expected = model.predict(images, verbose=0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        _write_inputs(inputs, images, [Path(photos[i]).read_bytes() for i in usable])
        workers = {route: _start(route, saved_model, inputs) for route in ROUTES}
        for route, worker in workers.items():
            outputs = _finish(route, worker, inputs.with_name(f"{route}.npz"))
            for signature, probabilities in outputs.items():
                difference = float(np.abs(probabilities - expected).max())
                rows.append(ParityRow(route, signature, len(usable), difference, tolerance))
    worst = max(rows, key=lambda row: row.max_difference)
    if not worst.max_difference <= tolerance:
        raise ParityError(
            f"The exported model differs from Keras by {worst.max_difference:.2g} in probability "
            f"({worst.signature} through {worst.route}; {tolerance:g} is allowed). It was not kept."
        )
    return rows


def _write_inputs(path: Path, images: np.ndarray, files: list[bytes]) -> None:
    # Files differ in length; joined, with their lengths beside, they need no pickle.
    joined = np.frombuffer(b"".join(files), dtype=np.uint8)
    np.savez(path, images=images, joined=joined, lengths=[len(file) for file in files])


def _start(route: str, saved_model: str | Path, inputs: Path) -> subprocess.Popen:
    script = Path(__file__).with_name("parity_worker.py")
    return subprocess.Popen(
        [sys.executable, "-I", str(script), route, str(saved_model), str(inputs)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(route: str, worker: subprocess.Popen, outputs: Path) -> dict[str, np.ndarray]:
    _, errors = worker.communicate()
    if worker.returncode != 0:
        reason = (errors.strip().splitlines() or ["no message"])[-1]
        raise ParityError(f"The exported model cannot be served through {route}: {reason}")
    with np.load(outputs) as arrays:
        return {name: arrays[name] for name in arrays.files}
