"""Run trials: each a recipe, trained in this process on what all trials share."""

import gc
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import keras_tuner as kt

from tfinetune.errors import TrainingError, reason_of
from tfinetune.inference import latency_ms
from tfinetune.recipe import Recipe
from tfinetune.search.folder import SearchFolder
from tfinetune.search.leaderboard import Result, outcome, short
from tfinetune.search.oracles import OBJECTIVES, Durable, varied
from tfinetune.search.pruning import can_prune, is_hopeless
from tfinetune.search.space import Space
from tfinetune.search.workbench import Workbench, agreed
from tfinetune.storage import remove_partials
from tfinetune.training import Candidate, Checkpoint
from tfinetune.training.checkpoint import TrainingState
from tfinetune.training.runner import choose
from tfinetune.training.strategies import build_strategy
from tfinetune.workflow.prepare import model_key


class TrialEnded(Exception):
    """Ends a trial after an epoch, before all are done.

    Attributes:
        status: as in `Result`.
    """

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class HeldCheckpoint(Checkpoint):
    """A checkpoint that is in memory until `write`: an epoch on cached features is faster than a
    disk.

    Args:
        path: where it is written.
        start: what training goes on from; None begins anew, whatever is at the path.
    """

    def __init__(self, path: Path, *, start: TrainingState | None = None) -> None:
        super().__init__(path)
        self.state = start

    def load(self) -> TrainingState | None:
        """Return what is held."""
        return self.state

    def save(self, state: TrainingState) -> None:
        """Hold the state."""
        self.state = state

    def write(self) -> None:
        """Write what is held."""
        super().save(self.state)


