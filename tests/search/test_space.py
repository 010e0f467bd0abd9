"""Spaces: what they allow, what they fix, and which recipe a trial is."""

import pytest

import tfinetune as ft
from tfinetune.errors import RecipeError, SearchError
from tfinetune.search.space import DEFAULT, Space
from tfinetune.training.strategies import STRATEGIES

BASE = ft.Recipe(data="photos", backbone="base.h5", strategy_parameters={"epochs": 4})


def active(space, **values):
    """Return the names that count where parameters have these values."""
    hp = space.hyperparameters(BASE)
    hp.values |= values
    return {parameter.name for parameter in hp.space if hp.is_active(parameter)}


def test_default_values_are_the_recipe_that_the_search_starts_from():
    space = Space.default()
    recipe = space.recipe(space.hyperparameters(BASE).values, BASE)
    filled = STRATEGIES["lpft"](epochs=4).parameters()
    assert recipe == BASE.replace(strategy_parameters=filled)


def test_parameters_of_a_strategy_count_where_it_has_them():
    space = Space.default()
    assert {"layer_decay", "trainable", "batch_norm"} <= active(space, strategy="lpft")
    assert not {"layer_decay", "trainable", "batch_norm"} & active(space, strategy="head")
    assert "head_units" not in active(space, strategy="lpft")
    assert "head_activation" in active(space, strategy="head", head_units=128)
    assert "head_activation" not in active(space, strategy="head", head_units=0)


def test_values_become_the_fields_they_are_named_after():
    space = Space(
        strategy=["lpft", "head"],
        learning_rate={"low": 1e-4, "high": 1e-2, "log": True},
        dropout=[0.1, 0.5],
        trainable=["all", ["-2:", "!stem"]],
        image_size=[64, 96],
    )
    drawn = {"strategy": "lpft", "learning_rate": 0.002, "dropout": 0.5, "image_size": 96}
    recipe = space.recipe(
        {
            **drawn,
            "trainable": space.domains["trainable"].encode(["-2:", "!stem"]),
            "tuner/epochs": 3,
        },
        BASE,
    )
    assert (recipe.dropout, recipe.image_size, recipe.strategy) == (0.5, (96, 96), "lpft")
    parameters = recipe.strategy_parameters
    assert parameters["learning_rate"] == 0.002 and parameters["epochs"] == 4
    assert parameters["trainable"] == ["-2:", "!stem"]
    head = space.recipe({"strategy": "head", "learning_rate": 0.003}, BASE)
    assert head.strategy_parameters["epochs"] == 4 and "trainable" not in head.strategy_parameters


def test_user_fixes_restricts_and_adds():
    space = Space.default().replace(dropout=0.4, batch_size=[8, 16], aspect=["crop", "pad"])
    hp = space.hyperparameters(BASE)
    assert hp.values["dropout"] == 0.4 and hp.values["batch_size"] == 8
    assert space.recipe(hp.values, BASE).aspect == "crop"
    assert len(hp.space) == len(DEFAULT) + 1


def test_value_outside_a_range_starts_at_the_nearest():
    space = Space(learning_rate={"low": 1e-3, "high": 1e-2, "log": True})
    assert space.hyperparameters(BASE).values["learning_rate"] == 1e-3


def test_space_survives_yaml(tmp_path):
    import yaml

    space = Space.default()
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space.to_dict()))
    assert Space.load(tmp_path / "space.yaml").domains == space.domains


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        ({"learning_rat": 1.0}, "no parameter 'learning_rat'.*Closest: learning_rate"),
        ({"seed": [0, 1]}, "no parameter 'seed'"),
        ({"distribute": ["none", "mirrored"]}, "no parameter 'distribute'"),
        ({"dropout": {"low": 0.5, "high": 0.1}}, "dropout may be is not valid.*low must be below"),
        ({"dropout": []}, "dropout may be is not valid: values"),
        ({"dropout": {"values": [0.1], "when": {"optimizer": "sgd"}}}, "optimizer is not in"),
        ({"strategy": ["linear_probe"], "epochs": 3}, "have no parameter 'epochs'"),
        ({"strategy": ["lpft"], "head_units": [32, 64]}, "No combination.*for a linear head"),
        ({"strategy": ["magic"], "epochs": 3}, "no strategy 'magic'"),
        ({"dropout": [2.0, 3.0]}, "No combination in the space is a recipe.*dropout"),
        (
            {"dropout": {"values": [0.1], "when": {"batch_size": 8}},
             "batch_size": {"values": [8], "when": {"dropout": 0.1}}},
            "dropout, batch_size count only when each other",
        ),
    ],
)  # fmt: skip
def test_impossible_space_is_refused_with_its_reason(domains, message):
    with pytest.raises(SearchError, match=message):
        Space(**domains).hyperparameters(BASE)


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not YAML"), ("- 1", "it holds list")])
def test_file_that_is_no_space_is_refused(tmp_path, text, message):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(SearchError, match=message):
        Space.load(tmp_path / "space.yaml")
    with pytest.raises(SearchError, match="nothing.yaml: No such file"):
        Space.load(tmp_path / "nothing.yaml")


def test_combination_that_does_not_go_together_is_refused_as_a_recipe():
    space = Space(strategy=["lpft", "head"], head_units=[0, 16])
    with pytest.raises(RecipeError, match="linear head"):
        space.recipe({"strategy": "lpft", "head_units": 16}, BASE)
