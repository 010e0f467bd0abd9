"""HyperFineTune: what KerasTuner is given to build, and what is refused."""

import json
from dataclasses import replace

import keras
import keras_tuner as kt
import numpy as np
import pytest

import tfinetune as ft
from tfinetune.errors import RecipeError, SearchError
from tfinetune.search import HyperFineTune, Space


@pytest.fixture(scope="module")
def splits(world):
    return ft.data.from_image_folder(world.photos, image_size=16, validation=0.25, test=0)


def hypermodel(world, splits, *, strategy="lpft", **domains):
    recipe = ft.Recipe(data="here", strategy=strategy, augmentation="none")
    space = Space(epochs=[1, 2], **domains)
    return HyperFineTune(str(world.backbone), splits, space=space, recipe=recipe)


def test_model_is_plain_compiled_and_starts_with_the_head_in_closed_form(world, splits):
    keras.config.set_dtype_policy("float32")
    maker = hypermodel(world, splits, label_smoothing=[0.1, 0.0])
    hp = kt.HyperParameters()
    keras.config.set_dtype_policy("mixed_float16")  # as if something had reset it
    try:
        model = maker.build(hp)
    finally:
        keras.config.set_dtype_policy("float32")
    assert hp.values["epochs"] == 1 and maker.recipe(hp).strategy_parameters["epochs"] == 1
    assert model.compute_dtype == "float32"
    assert {layer.name for layer in model.layers} >= {"logits", "probabilities"}
    before = model.evaluate(splits.validation.dataset(8), verbose=0, return_dict=True)
    assert before["accuracy"] > 0.5
    moving = [v for v in model.variables if "moving" in v.path]
    statistics = [np.array(v) for v in moving]
    history = maker.fit(hp, model)
    assert len(history.epoch) == 1 and {"accuracy", "val_accuracy"} <= history.history.keys()
    for old, new in zip(
        statistics, (v for v in model.variables if "moving" in v.path), strict=True
    ):
        np.testing.assert_array_equal(old, np.array(new))


def test_every_model_has_weights_of_its_own(world, splits):
    maker = hypermodel(world, splits, strategy="full")
    one, other = (maker.build(kt.HyperParameters()) for _ in range(2))
    assert not {id(v) for v in one.variables} & {id(v) for v in other.variables}


def test_default_space_starts_with_the_recipe_whatever_it_has(world, splits):
    recipe = ft.Recipe(data="here", strategy="full", batch_size=8, augmentation="no_flip")
    first = HyperFineTune(world.backbone, splits, recipe=recipe).recipe(kt.HyperParameters())
    assert (first.strategy, first.batch_size, first.augmentation) == ("full", 8, "no_flip")


class Keeping(HyperFineTune):
    """Keeps the model that it trained last."""

    def fit(self, hp, model, *args, **kwargs):
        self.trained = model
        return super().fit(hp, model, *args, **kwargs)


def test_trial_that_hyperband_promotes_ends_as_if_it_had_never_stopped(world, splits, tmp_path):
    recipe = ft.Recipe(
        data="here", strategy="full", augmentation="none", dropout=0.0, batch_size=8,
        strategy_parameters={"epochs": 3, "learning_rate": 0.01},
    )  # fmt: skip
    maker = Keeping(world.backbone, splits, space=Space(batch_size=[8, 16]), recipe=recipe)
    tuner = kt.Hyperband(
        maker, objective=kt.Objective("val_loss", "min"), max_epochs=3, directory=tmp_path
    )
    for name, budget in (
        ("0", {"epochs": 1, "initial_epoch": 0}),
        ("1", {"epochs": 3, "initial_epoch": 1, "trial_id": "0"}),
    ):
        hp = tuner.oracle.get_space()
        hp.values |= {f"tuner/{key}": value for key, value in budget.items()}
        tuner.run_trial(kt.engine.trial.Trial(hp, trial_id=name))
    promoted = maker.trained

    hp = tuner.oracle.get_space()
    whole = maker.build(hp)
    maker.fit(hp, whole)
    assert float(promoted.optimizer.learning_rate) == float(whole.optimizer.learning_rate) == 0
    for one, other in zip(promoted.variables, whole.variables, strict=True):
        np.testing.assert_allclose(
            np.array(one), np.array(other), rtol=0, atol=1e-6, err_msg=one.path
        )
    # The rate is that of the epoch, also where the parent was best before its last one.
    maker.fit(hp, whole, initial_epoch=1, epochs=2, callbacks=keras.callbacks.TerminateOnNaN())
    assert int(whole.optimizer.iterations) == 2 * splits.train.steps(8)


