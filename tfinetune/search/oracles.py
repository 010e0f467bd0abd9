"""KerasTuner's oracles, made to start with the default recipe, to survive kill -9 and to end."""

import time
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import keras_tuner as kt
from keras_tuner import oracles
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


class Durable:
    """Mixed into an oracle: files are whole or old, and no trial is lost with its process.

    Attributes:
        deadline: seconds since 1970 after which no trial starts; None sets none.
    """

    deadline: float | None = None

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Propose the values of a new trial; the first has those of the default recipe."""
        if self.deadline is not None and time.time() >= self.deadline:
            return {"status": "STOPPED"}
        return self._propose(trial_id)

    def _propose(self, trial_id: str) -> dict[str, Any]:
        if not self.trials:
            return {"status": "RUNNING", "values": dict(self.hyperparameters.values)}
        return super().populate_space(trial_id)

    def end_trial(self, trial: Any) -> None:
        """Record what a trial gave, without values that do not count, which its way added."""
        trial.hyperparameters.ensure_active_values()
        super().end_trial(trial)

    @kt.synchronized
    def take_back(self, tuner_id: str) -> str | None:
        """Let the trial of a worker that is gone be given to the next that asks; return its id."""
        trial = self.ongoing_trials.pop(tuner_id, None)
        self.tuner_ids.discard(tuner_id)
        if trial is None:
            return None
        self._retry_queue.append(trial.trial_id)
        self.save()
        return trial.trial_id

    @kt.synchronized
    def give_up(self, trial_id: str) -> None:
        """End a trial that nobody runs as failed."""
        self._retry_queue.remove(trial_id)
        trial = self.trials[trial_id]
        trial.status = "FAILED"
        self.end_trial(trial)

    def save(self) -> None:
        """Write the state of the oracle."""
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial: Any) -> None:
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

    def _propose(self, trial_id: str) -> dict[str, Any]:
        # The state of this generator is not saved: a resumed search must draw the same.
        self._random_state.seed([self.seed, len(self.trials)])
        # Tiny products by the thousand: threads of BLAS would spin while they wait for each other.
        with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
            # A parameter that makes no difference drives its length scale to a bound.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super()._propose(trial_id)


class HyperbandOracle(Durable, oracles.HyperbandOracle):
    """Starts many trials, and lets the best of them go on."""


class GridOracle(Durable, oracles.GridSearchOracle):
    """Goes through all combinations, the default first."""

    def _propose(self, trial_id: str) -> dict[str, Any]:
        return oracles.GridSearchOracle.populate_space(self, trial_id)  # starts with the default

    def reload(self) -> None:
        """Read the state back, and how far the grid was gone through, which is not saved."""
        super().reload()
        for name in self.start_order:
            self._ordered_ids.insert(name)
        self._populate_next = self.start_order[-1:]


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
        oracle = HyperbandOracle(max_epochs=epochs, **options)
        oracle.max_trials = trials
    elif name == "bayesian":
        initial = max(3, trials // 3)
        oracle = BayesianOracle(max_trials=trials, num_initial_points=initial, **options)
    else:
        kind = {"random": RandomOracle, "grid": GridOracle}[name]
        oracle = kind(max_trials=trials, **options)
    oracle.verbose = 0
    return oracle
