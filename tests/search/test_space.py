"""Spaces: what they allow, what they fix, and which recipe a trial is."""

import pytest
import yaml

import tfinetune as ft
from tfinetune.cli.search import _question
from tfinetune.errors import RecipeError, SearchError
from tfinetune.search import Range, SearchFolder, SearchRecipe
from tfinetune.search.space import DEFAULT, Space
from tfinetune.training.strategies import STRATEGIES

BASE = ft.Recipe(data="photos", backbone="base.h5", strategy_parameters={"epochs": 4})


def first(space, base):
    """Return the recipe of the first trial."""
    return space.recipe(space.hyperparameters(base).values, base)


def drawn(space, base, **values):
    """Return the recipe of a trial that drew these values, and the first trial's for the rest."""
    hp = space.hyperparameters(base)
    hp.values |= values
    hp.ensure_active_values()
    return space.recipe(hp.values, base)


def filled(recipe):
    """Return a recipe with every parameter of its strategy."""
    strategy = STRATEGIES[recipe.strategy](**recipe.strategy_parameters)
    return recipe.replace(strategy_parameters=strategy.parameters())


def active(space, **values):
    """Return the names that count where parameters have these values."""
    hp = space.hyperparameters(BASE)
    hp.values |= values
    return {parameter.name for parameter in hp.space if hp.is_active(parameter)}


def test_default_values_are_the_recipe_that_the_search_starts_from():
    assert first(Space.default(), BASE) == filled(BASE)
    assert Space.default(BASE).domains == Space.default().domains


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        *(({"strategy": name}, {}) for name in STRATEGIES),
        ({"augmentation": "no_flip"}, {}),
        ({"batch_size": 8}, {}),
        ({"dropout": 0.7}, {}),
        ({"strategy": "head", "head_units": 64, "head_activation": "tanh"}, {}),
        ({"strategy": "gradual_unfreezing", "head_units": 64}, {}),
        ({"strategy": "full"}, {"trainable": "stage_3:", "optimizer": "lion"}),
        ({"strategy": "full"}, {"trainable": ["-2:", "!stem"], "label_smoothing": 0.05}),
        ({}, {"learning_rate": 0.02, "layer_decay": 0.3, "weight_decay": 0.0}),
        ({"strategy": "linear_probe", "batch_size": 128}, {}),
    ],
)  # fmt: skip
def test_first_trial_of_the_default_space_is_the_recipe_whatever_it_has(fields, parameters):
    base = ft.Recipe(data="photos", backbone="base.h5", strategy_parameters=parameters, **fields)
    space = Space.default(base)
    assert first(space, base) == filled(base)
    assert first(Space(**SearchRecipe(recipe=base).space), base) == filled(base)


def test_default_space_around_a_recipe_keeps_what_it_has_without_one():
    changes = {"augmentation": "no_flip", "batch_size": 128, "dropout": 0.7}
    around = Space.default(BASE.replace(**changes, strategy_parameters={"layer_decay": 0.3}))
    assert around.domains["augmentation"].values == ("no_flip", *DEFAULT["augmentation"])
    assert around.domains["batch_size"].values == (16, 32, 64, 128)  # neighbours are alike
    assert around.domains["dropout"] == Range(low=0.0, high=0.7, step=0.1)
    assert around.domains["layer_decay"] == Range(low=0.3, high=1.0, step=0.1)


def test_hidden_layer_of_a_new_size_has_an_activation_as_others_have():
    base = ft.Recipe(data="photos", strategy="full", head_units=64)
    space = Space.default(base)
    assert {"head_units", "head_activation"} <= active(space, strategy="full", head_units=64)
    assert "head_units" not in active(space, strategy="lpft")


def test_what_a_user_restricts_is_restricted_for_the_first_trial_too():
    base = BASE.replace(strategy="full", batch_size=8, dropout=0.7)
    space = Space.default(base).replace(
        strategy=["lpft", "head"], batch_size=[16, 32], dropout={"low": 0.1, "high": 0.3}
    )
    recipe = first(space, base)
    assert (recipe.strategy, recipe.batch_size, recipe.dropout) == ("lpft", 16, 0.3)


def test_default_space_around_what_is_no_recipe_is_refused():
    with pytest.raises(RecipeError, match="solves for a linear head"):
        Space.default(BASE.replace(head_units=64))


