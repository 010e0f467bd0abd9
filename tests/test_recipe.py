"""Recipes: YAML there and back, and errors that name the field."""

import pytest

from tfinetune.errors import RecipeError
from tfinetune.recipe import Recipe


def test_saved_recipe_loads_equal(tmp_path):
    recipe = Recipe(
        data="photos/日本", backbone="ResNet50", image_size=160, input_range=(-1, 1), seed=7
    )
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe
    assert recipe.image_size == (160, 160)


def test_backbone_beside_the_recipe_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "backbone.keras").write_bytes(b"x")
    Recipe(data="d", backbone="backbone.keras").save(tmp_path / "recipe.yaml")
    monkeypatch.chdir("/")
    assert Recipe.load(tmp_path / "recipe.yaml").backbone == str(tmp_path / "backbone.keras")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, r"batch_size: .*greater than or equal to 1 \(got 0\)"),
        ({"aspect": "squeeze"}, r"aspect: .*'crop', 'pad' or 'stretch'.*squeeze"),
        ({"colour": 1}, r"colour: Extra inputs are not permitted"),
        ({"validation": 0.6, "test": 0.5}, r"leave nothing to train on"),
        ({"input_range": (1, -1)}, r"must rise from low to high"),
        ({"image_size": 4}, r"image_size.*greater than or equal to 8"),
    ],
)
def test_impossible_field_is_named(fields, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(data="d", backbone="b", **fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not a YAML recipe"),
        ("- 1", "it holds list"),
        ("!!python/object/apply:os.system ['true']", "is not a YAML recipe"),
    ],
)
def test_file_that_is_no_recipe_is_refused(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        Recipe.load(path)


def test_missing_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nothing\.yaml: No such file"):
        Recipe.load(tmp_path / "nothing.yaml")


def test_differences_name_both_values():
    first = Recipe(data="d", backbone="b", seed=1)
    assert first.differences(first.replace(seed=2)) == ["seed: 1, not 2"]
