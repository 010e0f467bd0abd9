"""How good a model is: metrics, calibration and the report that a person reads. No TensorFlow."""

from tfinetune.evaluation.calibration import (
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)
from tfinetune.evaluation.metrics import classification_metrics, most_confused, worst_mistakes
from tfinetune.evaluation.report import render_report, write_report
from tfinetune.evaluation.report_data import Mistake, ReportData

__all__ = [
    "Mistake",
    "ReportData",
    "classification_metrics",
    "expected_calibration_error",
    "fit_temperature",
    "most_confused",
    "reliability_bins",
    "render_report",
    "worst_mistakes",
    "write_report",
]
