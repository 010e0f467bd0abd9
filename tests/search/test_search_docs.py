"""docs/search.md says what there is."""

import re
from pathlib import Path

import yaml
from typer.testing import CliRunner

from tfinetune.cli import app
from tfinetune.recipe import Recipe
from tfinetune.search import Space
from tfinetune.search.space import _known

TEXT = (Path(__file__).parents[2] / "docs/search.md").read_text(encoding="utf-8")


def test_space_that_is_shown_is_one():
    shown = yaml.safe_load(re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL).group(1))
    base = Recipe(data="photos", backbone="base.h5")
    assert Space(**shown).hyperparameters(base).values["strategy"] == "lpft"


def test_table_names_every_parameter():
    rows = re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == _known()


def test_options_that_are_named_exist():
    known = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["search", "--help"]).output
    named = set(re.findall(r"--[a-z][a-z-]+", TEXT))
    assert named and not {option for option in named if option not in known}