def test_parameter_that_does_not_count_has_its_default_and_not_the_value_of_the_recipe():
    base = ft.Recipe(
        data="photos", strategy="head", head_units=128, head_activation="gelu",
        strategy_parameters={"optimizer": "lion"},
    )  # fmt: skip
    lpft = drawn(Space.default(base), base, strategy="lpft")
    assert (lpft.head_units, lpft.head_activation) == (0, "relu")
    assert lpft.strategy_parameters["optimizer"] == "lion"
    smoothed = base.replace(strategy_parameters={"label_smoothing": 0.1})
    space = Space(
        optimizer=["adamw", "lion"],
        label_smoothing={"values": [0.1, 0.2], "when": {"optimizer": "lion"}},
    )
    assert drawn(space, smoothed).strategy_parameters["label_smoothing"] == 0.0
    lion = drawn(space, smoothed, optimizer="lion", label_smoothing=0.2)
    assert lion.strategy_parameters["label_smoothing"] == 0.2


def test_whole_numbers_and_fractions_together_are_fractions():
    space = Space(
        label_smoothing=[0, 0.1],
        dropout={"values": [0.2, 0.3], "when": {"label_smoothing": [0, 0.1]}},
    )
    assert space.hyperparameters(BASE).values == {"label_smoothing": 0.0, "dropout": 0.2}
    assert "dropout" in active(space, label_smoothing=0.1)
    recipe = drawn(space, BASE, label_smoothing=0.1, dropout=0.3)
    assert (recipe.strategy_parameters["label_smoothing"], recipe.dropout) == (0.1, 0.3)
    zero = BASE.replace(strategy_parameters={"weight_decay": 0})
    assert first(Space(weight_decay=[0.0, 0.1]), zero).strategy_parameters["weight_decay"] == 0


@pytest.mark.parametrize(
    ("domain", "start"),
    [
        ({"image_size": {"low": 64, "high": 96, "step": 32}}, 64),
        ({"views": {"low": 2, "high": 4}}, 2),
        ({"batch_size": {"low": 2, "high": 9}}, 9),  # whole where both are
        ({"groups": {"low": 1, "high": 2}, "strategy": "gradual_unfreezing"}, 2),
    ],
)
def test_range_around_what_is_no_number_in_it_starts_at_an_end(domain, start):
    space = Space(**domain)
    value = space.hyperparameters(BASE).values[next(iter(domain))]
    assert value == start and isinstance(value, int)
    space.recipe(space.hyperparameters(BASE).values, BASE)


