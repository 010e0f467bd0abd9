"""KerasTuner's oracles, made to start with the default recipe, to survive kill -9 and to end."""

import copy
import functools
import threading
import time
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import keras_tuner as kt
from keras_tuner import oracles
from keras_tuner.engine.hyperparameters import Float
from keras_tuner.src.engine.oracle import LOCKS, THREADS
from keras_tuner.src.engine.trial import Trial
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from tfinetune.storage import write_json

OBJECTIVES = {
    "val_accuracy": "max",
    "val_loss": "min",
    "seconds": "min",
    "parameters": "min",
    "latency_ms": "min",
}
"""What trials are measured by, and which way is better."""

MOST_LOSSES = 3
"""Workers that a trial may take with it before it counts as failed."""

MOST_COLLISIONS = 1000
"""Draws in a row that were drawn before, after which a space counts as exhausted.

KerasTuner's 20 end a search of 36 combinations after 34."""


def synchronized(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let one thread at a time call a method of an oracle.

    KerasTuner's own keeps its lock when the method raises, as on a full disk, and whoever calls
    next waits for ever.
    """
    locked = kt.synchronized(method)

    @functools.wraps(method)
    def wrapped(oracle: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return locked(oracle, *arguments, **options)
        except BaseException:
            if THREADS[oracle] == threading.current_thread().name:
                THREADS[oracle] = None
                LOCKS[oracle].release()
            raise

    return wrapped


class Durable:
    """Mixed into an oracle: files are whole or old, and no trial is lost with its process.

    Attributes:
        deadline: seconds since 1970 after which no trial starts; None sets none.
        remark: what a user should know of how it searches; empty where it does as asked.
    """

    deadline: float | None = None
    remark: str = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._max_collisions = MOST_COLLISIONS
        self.verbose = 0

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.time() >= self.deadline

    @property
    def is_waiting(self) -> bool:
        """Whether a trial was begun that is neither running nor ended."""
        return bool(self._retry_queue)

    @synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        """Give a worker the trial that it has, or one that is new or to be repeated."""
        if self.is_over and tuner_id not in self.ongoing_trials:
            self.tuner_ids.discard(tuner_id)
            return Trial(self.hyperparameters.copy(), status="STOPPED")
        return super().create_trial(tuner_id)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Propose the values of a new trial; the first has those of the default recipe."""
        if not self.trials:
            return {"status": "RUNNING", "values": dict(self.hyperparameters.values)}
        return super().populate_space(trial_id)

    def _compute_values_hash(self, values: dict[str, Any]) -> str:
        """Return what equal trials have in common; a thousandth of a range makes no other."""
        near = {
            parameter.name: round(parameter.value_to_prob(values[parameter.name]), 3)
            for parameter in self.hyperparameters.space
            if isinstance(parameter, Float) and parameter.name in values
        }
        return super()._compute_values_hash(values | near)

    @synchronized
    def update_trial(self, *arguments: Any, **options: Any) -> Trial:
        """Note what a trial measured."""
        return super().update_trial(*arguments, **options)

    @synchronized
    def end_trial(self, trial: Trial) -> None:
        """Record what a trial gave, without values that do not count, which its way added.

        A worker that was given up for lost may end a trial that another has ended, or may begin.
        """
        trial.hyperparameters.ensure_active_values()
        for line in (self._retry_queue, self.end_order):
            if trial.trial_id in line:
                line.remove(trial.trial_id)
        super().end_trial(trial)

    @synchronized
    def take_back(self, tuner_id: str) -> Trial | None:
        """Let the trial of a worker that is gone be given to the next that asks, or end it.

        Returns:
            The trial, with status "FAILED" if as many workers as may were lost by it; None if the
            worker had none.
        """
        trial = self.ongoing_trials.pop(tuner_id, None)
        self.tuner_ids.discard(tuner_id)
        if trial is None:
            return None
        self._run_times[trial.trial_id] += 1
        if self._run_times[trial.trial_id] < MOST_LOSSES:
            self._retry_queue.append(trial.trial_id)
            self.save()
        else:
            trial.status = "FAILED"
            self.end_trial(trial)
        return trial

    def save(self) -> None:
        """Write the state of the oracle."""
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial: Trial) -> None:
        write_json(Path(self._get_trial_dir(trial.trial_id)) / "trial.json", trial.get_state())

    def reload(self) -> None:
        """Read the state back, and line up again whatever was running.

        The two kinds of file are written one after the other, and a kill may fall between.
        """
        super().reload()
        self.trials = {name: self.trials[name] for name in self.start_order if name in self.trials}
        running = [name for name, trial in self.trials.items() if trial.status == "RUNNING"]
        self._retry_queue = running[::-1]  # it is taken from the end
        self.end_order = [name for name in self.start_order if name not in running]

    def line_up(self, names: Collection[str]) -> None:
        """Let trials that ended be given out again, in the order of their ids."""
        for name in names:
            trial = self.trials[name]
            trial.status, trial.score = "RUNNING", None
            trial.metrics = type(trial.metrics)()  # it would take the mean of then and now
            self._run_times[name] = 0
        self.end_order = [name for name in self.end_order if name not in names]
        self._retry_queue = sorted({*self._retry_queue, *names}, reverse=True)  # taken from the end


