"""A finished run: predict, measure, export, and go on from it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfinetune.data import Splits, find_candidates, find_files, is_foreign, printable
from tfinetune.errors import DataError, RunError
from tfinetune.evaluation import classification_metrics
from tfinetune.export import export_checked, sample_photos
from tfinetune.finetuner import FineTuner
from tfinetune.inference import predict_files
from tfinetune.reporting import Reporter
from tfinetune.runs import RunFolder
from tfinetune.security.loading import load_keras
from tfinetune.security.saved_model import trusting
from tfinetune.workflow.prepare import prepare


class Run:
    """A finished run: its model, its numbers, and the way back to a FineTuner.

    Attributes:
        folder: paths of every artifact.
        recipe: what reproduces it.
        metrics: the content of metrics.json.
    """

    def __init__(self, folder: RunFolder, *, trust: bool = False) -> None:
        self.folder = folder
        self.recipe = folder.recipe()
        self.metrics = folder.metrics()
        self._model: keras.Model | None = None
        self._trust = trust

    @property
    def model(self) -> keras.Model:
        """The fine-tuned model, image `[b, H, W, 3]` 0..255 to probabilities `[b, classes]`."""
        if self._model is None:
            with trusting(self._trust):
                self._model = load_keras(self.folder.model_path)
        return self._model

    @property
    def class_names(self) -> list[str]:
        """Classes in the order of the model's outputs."""
        return self.metrics["class_names"]

    def predict(
        self, files: Sequence[str | Path], *, reporter: Reporter | None = None
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Classify image files, see `inference.predict_files`."""
        return predict_files(self.model, files, aspect=self.recipe.aspect, reporter=reporter)

    def finetuner(self) -> tuple[FineTuner, Splits]:
        """Return a FineTuner that holds the run's weights, and the run's data.

        Raises:
            RunError: if the photos changed since.
        """
        with trusting(self._trust):
            _, tuner, splits = prepare(self.recipe, Reporter())
        if splits.spec.fingerprint != self.folder.phases()["fingerprint"]:
            raise RunError(
                f"The photos in {self.recipe.data} changed since the run in {self.folder.path}. "
                "Restore them, or train a new run."
            )
        tuner.assembly.set_temperature(self.metrics["temperature"])
        tuner.model.set_weights(self.model.get_weights())
        return tuner, splits

    def export(self, path: str | Path | None = None) -> tuple[Path, list[dict[str, Any]]]:
        """Write the SavedModel again and check it, see `FineTuner.export`.

        Args:
            path: folder to write; the run's own `saved_model/1` where not given.

        Returns:
            The folder and the rows of the parity gate.
        """
        path = Path(path or self.folder.saved_model_path)
        rows = export_checked(
            self.model,
            path,
            class_names=self.class_names,
            aspect=self.recipe.aspect,
            photos=self._photos(),
        )
        if path.resolve() == self.folder.saved_model_path.resolve():
            self.folder.write_manifest(below="saved_model/")
        return path, [vars(row) for row in rows]

    def _photos(self) -> list[str | Path]:
        """Return photos of the kind that the model is for, where they still exist."""
        try:
            candidates, _ = find_candidates(Path(self.recipe.data))
        except DataError:
            candidates = []
        return [candidate.path for candidate in candidates] or sample_photos()


def open_run(path: str | Path, *, trust: bool = False) -> Run:
    """Open the folder of a finished run.

    Args:
        path: of the folder.
        trust: let the SavedModel inside, where the run was trained on one, read, write and execute
            what it likes. That the run was trained with trust does not say it: it may be another's.

    Raises:
        RunError: if it is no run, is unfinished, or was damaged.
    """
    return Run(RunFolder.open(path), trust=trust)


def predictions(
    run: Run,
    paths: Sequence[str | Path],
    *,
    top: int = 3,
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:
    """Classify files, and every image below folders.

    Returns:
        For each file `{file, predictions: [{label, probability}], error}`, most probable first;
        `error` is the reason where a file could not be read, else None.

    Raises:
        DataError: if a path does not exist or there is no file at all.
    """
    files = find_files(paths)
    probabilities, failures = run.predict([file for file, _ in files], reporter=reporter)
    rows = []
    for index, (file, named) in enumerate(files):
        if not named and index in failures and is_foreign(file, failures[index]):
            continue
        order = np.argsort(-probabilities[index], kind="stable")[:top]
        guesses = [
            {"label": run.class_names[c], "probability": float(probabilities[index, c])}
            for c in order
        ]
        error = failures.get(index)
        rows.append(
            {"file": printable(str(file)), "predictions": [] if error else guesses, "error": error}
        )
    return rows


def evaluate_folder(
    run: Run, directory: str | Path, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Measure a run on labelled photos `DIR/class/*`.

    Returns:
        `metrics` of the photos that could be read; `unknown_classes`, folders that are no class of
        the model, with their file counts; `missing_classes`; `set_aside`, `[{path, reason}]`;
        `stray_files`, how many were no images; `split`, "test" where the folder is divided (only
        that part is measured), else None.

    Raises:
        DataError: if no photo of a known class can be read.
    """
    names = run.class_names
    candidates, strays = find_candidates(Path(directory))
    split = "test" if any(c.split == "test" for c in candidates) else None
    if split:  # what a divided folder trains on would flatter the model
        candidates = [c for c in candidates if c.split == split]
    unknown = Counter(c.class_name for c in candidates if c.class_name not in names)
    known = [c for c in candidates if c.class_name in names]
    if not known:
        raise DataError(
            f"{directory} holds no photo of a class that the model knows ({', '.join(names)}): "
            f"its folders are {', '.join(unknown) or 'none'}."
        )
    probabilities, failures = run.predict([c.path for c in known], reporter=reporter)
    read = [index for index in range(len(known)) if index not in failures]
    if not read:
        raise DataError(
            f"None of the {len(known)} photos in {directory} can be read; the first: {failures[0]}."
        )
    foreign = [index for index in failures if is_foreign(known[index].path, failures[index])]
    labels = np.array([names.index(known[index].class_name) for index in read])
    present = {known[index].class_name for index in read}
    return {
        "metrics": classification_metrics(labels, probabilities[read], names),
        "unknown_classes": dict(unknown),
        "missing_classes": [name for name in names if name not in present],
        "set_aside": [
            {"path": known[index].id, "reason": reason}
            for index, reason in failures.items()
            if index not in foreign
        ],
        "stray_files": len(strays) + len(foreign),
        "split": split,
    }