@pytest.mark.parametrize(
    ("domain", "values"),
    [
        ({"dropout": {"low": 0.0, "high": 0.5, "step": 0.1}}, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        ({"layer_decay": {"low": 0.6, "high": 1.0, "step": 0.1}}, [0.6, 0.7, 0.8, 0.9, 1.0]),
        ({"dropout": {"low": 0.0, "high": 0.6, "step": 0.25}}, [0.0, 0.2, 0.25, 0.5]),
        (
            {"learning_rate": {"low": 1e-5, "high": 1e-2, "step": 10, "log": True}},
            [1e-5, 1e-4, 3e-4, 1e-3, 1e-2],
        ),
    ],
)
def test_range_with_steps_has_the_value_of_the_default_and_each_step_to_the_last(domain, values):
    (parameter,) = Space(**domain).hyperparameters(BASE).space
    assert list(parameter.values) == values
    probabilities = [parameter.value_to_prob(value) for value in values]
    assert probabilities == pytest.approx([(n + 0.5) / len(values) for n in range(len(values))])
    assert [parameter.prob_to_value(each) for each in probabilities] == values


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
    values = {"strategy": "lpft", "learning_rate": 0.002, "dropout": 0.5, "image_size": 96}
    recipe = space.recipe(
        {
            **values,
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


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_default_space_can_be_fixed_to_any_strategy(strategy):
    space = Space.default().replace(strategy=strategy)
    assert first(space, BASE.replace(strategy_parameters={})).strategy == strategy


def test_value_outside_a_range_starts_at_the_nearest():
    space = Space(learning_rate={"low": 1e-3, "high": 1e-2, "log": True})
    assert space.hyperparameters(BASE).values["learning_rate"] == 1e-3


def test_space_survives_yaml(tmp_path):
    import yaml

    space = Space.default()
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space.to_dict()))
    assert Space.load(tmp_path / "space.yaml").domains == space.domains


def test_command_starts_with_the_strategy_that_it_is_given_or_fixes():
    asked = _question({"data": "photos", "strategy": "full"}, [], None, {"batch_size": [8, 16]}, {})
    recipe = first(Space(**asked.space), asked.recipe)
    assert (recipe.strategy, recipe.batch_size) == ("full", 8)
    asked = _question({"data": "photos", "strategy": "full"}, [], None, {"strategy": "head"}, {})
    assert first(Space(**asked.space), asked.recipe).strategy == "head"


def test_search_over_tuples_can_be_resumed(tmp_path):
    asked = SearchRecipe(recipe=BASE, space={"dropout": (0.2, 0.5), "trainable": ("all", ("-2:",))})
    SearchFolder.create(tmp_path / "s", asked)
    assert SearchFolder.resume(tmp_path / "s", asked).recipe() == asked


def test_search_that_starts_from_tuples_can_be_resumed(tmp_path):
    recipe = BASE.replace(strategy_parameters={"trainable": ("-2:", "!stem")})
    asked = SearchRecipe(recipe=recipe)
    SearchFolder.create(tmp_path / "s", asked)
    SearchFolder.resume(tmp_path / "s", asked)
    with pytest.raises(SearchError, match="recipe, space differ"):
        SearchFolder.resume(tmp_path / "s", SearchRecipe(recipe=BASE))


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
        ({"strategy": ["lpft"], "head_units": [32, 64]}, "have no parameter 'head_units'"),
        ({"strategy": ["magic"], "epochs": 3}, "no strategy 'magic'"),
        ({"strategy": {"low": 1, "high": 2}}, "strategy may not be 1"),
        ({"dropout": [0.1, 7]}, "dropout may not be 7.0.*less than 1"),
        ({"optimizer": ["adamw", "sgdx"]}, "optimizer may not be 'sgdx'"),
        ({"augmentation": ["light", "silly"]}, "augmentation may not be 'silly'.*Known"),
        ({"augmentation": [["flip"]]}, "augmentation may not be"),
        ({"dropout": {"low": 0.0, "high": float("nan")}}, "finite number"),
        (
            {"learning_rate": {"low": 1e-3, "high": 0.1, "log": True, "step": 0.01}},
            "step multiplies where log is true, so it must be above 1",
        ),
        ({"dropout": {"low": 0.0, "high": 0.5, "step": 1e-9}}, "step leads to more than 10,000"),
        ({"batch_size": {"low": 8, "high": 64, "step": 0.5}}, "its step must be one; got 0.5"),
        (
            {"strategy": ["lpft", "head"],
             "dropout": {"values": [0.1], "when": {"strategy": ["haed"]}}},
            "dropout counts when strategy is 'haed', which is not one of",
        ),
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


def test_space_around_which_no_recipe_is_possible_is_refused():
    with pytest.raises(SearchError, match="No combination.*for a linear head"):
        Space(dropout=[0.1, 0.2]).hyperparameters(BASE.replace(head_units=64))


def test_number_that_yaml_takes_for_a_text_is_a_number():
    space = Space(**yaml.safe_load("learning_rate: [3e-3, 1.0e-3, 3e-4]"))
    assert space.domains["learning_rate"].values == (3e-3, 1e-3, 3e-4)
    slow = BASE.replace(strategy_parameters={"learning_rate": 3e-4})
    assert first(space, slow).strategy_parameters["learning_rate"] == 3e-4


def test_value_that_is_given_twice_counts_once():
    space = Space(dropout=[0.1, 0.2, 0.1], trainable=["all", ["-2:"], ["-2:"]])
    assert space.domains["dropout"].values == (0.1, 0.2)
    assert space.domains["trainable"].values == ("all", ["-2:"])


def test_range_of_fractions_may_be_given_in_whole_numbers():
    for step in ({}, {"step": 0.25, "when": {"strategy": "lpft"}}):
        space = Space(strategy=["lpft", "head"], weight_decay={"low": 0, "high": 1, **step})
        assert space.hyperparameters(BASE).values["weight_decay"] == 0.01
    assert space.domains["weight_decay"].when == {"strategy": ("lpft",)}
    with pytest.raises(SearchError, match="more than 10,000 values"):
        Space(dropout={"low": 0, "high": 1, "step": 1e-6})


def test_unknown_name_is_refused_beside_others_too():
    with pytest.raises(SearchError, match="no parameter 'colour'.*Known: "):
        Space.default().replace(colour=1)


def test_what_can_no_longer_count_is_left_out():
    assert (
        not {"head_units", "head_activation"}
        & Space.default().replace(strategy="lpft").domains.keys()
    )
    hidden = Space.default().replace(strategy="head", head_units=[0, 64])
    assert "trainable" not in hidden.domains
    assert "head_activation" in active(hidden, head_units=64)
    assert "head_activation" not in active(hidden, head_units=0)
    linear = Space.default().replace(head_units=0)
    assert "head_activation" not in linear.hyperparameters(BASE).values
    given = Space(
        strategy=["lpft", "head", "full"],
        dropout={"values": [0.1], "when": {"strategy": ["head", "full"]}},
        batch_size={"values": [8], "when": {"dropout": 0.1}},
    )
    assert given.replace(strategy=["lpft", "head"]).domains["dropout"].when == {
        "strategy": ("head",)
    }
    assert given.replace(strategy="lpft").domains.keys() == {"strategy"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not YAML"), ("- 1", "it holds list"), ("1: [2]", "no parameter '1'")],
)
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
