"""What every strategy does: lists phases, serializes, trains, reproduces, refuses bad input."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import tfinetune as ft
from tfinetune.errors import RecipeError
from tfinetune.training.strategies import STRATEGIES, build_strategy

CASES = {
    "lpft": {"epochs": 2},
    "linear_probe": {},
    "head": {"epochs": 2, "optimizer": "lion", "label_smoothing": 0.1},
    "full": {"epochs": 2, "batch_norm": "adapt", "learning_rate": 3e-3},
    "gradual_unfreezing": {"epochs": 1, "groups": 1},
}


def test_every_strategy_is_covered():
    assert CASES.keys() == STRATEGIES.keys()


@pytest.fixture(params=CASES)
def strategy(request):
    return build_strategy(request.param, CASES[request.param])


def test_parameters_rebuild_the_strategy(strategy):
    name = next(name for name, kind in STRATEGIES.items() if type(strategy) is kind)
    assert build_strategy(name, strategy.parameters()) == strategy


def test_phase_names_are_unique(strategy):
    names = [phase.name for phase in strategy.phases(["stem", "stage_1", "head"], None)]
    assert names and len(set(names)) == len(names)


def test_training_moves_the_head_and_reproduces_under_a_seed(strategy, small_cnn, photo_folder):
    splits = ft.data.from_image_folder(
        photo_folder(per_class=8), image_size=16, validation=0.25, test=0
    )
    predictions = []
    for _ in range(2):
        # `auto` measures, and two measurements may choose differently.
        tuner = ft.FineTuner(small_cnn(), splits.spec, seed=3, precision="float32")
        before = np.array(tuner.assembly.logits_layer.kernel)
        outcome = tuner.fit(splits, strategy, batch_size=8)
        assert not np.array_equal(before, np.array(tuner.assembly.logits_layer.kernel))
        assert outcome.shipped.accuracy is not None
        predictions.append(tuner.probabilities(splits.train))
    np.testing.assert_array_equal(*predictions)


@pytest.mark.parametrize("name", CASES)
def test_unknown_parameter_is_named(name):
    with pytest.raises(RecipeError, match=f"The strategy {name} is not valid: colour"):
        build_strategy(name, {"colour": 1})


def test_strategy_in_the_contributing_guide_lists_phases_and_rejects_bad_parameters():
    guide = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", guide, flags=re.DOTALL).group(1)
    scope: dict = {}
    exec(textwrap.dedent(code), scope)
    phases = scope["WarmHead"](epochs=3).phases(["stem", "head"], None)
    assert [(phase.trainable, phase.epochs) for phase in phases] == [("head", 3), ("all", 3)]
    with pytest.raises(ValueError, match="colour"):
        scope["WarmHead"](colour=1)


def test_unknown_strategy_lists_the_known():
    with pytest.raises(
        RecipeError,
        match="no strategy 'magic'. Known: lpft, linear_probe, head, full, gradual_unfreezing",
    ):
        build_strategy("magic", {})


@pytest.mark.parametrize("name", ["lpft", "full"])
def test_value_out_of_range_is_named(name):
    with pytest.raises(RecipeError, match=r"epochs: .*greater than or equal to 1 \(got 0\)"):
        build_strategy(name, {"epochs": 0})