@pytest.mark.parametrize(
    "domain",
    [{"precision": ["float32", "mixed_bfloat16"]}, {"image_size": [16, 32]}, {"aspect": "crop"}],
    ids=lambda domain: next(iter(domain)),
)
def test_what_could_not_differ_between_trials_is_no_parameter(world, splits, domain):
    with pytest.raises(SearchError, match=f"Leave {next(iter(domain))} out of its space"):
        hypermodel(world, splits, **domain)


def test_recipe_of_a_trial_says_how_the_photos_were_made_to_fit(world, splits):
    cropped = replace(splits, spec=replace(splits.spec, aspect="crop"))
    of_trial = HyperFineTune(world.backbone, cropped).recipe(kt.HyperParameters())
    assert (of_trial.aspect, of_trial.image_size) == ("crop", (16, 16))


def test_epochs_cycle_through_as_many_views_as_are_asked_for(world, splits):
    recipe = ft.Recipe(
        data="here", strategy="head", augmentation="brightness=0.5", dropout=0.0, batch_size=64,
        strategy_parameters={"epochs": 2, "learning_rate": 1e-6},
    )  # fmt: skip
    maker = HyperFineTune(world.backbone, splits, space=Space(views=[1, "fresh"]), recipe=recipe)
    hp = kt.HyperParameters()
    model = maker.build(hp)
    changes = {}
    for views in (1, "fresh"):
        hp.values["views"] = json.dumps(views)  # as the space has what is of several types
        first, second = maker.fit(hp, model).history["loss"]
        changes[views] = abs(second - first)
    assert changes[1] < 1e-4 and changes["fresh"] > 1e-3  # at a rate of next to nothing


def test_executions_differ_and_the_first_is_what_one_alone_would_be(world, splits, tmp_path):
    maker = hypermodel(world, splits, strategy="head", batch_size=64)
    objective = kt.Objective("val_loss", "min")
    tuner = kt.RandomSearch(maker, objective, executions_per_trial=2, directory=tmp_path)
    hp = tuner.oracle.get_space()
    histories = tuner.run_trial(kt.engine.trial.Trial(hp, trial_id="0"))
    first, second = (history.history["val_loss"] for history in histories)
    alone = maker.fit(hp, maker.build(hp)).history["val_loss"]
    assert first == alone and first != second


def test_what_one_fit_cannot_do_is_refused(world, splits):
    with pytest.raises(SearchError, match="have no parameter 'epochs'"):
        hypermodel(world, splits, strategy="linear_probe")
    maker = HyperFineTune(world.backbone, splits, space=Space(strategy="gradual_unfreezing"))
    with pytest.raises(RecipeError, match="gradual_unfreezing is not one `fit` of Keras"):
        maker.build(kt.HyperParameters())
    maker = hypermodel(world, splits, augmentation="mixup=0.2")
    with pytest.raises(RecipeError, match="mixes no photos"):
        maker.build(kt.HyperParameters())
    recipe = ft.Recipe(data="given as splits", distribute="mirrored")
    maker = HyperFineTune(world.backbone, splits, recipe=recipe)
    with pytest.raises(RecipeError, match="trains on one device"):
        maker.build(kt.HyperParameters())
    recipe = ft.Recipe(data="given as splits", precision="mixed_bfloat16")
    with pytest.raises(RecipeError, match="trains in float32 .precision 'mixed_bfloat16'"):
        HyperFineTune(world.backbone, splits, recipe=recipe)
    whole = ft.data.from_image_folder(world.photos, image_size=16, validation=0, test=0)
    with pytest.raises(SearchError, match="Pass validation=0.15"):
        HyperFineTune(world.backbone, whole)