@dataclass(frozen=True)
class Watch:
    """What `fit` tells about every epoch: whether the trial goes on.

    Attributes:
        epochs: of the whole trial.
        budget: of them, that it may do now.
        deadline: in seconds since 1970, or None.
        others: histories of trials that it is pruned by, or None.
        objective: that they are compared by.
    """

    epochs: int
    budget: int
    deadline: float | None = None
    others: Sequence[list[dict[str, Any]]] | None = None
    objective: str = "val_accuracy"

    def __call__(self, history: list[dict[str, Any]]) -> None:
        """Raise `TrialEnded` if it does not."""
        if len(history) >= self.epochs:
            return
        if len(history) >= self.budget:
            raise TrialEnded("paused")
        if self.others is not None and is_hopeless(
            self.rows(history), self.others, objective=self.objective
        ):
            raise TrialEnded("pruned")
        if self.deadline is not None and time.time() >= self.deadline:
            raise TrialEnded("stopped")

    def rows(self, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows as JSON takes them, None where a number is not finite.

        Each has its `share`, the part of all epochs that is done after it.
        """
        return [
            {name: value if _is_finite(value) else None for name, value in row.items()}
            | {"share": number / self.epochs}
            for number, row in enumerate(history, start=1)
        ]


class RecipeTuner(kt.Tuner):
    """A KerasTuner tuner whose trials are recipes.

    Args:
        oracle: proposes values.
        space: makes a recipe of them.
        base: the recipe that the search starts from.
        folder: of the search.
        workbench: what trials share.
        max_epochs: what Hyperband's oracle takes for a whole training.

    Attributes:
        running: the trial that is being trained, or None.
    """

    def __init__(
        self,
        oracle: Durable,
        *,
        space: Space,
        base: Recipe,
        folder: SearchFolder,
        workbench: Workbench,
        max_epochs: int = 1,
    ) -> None:
        super().__init__(oracle, directory=str(folder.path), project_name=folder.trials_path.name)
        self._space, self._base, self._folder = space, base, folder
        self._workbench, self._max_epochs = workbench, max_epochs
        self._search = folder.recipe()
        self.running: str | None = None
        # clear_session resets the policy between trials.
        self._policy = keras.config.dtype_policy()

    def search(self, *arguments: Any, **keywords: Any) -> None:
        """Run trials until the oracle has no more."""
        # A collection after each trial looks through everything else that Python holds, a quarter
        # of a second with TensorFlow and as long as a small trial, unless it is left out.
        gc.freeze()
        try:
            super().search(*arguments, **keywords)
        finally:
            gc.unfreeze()

    def save(self) -> None:
        """Write the state of the oracle, where it is in this process."""
        if isinstance(self.oracle, Durable):
            self.oracle.save()

    def pre_create_trial(self) -> None:
        """Do not ask a chief in a tight loop while it has nothing to do."""
        if not isinstance(self.oracle, Durable):
            time.sleep(0.1)

    def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
        """Train the recipe of a trial and keep its result.

        Raises:
            kt.errors.FailedTrialError: with the reason; the search goes on.
        """
        # On its way between processes KerasTuner adds values whose conditions do not hold.
        trial.hyperparameters.ensure_active_values()
        # A search that was killed between a result and the oracle's record has it already.
        result = self._folder.result(trial.trial_id)
        if result is None or result.status == "stopped":
            result = self._run(trial, earlier=result.seconds if result else 0.0)
        if result.status == "failed":
            raise kt.errors.FailedTrialError(result.reason)
        return {self._search.objectives[0]: self._score(result)}

    def _score(self, result: Result) -> float:
        """Return what the oracle compares a trial by."""
        objective = self._search.objectives[0]
        judged_by_epochs = self._search.oracle == "hyperband" and objective.startswith("val_")
        if not (judged_by_epochs and result.history):
            return result.metrics[objective]
        # What a probe offers before the first epoch does not tell how training goes on, and is the
        # same for most trials.
        reached = [row[objective] for row in result.history if None not in row.values()]
        if not reached:
            raise kt.errors.FailedTrialError(result.reason)
        return max(reached) if OBJECTIVES[objective] == "max" else min(reached)

    def _run(self, trial: Any, *, earlier: float) -> Result:
        """Train; `earlier` are the seconds that the trial took before time was up within it."""
        keras.config.set_dtype_policy(self._policy)
        started, objective = time.monotonic() - earlier, self._search.objectives[0]
        self.running = trial.trial_id
        name, drawn = trial.trial_id, dict(trial.hyperparameters.values)
        values = varied(drawn)
        remove_partials(self._folder.trial_path(name))  # of a worker that was killed
        try:
            recipe = self._space.recipe(drawn, self._base)
            result = self._train(name, recipe, drawn)
        except Exception as error:  # whatever it is, it ends this trial and no other
            reason = reason_of(error)
            seconds = time.monotonic() - started
            failed = Result(name, "failed", values, seconds=seconds, reason=reason)
            self._folder.write_result(failed)
            self._folder.checkpoint_path(name).unlink(missing_ok=True)
            self._workbench.reporter.say(outcome(failed, objective))
            raise kt.errors.FailedTrialError(reason) from error
        finally:
            self.running = None
            keras.utils.clear_session()  # collects the models, which are cyclic
        result = Result(name, values=values, seconds=time.monotonic() - started, **result)
        self._folder.write_result(result)
        if self._search.oracle != "hyperband":  # it may go on with any
            self._folder.drop_checkpoints()
        self._workbench.reporter.say(outcome(result, objective))
        return result

    def _train(self, name: str, recipe: Recipe, drawn: dict[str, Any]) -> dict[str, Any]:
        """Return what the `Result` of a trial holds beside its values; keep its weights."""
        precisions = self._folder.precisions_path
        tuner, splits = self._workbench.tuner(recipe, precisions=precisions)
        recipe = recipe.replace(precision=tuner.precision.name)
        recipe.save(self._folder.trial_path(name) / "recipe.yaml")
        strategy = build_strategy(recipe.strategy, recipe.strategy_parameters)
        watch = self._watch(name, sum(phase.epochs for phase in tuner.phases(strategy)), drawn)
        self._workbench.reporter.say(f"trial {name}: {_describe(varied(drawn))}")
        start = self._start(name, drawn)
        checkpoint = HeldCheckpoint(self._folder.checkpoint_path(name), start=start)
        status = "completed"
        try:
            if start is not None:
                watch(start.history)  # a budget may be less than an epoch more
            tuner.fit(
                splits,
                strategy,
                batch_size=recipe.batch_size,
                augment=recipe.augmentation,
                class_weighting=recipe.class_weights,
                checkpoint=checkpoint,
                on_epoch=watch,
                calibrate=False,  # nothing looks at a trial's probabilities
            )
        except TrialEnded as ended:
            status = ended.status
        state = checkpoint.state
        best = _best(state)
        if status == "pruned":
            state.settle()
        checkpoint.write()
        metrics = {
            "val_accuracy": best.accuracy,
            "val_loss": best.loss,
            "seconds": state.training_seconds,
            "parameters": float(tuner.model.count_params()),
        }
        if "latency_ms" in self._search.objectives:
            # Of equal networks none is faster: measured apart, the clock's mood would choose.
            key = json.dumps([recipe.precision, *model_key(recipe)])
            measure = partial(latency_ms, tuner.model)
            metrics["latency_ms"] = agreed(self._folder.latencies_path, key, measure)
        history = watch.rows(state.history)
        return {
            "status": status,
            "metrics": metrics,
            "history": history,
            "examples": len(splits.validation),
            "reason": _divergence(history),
        }

    def _start(self, name: str, drawn: dict[str, Any]) -> TrainingState | None:
        """Return where a trial goes on from: its own weights if time was up within it, or those of
        the trial that Hyperband promotes."""
        if self._folder.result(name) is not None:
            state = Checkpoint(self._folder.checkpoint_path(name)).load()
            if state is not None:
                return state
        if "tuner/trial_id" not in drawn:
            return None
        parent = drawn["tuner/trial_id"]
        state = Checkpoint(self._folder.checkpoint_path(parent)).load()
        if state is None:
            self._workbench.reporter.say(
                f"trial {name}: the weights of trial {parent} are gone; its epochs are repeated."
            )
        return state

    def _watch(self, name: str, epochs: int, drawn: dict[str, Any]) -> Watch:
        budget = epochs
        if "tuner/epochs" in drawn:
            budget = math.ceil(epochs * drawn["tuner/epochs"] / self._max_epochs)
        search = self._search
        others = None
        prunes = search.prune and can_prune(search.objectives)
        if prunes and search.oracle != "hyperband" and int(name) > 0:
            results = self._folder.results()
            others = [r.history for r in results if r.history and r.trial != name]
        return Watch(epochs, budget, self._folder.deadline(), others, search.objectives[0])


def _describe(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


def _best(state: TrainingState) -> Candidate:
    """Return what a trial would ship.

    Raises:
        TrainingError: if it diverged before it had anything.
    """
    best = choose(state.offers)
    if not math.isfinite(best.loss):
        raise TrainingError(
            "Training diverged: the validation loss is not a finite number. Lower the learning "
            "rate (--set learning_rate=1e-4)."
        )
    return best


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _divergence(history: list[dict[str, Any]]) -> str:
    """Say after which epoch numbers were no longer finite; nothing if they always were."""
    for row in history:
        if None in row.values():
            return f"the loss was not finite after epoch {row['epoch']} of {row['phase']}"
    return ""
