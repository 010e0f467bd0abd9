"""The layers hold, the linter is content, and light imports stay light."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (pip install -e '.[test]')")
    return found


def test_each_room_imports_only_rooms_below_it():
    done = run(tool("lint-imports"), "--no-cache")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")])
def test_code_is_linted_and_formatted(arguments):
    done = run(tool("ruff"), *arguments, ".")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "statement",
    ["import tfinetune; dir(tfinetune)", "import tfinetune.cli", "import tfinetune.recipe"],
)
def test_light_imports_load_no_heavy_library(statement):
    heavy = "{'tensorflow', 'keras', 'sklearn', 'matplotlib', 'pandas'}"
    code = f"import sys; {statement}; print(sorted({heavy} & sys.modules.keys()))"
    done = run(sys.executable, "-c", code)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_exists():
    import tfinetune as ft

    for name in ft.__all__:
        assert getattr(ft, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ft.nonsense  # noqa: B018
