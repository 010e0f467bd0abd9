"""Soups: the mean of trials that are kin, offered where it leads the winner."""

from dataclasses import replace

import numpy as np
import pytest

import tfinetune as ft
from tfinetune.search import Result, SearchFolder
from tfinetune.search.soup import add_soup, mix
from tfinetune.training import Candidate, Checkpoint
from tfinetune.training.checkpoint import TrainingState
from tfinetune.training.runner import accuracy_and_loss


@pytest.fixture(scope="module")
def good_weights(search_recipe, workbench):
    """Weights that tell the photos apart."""
    tuner, splits = workbench.tuner(search_recipe().recipe)
    head = ft.strategies.Head(epochs=30, learning_rate=0.03)
    tuner.fit(splits, head, augment="none", calibrate=False)
    assert tuner.evaluate(splits.validation)["accuracy"] > 0.6
    return tuner.assembly.get_weights()


OPPOSITE = [[1e3, -1e3, 0], [-1e3, 1e3, 0]]
"""What is added to the bias of a head: the mean is as if nothing had been."""


@pytest.fixture
def mistaken(search_recipe, workbench, good_weights, tmp_path):
    """Make a search of trials, each of which sees another class everywhere."""

    def make(errors=OPPOSITE, *, margin=0.0, objective="val_accuracy", **changes):
        asked = search_recipe(margin=margin, objectives=[objective])
        folder = SearchFolder.create(tmp_path / "s", asked)
        tuner, splits = workbench.tuner(asked.recipe)
        *earlier, bias = good_weights
        for trial, error in zip("012", errors, strict=False):
            recipe = asked.recipe.replace(**(changes if trial != "0" else {}))
            recipe.save(folder.trial_path(trial) / "recipe.yaml")
            weights = [*earlier, bias + np.float32(error)]
            tuner.assembly.set_weights(weights)
            accuracy, loss = accuracy_and_loss(tuner.logits(splits.validation), splits.validation)
            state = TrainingState(
                phase=1, weights=weights, candidates=[Candidate("head", weights, accuracy, loss)]
            )
            Checkpoint(folder.checkpoint_path(trial)).save(state)
            metrics = {"val_accuracy": accuracy, "val_loss": loss}
            folder.write_result(
                Result(trial, "completed", {}, metrics, examples=len(splits.validation))
            )
        return folder

    return make


def test_soup_is_the_mean_of_what_is_trained():
    one = [np.float32([0.0, 2.0]), np.uint32([1, 2]), np.float32([4.0])]
    other = [np.float32([2.0, 4.0]), np.float32([0.0])]
    mixed = mix(one, other, share=0.5)
    np.testing.assert_array_equal(np.concatenate(mixed), [1.0, 3.0, 1, 2, 2.0])


def test_soup_that_predicts_better_than_its_ingredients_ships(mistaken, good_weights, workbench):
    folder = mistaken(errors=[*OPPOSITE, [0, 0, 1e4]])  # the last would spoil it
    path = add_soup(folder, folder.leaderboard(), workbench)
    winner, soup = Checkpoint(path).load().candidates
    assert (winner.phase, soup.phase) == ("head", "soup")
    assert soup.accuracy > 0.6 > winner.accuracy == folder.leaderboard()[0].metrics["val_accuracy"]
    recipe = folder.recipe().recipe
    tuner, splits = workbench.tuner(recipe)
    strategy = ft.strategies.Head(**recipe.strategy_parameters)
    outcome = tuner.fit(splits, strategy, augment=recipe.augmentation, checkpoint=path)
    assert outcome.shipped.phase == "soup"
    for received, expected in zip(tuner.assembly.get_weights(), good_weights, strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-3)


def test_soup_must_lead_by_the_margin_of_the_search(mistaken, workbench):
    folder = mistaken(margin=1e9)
    winner = folder.leaderboard()[0].trial
    assert add_soup(folder, folder.leaderboard(), workbench) == folder.checkpoint_path(winner)


def test_soup_with_a_higher_loss_is_not_offered_where_the_lowest_is_searched_for(
    mistaken, workbench
):
    folder = mistaken(objective="val_loss")
    path = folder.checkpoint_path(folder.leaderboard()[0].trial)
    assert add_soup(folder, folder.leaderboard(), workbench) != path
    state = Checkpoint(path).load()
    state.candidates = [replace(state.candidates[0], loss=0.0)]
    Checkpoint(path).save(state)
    assert add_soup(folder, folder.leaderboard(), workbench) == path


def test_trial_that_was_paused_gives_the_weights_that_it_is_ranked_by(
    mistaken, good_weights, workbench
):
    folder = mistaken()
    path = folder.checkpoint_path(folder.leaderboard()[1].trial)
    state = Checkpoint(path).load()
    probe = Candidate("probe", [w * np.nan if w.dtype.kind == "f" else w for w in good_weights])
    state.candidates, state.best = [probe], state.candidates[0]
    Checkpoint(path).save(state)
    soup = Checkpoint(add_soup(folder, folder.leaderboard(), workbench)).load().candidates[-1]
    assert soup.phase == "soup" and soup.accuracy > 0.6


def test_soup_that_predicts_worse_is_not_offered(mistaken, good_weights, workbench):
    folder = mistaken()
    winner = Checkpoint(folder.checkpoint_path(folder.leaderboard()[0].trial))
    state = winner.load()
    state.candidates = [Candidate("head", good_weights, accuracy=0.6, loss=1.0)]
    winner.save(state)
    assert add_soup(folder, folder.leaderboard(), workbench) == winner.path


@pytest.mark.parametrize(
    "difference",
    [{"endpoint": "serve"}, {"weights": "none"}, {"input_range": (0, 1)}, {"head_units": 4}],
    ids=lambda difference: next(iter(difference)),
)
def test_trials_on_different_backbones_or_heads_are_not_mixed(difference, mistaken, workbench):
    folder = mistaken(**difference)
    board = sorted(folder.leaderboard(), key=lambda result: result.trial)  # the first can be opened
    assert add_soup(folder, board, workbench) == folder.checkpoint_path("0")
