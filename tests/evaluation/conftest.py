"""Fixtures for the evaluation's tests."""

import pytest
from sample_report import make_report

from tfinetune.evaluation import ReportData


@pytest.fixture(scope="session")
def report_data() -> ReportData:
    """A full report; frozen, so tests may share it and `dataclasses.replace` what they vary."""
    return make_report()
