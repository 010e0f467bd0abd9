"""The one file a killed run continues from: weights, optimizer, random states, best so far."""

import json
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfinetune.errors import RunError
from tfinetune.storage import atomic_path

Arrays = list[np.ndarray]

FEATURES = "features"
"""Under which the time is booked that running frozen layers ahead takes."""

_PAST_THE_LAST = 10**6
"""A phase that no strategy gets to."""


@dataclass(frozen=True)
class Candidate:
    """What a phase offers to ship: its weights and how they did on the validation split."""

    phase: str
    weights: Arrays
    accuracy: float | None = None
    loss: float | None = None
    epoch: int = 0

    @property
    def score(self) -> tuple[float, float]:
        """Orders measured candidates: by validation accuracy, then by validation loss."""
        # Keras counts in float32: its 2/3 is above that of float64.
        return (round(self.accuracy, 6), -self.loss)


@dataclass
class TrainingState:
    """Everything that the rest of a run depends on, after the last finished epoch.

    Attributes:
        phase: index of the phase that goes on.
        epoch: finished epochs of that phase.
        weights: of the model, seed-generator states included.
        optimizer: variables of the optimizer, empty between phases.
        best: the best epoch of the phase so far.
        candidates: what finished phases offer.
        history: a row for every finished epoch.
        seconds: time spent in each phase, and under `FEATURES`.
    """

    phase: int = 0
    epoch: int = 0
    weights: Arrays = field(default_factory=list)
    optimizer: Arrays = field(default_factory=list)
    best: Candidate | None = None
    candidates: list[Candidate] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def offers(self) -> list[Candidate]:
        """What may ship if no more is trained: of finished phases, and the best of this one."""
        return [*self.candidates, *([self.best] if self.best else [])]

    @property
    def training_seconds(self) -> float:
        """Time spent in phases, without features, which others may find ready."""
        return sum(seconds for name, seconds in self.seconds.items() if name != FEATURES)

    def settle(self) -> None:
        """Train no more: offer what there is so far."""
        if self.best is not None:
            self.weights = self.best.weights
        self.candidates = self.offers
        self.phase, self.epoch, self.best, self.optimizer = _PAST_THE_LAST, 0, None, []

    @contextmanager
    def booking(self, phase: str) -> Iterator[None]:
        """Book the time that the block takes under a phase."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add_seconds(phase, time.monotonic() - started)

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Book time under a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


class Checkpoint:
    """Save and load a `TrainingState` as one `.npz`, replaced atomically after every epoch."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def save(self, state: TrainingState) -> None:
        """Write the state; a reader finds the previous one or this one."""
        arrays: dict[str, np.ndarray] = {}
        described = []
        for index, candidate in enumerate(state.offers):
            _pack(arrays, f"candidate{index}", candidate.weights)
            described.append(
                {
                    "phase": candidate.phase,
                    "accuracy": candidate.accuracy,
                    "loss": candidate.loss,
                    "epoch": candidate.epoch,
                }
            )
        _pack(arrays, "weights", state.weights)
        _pack(arrays, "optimizer", state.optimizer)
        description = {
            "phase": state.phase,
            "epoch": state.epoch,
            "has_best": state.best is not None,
            "candidates": described,
            "history": state.history,
            "seconds": state.seconds,
        }
        with atomic_path(self.path) as temporary:
            np.savez(temporary, description=json.dumps(description), **arrays)

    def load(self) -> TrainingState | None:
        """Read the state, or None where no epoch was finished.

        Raises:
            RunError: if the file is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                description = json.loads(str(arrays["description"]))
                candidates = [
                    Candidate(weights=_unpack(arrays, f"candidate{index}"), **candidate)
                    for index, candidate in enumerate(description["candidates"])
                ]
                best = candidates.pop() if description["has_best"] else None
                return TrainingState(
                    phase=description["phase"],
                    epoch=description["epoch"],
                    weights=_unpack(arrays, "weights"),
                    optimizer=_unpack(arrays, "optimizer"),
                    best=best,
                    candidates=candidates,
                    history=description["history"],
                    seconds=description["seconds"],
                )
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise RunError(
                f"The checkpoint {self.path} is damaged ({error}). Delete it to start the run's "
                "training again with --resume."
            ) from None


def _pack(arrays: dict[str, np.ndarray], prefix: str, values: Arrays) -> None:
    arrays.update({f"{prefix}/{index:05d}": value for index, value in enumerate(values)})


def _unpack(arrays: Any, prefix: str) -> Arrays:
    names = sorted(name for name in arrays.files if name.startswith(f"{prefix}/"))
    return [arrays[name] for name in names]