class RandomOracle(Durable, oracles.RandomSearchOracle):
    """Draws every parameter at random."""


class BayesianOracle(Durable, oracles.BayesianOptimizationOracle):
    """Draws where a Gaussian process expects, or hopes for, the best."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Propose the values of a new trial, the same however often the search was resumed."""
        # The state of this generator is not saved: a resumed search must draw the same.
        self._random_state.seed([self.seed, len(self.trials)])
        # Tiny products by the thousand: threads of BLAS would spin while they wait for each other.
        with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
            # A parameter that makes no difference drives its length scale to a bound.
            warnings.simplefilter("ignore", ConvergenceWarning)
            proposed = super().populate_space(trial_id)
        if proposed["values"] is not None and self._duplicate(proposed["values"]):
            # The optimum of the process may be a trial that there is: it would be trained twice.
            return self._random_populate_space()
        return proposed


class HyperbandOracle(Durable, oracles.HyperbandOracle):
    """Starts many trials, and lets the best of them go on.

    It begins with the largest bracket of which one trial gets to its last round: KerasTuner begins
    with the largest of all, and may end within the first round, where no trial is whole.

    Args:
        trials: at most.
        **options: see KerasTuner.
    """

    def __init__(self, *, trials: int, **options: Any) -> None:
        super().__init__(**options)
        self.max_trials = trials
        brackets = reversed(range(self._get_num_brackets()))
        self._current_bracket = next((each for each in brackets if self._fits(each)), 0)
        self._brackets = []
        self._start_new_bracket()

    def missing(self) -> str:
        """Say what it takes for any trial to be let go on; nothing if that is there."""
        if self._current_bracket > 0:
            return ""
        if self._get_num_brackets() == 1:
            return f"{self.factor} epochs"
        if self.max_trials < self._trials(1):
            return f"{self._trials(1)} trials"
        return f"{1 + self._get_size(1, 0)} combinations to draw from"

    def _fits(self, bracket: int) -> bool:
        enough = self.max_trials >= self._trials(bracket)
        return enough and self._can_draw(self._get_size(bracket, 0))

    def _trials(self, bracket: int) -> int:
        """Return how many trials it takes until one gets to the last round, the default counted."""
        return 2 + sum(self._get_size(bracket, number) for number in range(bracket))

    def _can_draw(self, count: int) -> bool:
        """Return whether as many different trials can be drawn beside the default."""
        trying = copy.copy(self)  # draws what will be drawn, and advances no state of this one
        trying._tried_so_far = {self._compute_values_hash(self.hyperparameters.values)}
        while len(trying._tried_so_far) <= count and (values := trying._random_values()):
            trying._tried_so_far.add(self._compute_values_hash(values))
        return len(trying._tried_so_far) > count


class GridOracle(Durable, oracles.GridSearchOracle):
    """Goes through all combinations, the default first."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Propose the next combination."""
        # No parameter appears later, so that none has to end before another begins.
        self._populate_next = self.start_order[-1:]
        return oracles.GridSearchOracle.populate_space(self, trial_id)  # starts with the default

    def reload(self) -> None:
        """Read the state back, and how far the grid was gone through, which is not saved."""
        super().reload()
        for name in self.start_order:
            self._ordered_ids.insert(name)


def varied(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a trial without those by which Hyperband steers it."""
    return {name: value for name, value in values.items() if not name.startswith("tuner/")}


ORACLES = ("bayesian", "random", "hyperband", "grid")


def build_oracle(
    name: str,
    hyperparameters: kt.HyperParameters,
    *,
    objective: str,
    trials: int,
    epochs: int,
    seed: int,
) -> Durable:
    """Return an oracle.

    Args:
        name: in `ORACLES`.
        hyperparameters: the space; its values are those of the first trial.
        objective: in `OBJECTIVES`.
        trials: at most, the first and failed ones counted.
        epochs: that Hyperband takes for a whole training.
        seed: of what is drawn.
    """
    options: dict[str, Any] = {
        "objective": kt.Objective(objective, OBJECTIVES[objective]),
        "hyperparameters": hyperparameters,
        "allow_new_entries": False,
        "tune_new_entries": False,
        "seed": seed + 1,  # 0 would mean any
        "max_consecutive_failed_trials": 10**9,  # a failed trial is recorded and others go on
    }
    if name == "hyperband":
        oracle = HyperbandOracle(trials=trials, max_epochs=epochs, **options)
        if missing := oracle.missing():
            oracle = RandomOracle(max_trials=trials, **options)
            oracle.remark = (
                f"Hyperband lets no trial go on with fewer than {missing}: trials are drawn at "
                "random and trained whole instead."
            )
    elif name == "bayesian":
        initial = max(3, trials // 3)
        oracle = BayesianOracle(max_trials=trials, num_initial_points=initial, **options)
    else:
        kind = {"random": RandomOracle, "grid": GridOracle}[name]
        oracle = kind(max_trials=trials, **options)
    return oracle
