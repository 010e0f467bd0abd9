"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and photos; tests that need it skip where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("TFINETUNE_SHARED", beside))
    if not (folder / "models").is_dir():
        pytest.skip(f"real models and photos are not at {folder} (set TFINETUNE_SHARED)")
    return folder
