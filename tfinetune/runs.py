"""The run folder: where each artifact lies, whether a run is finished, and that nothing changed.

recipe.yaml   phases.json   history.csv   log.txt   model.keras   metrics.json   report.html
saved_model/1/   checkpoints/   manifest.json
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfinetune.errors import RecipeError, RunError
from tfinetune.recipe import Recipe
from tfinetune.storage import claim_folder, remove_partials, sha256_file, write_json, write_text

# Log and checkpoints change after the end (a later command logs; a resume may prune).
_UNLISTED = ("log.txt", "manifest.json", "checkpoints/")

HISTORY_COLUMNS = (
    "phase",
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "seconds",
)


class RunFolder:
    """Paths and small files of one run. `create`, `resume` and `open` are the ways in."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe_path = self.path / "recipe.yaml"
        self.phases_path = self.path / "phases.json"
        self.history_path = self.path / "history.csv"
        self.log_path = self.path / "log.txt"
        self.model_path = self.path / "model.keras"
        self.backbone_path = self.path / "backbone.keras"
        self.metrics_path = self.path / "metrics.json"
        self.report_path = self.path / "report.html"
        self.saved_model_path = self.path / "saved_model" / "1"
        self.checkpoint_path = self.path / "checkpoints" / "last.npz"
        self.manifest_path = self.path / "manifest.json"

    @classmethod
    def create(cls, path: str | Path) -> "RunFolder":
        """Take a new or empty folder for a run.

        Raises:
            RunError: if there is something in it already, or it cannot be made.
        """
        folder = cls(path)
        claim_folder(folder.path, resumable=folder.recipe_path, error_class=RunError)
        return folder

    @classmethod
    def resume(cls, path: str | Path) -> "RunFolder":
        """Take the folder of a run that was interrupted (or is finished).

        Raises:
            RunError: if no run was ever started there.
        """
        folder = cls(path)
        if not folder.recipe_path.is_file():
            raise RunError(
                f"There is no run to resume in {path}: it has no recipe.yaml. "
                "Start one without --resume."
            )
        remove_partials(folder.path)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Take the folder of a finished run, checking that its model is the one it wrote.

        Raises:
            RunError: if it is no run folder, is unfinished, or a listed file changed.
        """
        folder = cls(path)
        if not folder.recipe_path.is_file():
            raise RunError(
                f"{path} is not a run folder: it has no recipe.yaml. `tfinetune train` makes one."
            )
        if not folder.finished:
            raise RunError(
                f"The run in {path} is not finished. "
                f"Continue it with `tfinetune train --resume --output {path}`."
            )
        folder.verify(["recipe.yaml", "model.keras", "metrics.json"])
        return folder

    @property
    def finished(self) -> bool:
        """Whether every artifact was written; the manifest comes last."""
        return self.manifest_path.is_file()

    def recipe(self) -> Recipe:
        """Read the run's recipe."""
        return Recipe.load(self.recipe_path)

    def check_same_recipe(self, recipe: Recipe) -> None:
        """Refuse to resume with another recipe than the run was started with.

        Raises:
            RecipeError: naming every field that differs.
        """
        changed = recipe.differences(self.recipe())
        if changed:
            raise RecipeError(
                f"The run in {self.path} was started with another recipe ({'; '.join(changed)}). "
                "Resume it without these options, or start a new run with another --output."
            )

    def check_same_start(self, started: dict[str, Any]) -> None:
        """Compare what a run was started with (phases.json) with what it would be resumed with.

        Raises:
            RunError: if photos, backbone or phases changed since.
        """
        before = self.phases()
        names = {"fingerprint": "photos", "backbone_sha256": "backbone file", "phases": "phases"}
        changed = [word for key, word in names.items() if before.get(key) != started[key]]
        if changed:
            raise RunError(
                f"The {' and the '.join(changed)} changed since the run in {self.path} was "
                "started, so it cannot be continued as it was. Restore what changed, or start a "
                "new run with another --output."
            )

    def phases(self) -> dict[str, Any]:
        """Read phases.json: the plan and the fingerprint of the data it was made for."""
        return _read_json(self.phases_path)

    def metrics(self) -> dict[str, Any]:
        """Read metrics.json."""
        return _read_json(self.metrics_path)

    def write_history(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write history.csv, one row an epoch; a cell that was not measured is empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, HISTORY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history_path, text.getvalue())

    def write_manifest(self, *, below: str = "") -> None:
        """List the SHA-256 of every artifact; its presence marks the run as finished.

        Args:
            below: hash only what starts with this path again, and keep what is listed of the rest.
        """
        listed = _read_json(self.manifest_path)["sha256"] if below else {}
        files = {name: digest for name, digest in listed.items() if not name.startswith(below)}
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if path.is_file() and name.startswith(below) and not name.startswith(_UNLISTED):
                files[name] = sha256_file(path)
        write_json(self.manifest_path, {"sha256": dict(sorted(files.items()))})

    def verify(self, names: Sequence[str] | None = None) -> None:
        """Compare files with the manifest (all of them, or `names`).

        Raises:
            RunError: naming each file that is missing or changed.
        """
        listed = _read_json(self.manifest_path).get("sha256", {})
        damaged = [
            name
            for name in (listed if names is None else names)
            if not (self.path / name).is_file() or sha256_file(self.path / name) != listed.get(name)
        ]
        if damaged:
            raise RunError(
                f"{', '.join(damaged)} in {self.path} changed since the run was finished "
                "(or was damaged). Restore it, or reproduce the run with "
                f"`tfinetune train --recipe {self.recipe_path} --output NEW`."
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the run is not complete.") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}.") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} does not hold a JSON object.")
    return value
