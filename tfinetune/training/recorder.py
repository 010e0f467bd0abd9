"""The callback that keeps the state of training after every epoch, and the best epoch."""

import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from tfinetune.reporting import Advance
from tfinetune.training.checkpoint import Candidate, TrainingState
from tfinetune.training.objectives import CROSS_ENTROPY
from tfinetune.training.phase import Phase


class Recorder(keras.callbacks.Callback):
    """Brings a state up to date after every epoch, and ends training that diverged.

    Args:
        phase: what is trained.
        state: `state.weights` are those that training starts from.
        variables: of the whole model, whose values the weights are.
        fitted: those of the part that is trained; the others stay as they are.
        steps: of the whole phase.
        advance: told how far it is.
        save: given the state.
        say: told of a loss that is not finite.
    """

    def __init__(
        self,
        phase: Phase,
        state: TrainingState,
        *,
        variables: Sequence[keras.Variable],
        fitted: Sequence[keras.Variable],
        steps: int,
        advance: Advance,
        save: Callable[[TrainingState], None],
        say: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._phase, self._state = phase, state
        self._steps, self._advance = steps, advance
        self._save, self._say = save, say
        moving = {id(variable) for variable in fitted}
        self._moving = {i: v for i, v in enumerate(variables) if id(v) in moving}
        self._started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Move the bar."""
        before = self._state.epoch * self._steps // self._phase.epochs
        self._advance(before + batch + 1, self._steps)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keep weights, optimizer, history and the best epoch."""
        logs = {name: float(value) for name, value in (logs or {}).items()}
        if f"val_{CROSS_ENTROPY}" in logs:
            logs["val_loss"] = logs[f"val_{CROSS_ENTROPY}"]
        seconds, self._started = time.monotonic() - self._started, time.monotonic()
        state, phase = self._state, self._phase
        state.epoch = epoch + 1
        state.history.append(
            {
                "phase": phase.name,
                "epoch": epoch + 1,
                **{
                    k: logs[k]
                    for k in ("loss", "accuracy", "val_loss", "val_accuracy")
                    if k in logs
                },
                "learning_rate": float(self.model.optimizer.learning_rate),
                "seconds": round(seconds, 3),
            }
        )
        state.add_seconds(phase.name, seconds)
        state.weights = list(state.weights)
        for index, variable in self._moving.items():
            state.weights[index] = np.copy(ops.convert_to_numpy(variable))
        finite = np.isfinite(logs["loss"])
        if "val_loss" in logs and finite:
            candidate = Candidate(
                phase.name, state.weights, logs["val_accuracy"], logs["val_loss"], epoch + 1
            )
            if state.best is None or candidate.score > state.best.score:
                state.best = candidate
        state.optimizer = [ops.convert_to_numpy(v) for v in self.model.optimizer.variables]
        self._save(state)
        if not finite:
            self._say(f"{phase.name}: the loss is not finite after epoch {epoch + 1}.")
            self.model.stop_training = True
