"""From photos to a finished run, and from a finished run to predictions."""

from tfinetune.workflow.finished import Run, evaluate_folder, open_run, predictions
from tfinetune.workflow.job import plan, train

__all__ = ["Run", "evaluate_folder", "open_run", "plan", "predictions", "train"]
