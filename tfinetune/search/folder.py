"""The folder of a search: what was asked, what every trial gave, and the run that won.

search.yaml   ranking.json   trials/trial_*/{recipe.yaml,result.json,checkpoint.npz}
leaderboard.json   report.html   log.txt   worker-*.txt   best/
identity.txt   photos.txt (their fingerprint)   precisions.json   latencies.json
deadline.json   search.lock
"""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tfinetune.errors import SearchError, StorageError
from tfinetune.recipe import Recipe, explain_validation
from tfinetune.search.leaderboard import Result, rank_results
from tfinetune.search.oracles import OBJECTIVES
from tfinetune.search.space import Space
from tfinetune.storage import claim_folder, remove_partials, write_json, write_text

KEPT_CHECKPOINTS = 5
"""Trials whose weights are kept: the best ones, for the winner and the soup."""


class SearchRecipe(BaseModel):
    """Everything that a search is made of.

    Attributes:
        recipe: the default that the search starts from and must beat.
        space: what varies; a `Space` or what it is made of. None takes `Space.default(recipe)`.
        backbones: candidates; several are ranked first. None takes the recipe's.
        keep: how many of them the search goes on with.
        oracle: `bayesian`, `random`, `hyperband` or `grid`.
        objectives: names in `OBJECTIVES`. The first alone guides the oracle and decides; of all of
            them the report says which trials none other beats (the Pareto front). KerasTuner's way,
            to add them up, would weigh a point of accuracy like a hundredth of a millisecond.
        trials: at most, the first counted, which is the default recipe.
        prune: whether trials without hope end early; see `can_prune` for where none does.
        margin: standard errors of its validation accuracy by which a trial must lead the default
            recipe to win; 0 takes the best. See `rank_results`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    space: dict[str, Any] = Field(default_factory=dict)
    backbones: tuple[str, ...] = ()
    keep: Annotated[int, Field(ge=1)] = 2
    oracle: Literal["bayesian", "random", "hyperband", "grid"] = "bayesian"
    objectives: Annotated[tuple[str, ...], Field(min_length=1)] = ("val_accuracy",)
    trials: Annotated[int, Field(ge=1)] = 20
    prune: bool = True
    margin: Annotated[float, Field(ge=0)] = 1.0

    @field_validator("objectives")
    @classmethod
    def _named_once(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(objectives))

    def __init__(self, **fields: Any) -> None:
        recipe, space = fields.get("recipe"), fields.get("space")
        if isinstance(recipe, dict):
            fields["recipe"] = recipe = Recipe(**recipe)
        if space is None and isinstance(recipe, Recipe):
            space = Space.default(recipe)
        elif isinstance(space, dict):
            space = Space(**space)
        if isinstance(space, Space):  # as it comes back from YAML, or it could not be resumed
            fields["space"] = space.to_dict()
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise SearchError(explain_validation(error, "The search")) from None
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown:
            raise SearchError(
                f"Nothing called {unknown[0]!r} is measured, so it is no objective. "
                f"Choose from {', '.join(OBJECTIVES)}."
            )

    def replace(self, **changes: Any) -> "SearchRecipe":
        """Return a search with some fields changed, validated again."""
        return SearchRecipe(**{**dict(self), **changes})

    def to_yaml(self) -> str:
        """Return the search as YAML text."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class SearchFolder:
    """Paths and small files of one search. `create`, `resume` and `open` are the ways in."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe_path = self.path / "search.yaml"
        self.identity_path = self.path / "identity.txt"
        self.photos_path = self.path / "photos.txt"
        self.ranking_path = self.path / "ranking.json"
        self.precisions_path = self.path / "precisions.json"
        self.latencies_path = self.path / "latencies.json"
        self.trials_path = self.path / "trials"
        self.leaderboard_path = self.path / "leaderboard.json"
        self.report_path = self.path / "report.html"
        self.deadline_path = self.path / "deadline.json"
        self.lock_path = self.path / "search.lock"
        self.log_path = self.path / "log.txt"
        self.best_path = self.path / "best"

    @classmethod
    def create(cls, path: str | Path, recipe: SearchRecipe) -> "SearchFolder":
        """Take a folder that is new, empty, or of a search that ended before its first trial.

        Raises:
            SearchError: if there is something else in it, or it cannot be made.
        """
        folder = cls(path)
        if folder._had_no_trial():
            folder._clear()
        claim_folder(folder.path, resumable=folder.recipe_path, error_class=SearchError)
        write_text(folder.identity_path, uuid.uuid4().hex)
        write_text(folder.recipe_path, recipe.to_yaml())
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "SearchFolder":
        """Take the folder of a search.

        Raises:
            SearchError: if none was ever started there.
        """
        folder = cls(path)
        if not folder.recipe_path.is_file():
            raise SearchError(f"There is no search in {path}: it has no search.yaml.")
        return folder

    @classmethod
    def resume(cls, path: str | Path, recipe: SearchRecipe | None) -> "SearchFolder":
        """Take the folder of a search that was interrupted.

        Args:
            path: of the folder.
            recipe: what is asked now; None goes on with what was asked then.

        Raises:
            SearchError: if there is none, or it is another search.
        """
        folder = cls.open(path)
        before = folder.recipe()
        then, now = (each.model_dump(mode="json") for each in (before, recipe or before))
        if changed := [name for name in then if then[name] != now[name]]:
            raise SearchError(
                f"{path} holds another search: {', '.join(changed)} differ. Resume it without "
                "these options, or start a new search with another --output."
            )
        return folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other searches out of the folder while the block runs; workers do not ask for it.

        The system takes the lock from a process that dies, however it does.

        Raises:
            SearchError: if another process searches here.
            StorageError: if the folder cannot be written.
        """
        lock = FileLock(self.lock_path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SearchError(
                f"{self.path} is being searched by another process. Wait until it ends or stop it, "
                "or start a new search with another --output."
            ) from None
        except OSError as error:
            raise StorageError(f"Cannot write in {self.path}: {error.strerror}.") from None
        try:
            # A trial's own folder is left to who starts the trial: workers may be writing there.
            for folder in (self.path, self.trials_path):
                remove_partials(folder, recursive=False)
            yield
        finally:
            lock.release()

    def recipe(self) -> SearchRecipe:
        """Read what was asked."""
        try:
            fields = yaml.safe_load(self.recipe_path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise SearchError(f"{self.recipe_path} cannot be read: {error}.") from None
        if not isinstance(fields, dict):
            raise SearchError(f"{self.recipe_path} is not a search.")
        return SearchRecipe(**fields)

    def _had_no_trial(self) -> bool:
        """Whether a search ended here before its first trial, and nothing else is in the folder."""
        if not self.recipe_path.is_file() or any(self.trials_path.glob("trial_*")):
            return False
        return set(self.path.iterdir()) <= {*self._before_trials(), self.trials_path}

    def _clear(self) -> None:
        """Remove what a search leaves that had no trial."""
        with self.held():
            shutil.rmtree(self.trials_path, ignore_errors=True)
            for path in self._before_trials() - {self.lock_path}:
                path.unlink(missing_ok=True)
        self.lock_path.unlink(missing_ok=True)

    def _before_trials(self) -> set[Path]:
        """Return the files that a search may have written before its first trial."""
        return {
            self.recipe_path,
            self.identity_path,
            self.photos_path,
            self.ranking_path,
            self.precisions_path,
            Path(f"{self.precisions_path}.lock"),
            self.deadline_path,
            self.lock_path,
            self.log_path,
            *self.path.glob("worker-*.txt"),
        }

    def check_photos(self, fingerprint: str) -> None:
        """Keep the fingerprint of the photos, or compare it with the one that is kept.

        Raises:
            SearchError: if they changed since the search began.
        """
        if not self.photos_path.is_file():
            write_text(self.photos_path, fingerprint)
        elif self.photos_path.read_text(encoding="utf-8") != fingerprint:
            raise SearchError(
                f"The photos in {self.recipe().recipe.data} changed since the search in "
                f"{self.path} began, so that its trials cannot be compared. Put them back, or "
                "start a new search with another --output."
            )

    def identity(self) -> str:
        """Return what tells this search from all others, on whatever machine it is looked at."""
        if not self.identity_path.is_file():
            return ""
        return self.identity_path.read_text(encoding="utf-8")

    def write_deadline(self, deadline: float | None) -> None:
        """Set when the search ends, in seconds since 1970; None sets no end."""
        write_json(self.deadline_path, deadline)

    def deadline(self) -> float | None:
        """Return when the search ends, in every process the same."""
        if not self.deadline_path.is_file():
            return None
        return json.loads(self.deadline_path.read_text(encoding="utf-8"))

    def trial_path(self, trial: str) -> Path:
        """Return the folder of a trial."""
        return self.trials_path / f"trial_{trial}"

    def checkpoint_path(self, trial: str) -> Path:
        """Return where the weights of a trial are, if they are kept."""
        return self.trial_path(trial) / "checkpoint.npz"

    def write_result(self, result: Result) -> None:
        """Keep what a trial gave."""
        write_json(self.trial_path(result.trial) / "result.json", asdict(result))

    def result(self, trial: str) -> Result | None:
        """Return what a trial gave, or None if it has not ended."""
        path = self.trial_path(trial) / "result.json"
        return _read_result(path) if path.is_file() else None

    def results(self) -> list[Result]:
        """Return what every trial gave that has ended, in the order of their ids."""
        return [_read_result(path) for path in sorted(self.trials_path.glob("trial_*/result.json"))]

    def leaderboard(self) -> list[Result]:
        """Return the results, the winner first and the failed ones last; see `rank_results`."""
        asked = self.recipe()
        return rank_results(self.results(), *asked.objectives, margin=asked.margin)

    def drop_checkpoints(self) -> None:
        """Remove the weights of all but the best trials and those that time was up for."""
        for result in self.leaderboard()[KEPT_CHECKPOINTS:]:
            if result.status != "stopped":  # else it goes on when the search does
                self.checkpoint_path(result.trial).unlink(missing_ok=True)


def _read_result(path: Path) -> Result:
    return Result(**json.loads(path.read_text(encoding="utf-8")))
