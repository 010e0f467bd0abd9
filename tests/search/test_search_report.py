"""The report of a search, and what it says of trials that were made up."""

from dataclasses import replace

import numpy as np
import pytest

from tfinetune.search.charts import MISSING, _heights, learning_curves, parallel_coordinates
from tfinetune.search.folder import SearchFolder
from tfinetune.search.importance import ENOUGH, importance
from tfinetune.search.leaderboard import (
    Result,
    measured,
    pareto_front,
    rank_results,
    short,
    verdict,
)
from tfinetune.search.report import write_search_report


def made_up(count=24, *, objectives=("val_accuracy", "latency_ms")):
    """Trials whose accuracy depends on the rate, and not on dropout or the optimizer."""
    random = np.random.default_rng(0)
    results = []
    for trial in range(count):
        rate = float(10 ** random.uniform(-4, -2))
        accuracy = 0.9 - 0.1 * abs(np.log10(rate) + 3) + 0.001 * random.normal()
        metrics = {"val_accuracy": float(accuracy), "val_loss": 1 - float(accuracy)}
        history = [{"share": share, "val_accuracy": accuracy * share} for share in (0.5, 1.0)]
        values = {
            "learning_rate": rate,
            "dropout": float(random.choice([0.0, 0.2])),
            "optimizer": str(random.choice(["adamw", "lion"])),
            "head_units": None if trial % 3 else 64,
        }
        values = {name: value for name, value in values.items() if value is not None}
        metrics["latency_ms"] = float(random.uniform(1, 9))
        results.append(Result(f"{trial:02d}", "completed", values, metrics, 2.0, history))
    return results


def test_what_matters_comes_first_and_shares_sum_to_one():
    shares = importance(made_up(), "val_accuracy")
    assert next(iter(shares)) == "learning_rate" and shares["learning_rate"] > 0.7
    assert sum(shares.values()) == pytest.approx(1)
    assert importance(made_up(), "val_accuracy") == shares


def test_too_few_trials_or_no_difference_say_nothing_of_importance():
    assert importance(made_up(ENOUGH - 1), "val_accuracy") == {}
    same = [Result(str(n), "completed", {"dropout": 0.1}, {"val_loss": 0.5}) for n in range(9)]
    assert importance(same, "val_loss") == {}


def test_best_comes_first_and_failed_trials_last():
    failed = Result("99", "failed", {}, reason="no memory")
    worse, better = (
        Result(str(n), "completed", {}, {"val_accuracy": 0.8, "val_loss": loss})
        for n, loss in enumerate((0.5, 0.4))
    )
    assert rank_results([failed, worse, better], "val_accuracy") == [better, worse, failed]


def test_measures_are_short_and_counts_whole():
    result = Result("0", "completed", {}, {"val_accuracy": 0.123456, "parameters": 417902.0})
    assert measured(result, "val_accuracy") == "0.1235"
    assert measured(result, "parameters") == "417,902"
    assert measured(Result("1", "failed", {}), "parameters") == ""


def test_other_objectives_decide_between_equal_ones():
    measured = [(5.0, 0.3, 0.9), (4.0, 0.3, 0.9), (4.0, 0.6, 0.1), (4.0, 0.6, 0.2)]
    names = ("parameters", "val_accuracy", "val_loss")
    results = [
        Result(str(trial), "completed", {}, dict(zip(names, row, strict=True)))
        for trial, row in enumerate(measured)
    ]
    ranked = rank_results(results, "parameters", "val_accuracy")
    assert [result.trial for result in ranked] == ["2", "3", "1", "0"]


def test_accuracies_that_differ_by_their_precision_are_equal():
    two_thirds = float(np.float32(2 / 3))
    assert two_thirds > 2 / 3
    results = [
        Result(str(trial), "completed", {}, {"val_accuracy": accuracy, "val_loss": loss})
        for trial, (accuracy, loss) in enumerate([(2 / 3, 0.9), (two_thirds, 2.0)])
    ]
    assert rank_results(results, "val_accuracy")[0].trial == "0"


def test_accuracies_that_differ_by_rounding_are_equal():
    told = [
        Result(str(trial), "completed", {}, {"val_accuracy": accuracy}, examples=24)
        for trial, accuracy in enumerate([float(np.float32(13 / 24)), 13 / 24])
    ]
    assert told[0].metrics != told[1].metrics
    for results in (told, told[::-1]):
        assert rank_results(results, "val_accuracy")[0].trial == "0"
    assert verdict(told, "val_accuracy") == "The default recipe is the winner: no trial was better."


def test_whole_trial_comes_before_its_equal_that_was_paused():
    paused, whole = (
        Result(trial, status, {}, {"val_accuracy": 0.5, "val_loss": 1.0})
        for trial, status in [("1", "paused"), ("2", "completed")]
    )
    assert rank_results([paused, whole], "val_accuracy") == [whole, paused]


def test_trial_that_was_cut_short_is_not_the_fastest():
    cut, whole = (
        Result(trial, status, {}, {"val_accuracy": 0.5, "val_loss": 1.0, "seconds": seconds})
        for trial, status, seconds in [("1", "paused", 1.0), ("2", "completed", 2.0)]
    )
    assert rank_results([cut, whole], "seconds") == [whole, cut]
    assert pareto_front([cut, whole], ["val_accuracy", "seconds"]) == [whole]


def test_verdict_says_that_the_default_recipe_failed():
    good = Result("1", "completed", {}, {"val_accuracy": 0.5, "val_loss": 1.0})
    failed = Result("0", "failed", {}, reason="There is no layer 'x'.")
    assert verdict([good, failed], "val_accuracy") == (
        "Trial 1 is the winner. The default recipe failed, so none was compared with it. There is "
        "no layer 'x'."
    )


@pytest.mark.parametrize(("default", "best"), [(0.75, 1.0), (1.0, 1.0)])
def test_lead_may_be_luck_though_the_best_is_always_right(default, best):
    results = [
        Result(trial, "completed", {}, {"val_accuracy": accuracy, "val_loss": loss}, examples=4)
        for trial, accuracy, loss in [("0", default, 0.2), ("1", best, 0.1)]
    ]
    assert rank_results(results, "val_accuracy", margin=2)[0].trial == "0"


@pytest.mark.parametrize(
    ("examples", "margin", "winner"), [(100, 1, "0"), (100, 0, "1"), (400, 1, "1"), (0, 1, "1")]
)
def test_default_recipe_wins_over_a_lead_that_may_be_luck(examples, margin, winner):
    # The standard error of 0.9 is 3.1 points on 100 examples, 1.5 on 400.
    default, best = (
        Result(str(trial), "completed", {}, {"val_accuracy": accuracy}, examples=examples)
        for trial, accuracy in enumerate((0.88, 0.90))
    )
    board = rank_results([best, default], "val_accuracy", margin=margin)
    assert board[0].trial == winner
    said = verdict(board, "val_accuracy")
    if winner == "0":
        assert "trial 1 leads it by 2.0 points" in said and "standard error is 3.1" in said
    else:
        assert said == "Trial 1 is the winner."


def test_default_recipe_that_no_trial_beats_is_said_to_be_the_winner():
    board = [
        Result(str(trial), "completed", {}, {"val_accuracy": 0.9, "val_loss": loss}, examples=9)
        for trial, loss in enumerate((0.3, 0.4))
    ]
    for objective in ("val_accuracy", "val_loss"):
        assert "no trial was better" in verdict(rank_results(board, objective), objective)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/models/a/keras_model.h5", "a/keras_model.h5"),
        ("/keras_model.h5", "/keras_model.h5"),
        ("b/keras_model.h5", "b/keras_model.h5"),
        ("*/conv*", "*/conv*"),
        ('["-2:", "!stem"]', '["-2:", "!stem"]'),
        (0.00123456, "0.00123"),
        (64, "64"),
    ],
)
def test_only_the_path_of_a_file_is_shortened_to_what_tells_it_apart(value, shown):
    assert short(value) == shown


def test_pareto_front_is_what_none_beats_in_every_objective():
    points = {"0": (0.9, 5.0), "1": (0.8, 1.0), "2": (0.85, 5.0), "3": (0.9, 5.0), "4": (0.7, 2.0)}
    results = [
        Result(name, "completed", {}, {"val_accuracy": accuracy, "latency_ms": latency})
        for name, (accuracy, latency) in points.items()
    ]
    results.append(Result("5", "failed", {}))
    front = pareto_front(results, ["val_accuracy", "latency_ms"])
    assert [result.trial for result in front] == ["0", "1", "3"]


def test_report_shows_every_trial_and_escapes_what_others_wrote(search_recipe, tmp_path):
    asked = search_recipe(objectives=("val_accuracy", "latency_ms"))
    folder = SearchFolder.create(tmp_path / "s", asked)
    board = rank_results(made_up(), "val_accuracy")
    board.append(Result("24", "failed", {}, reason="No layer matches '<script>'"))
    write_search_report(folder, board, verdict(board, "val_accuracy"))
    page = folder.report_path.read_text()
    assert page.count("<tr") >= 25 and "<script" not in page
    assert "No layer matches &#39;&lt;script&gt;&#39;" in page
    assert 'id="pareto"' in page and 'id="importance"' in page and page.count("<svg") == 2
    assert f"Trial {board[0].trial} is the winner" in page


def test_report_of_few_whole_trials_says_why_it_does_not_tell_what_mattered(
    search_recipe, tmp_path
):
    folder = SearchFolder.create(tmp_path / "s", search_recipe(oracle="hyperband"))
    board = [replace(r, status="completed" if i < 3 else "paused") for i, r in enumerate(made_up())]
    write_search_report(folder, rank_results(board, "val_accuracy"), "Trial 0 is the winner.")
    page = folder.report_path.read_text()
    assert "from 8 trials on that were trained to the end; 3 of 24 were, for Hyperband" in page
    assert 'id="importance"' not in page


@pytest.mark.parametrize("count", [2, 24])
def test_charts_draw_one_line_for_each_trial(count):
    results = rank_results(made_up(count), "val_accuracy")
    for svg in (parallel_coordinates(results, "val_accuracy"), learning_curves(results)):
        assert svg.startswith("<svg") and f"{count} trials" in svg and "nan" not in svg


@pytest.mark.parametrize(
    ("values", "heights"),
    [
        ([1, None, 3], [0, MISSING, 1]),
        ([512, None, 512], [0.5, MISSING, 0.5]),
        (["gelu", None, "relu"], [0, MISSING, 1]),
        ([0, "auto", 0], [0, 1, 0]),
    ],
)
def test_trial_without_a_parameter_passes_below_all_that_have_it(values, heights):
    assert _heights(values).tolist() == heights
