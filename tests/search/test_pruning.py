"""The median rule: who is judged, by whom, and when."""

import pytest

from tfinetune.search.pruning import ENOUGH, can_prune, is_hopeless


def curve(*accuracies, epochs=4):
    return [
        {"share": number / epochs, "val_accuracy": accuracy}
        for number, accuracy in enumerate(accuracies, start=1)
    ]


OTHERS = [curve(0.6, 0.7, 0.8, 0.9)] * ENOUGH


def test_trial_below_what_half_the_others_averaged_is_hopeless():
    assert is_hopeless(curve(0.5, 0.6), OTHERS)
    assert not is_hopeless(curve(0.5, 0.66), OTHERS)
    assert not is_hopeless(curve(0.66, 0.1), OTHERS)


def test_nobody_is_judged_too_early_or_by_too_few():
    assert not is_hopeless(curve(0.1), OTHERS)
    assert not is_hopeless(curve(0.1, 0.1), OTHERS[1:])
    short = [curve(0.6)] * ENOUGH
    assert not is_hopeless(curve(0.1, 0.1), short)
    assert not is_hopeless([], OTHERS)


def test_loss_is_hopeless_above_what_half_the_others_averaged():
    def losses(*values):
        return [
            {"share": number / 4, "val_accuracy": 0.5, "val_loss": value}
            for number, value in enumerate(values, start=1)
        ]

    others = [losses(1.0, 0.8, 0.6, 0.5)] * ENOUGH
    assert is_hopeless(losses(1.2, 1.0), others, objective="val_loss")
    assert not is_hopeless(losses(1.2, 0.8), others, objective="val_loss")
    assert is_hopeless(losses(None, None), others, objective="val_loss")


@pytest.mark.parametrize(
    ("objectives", "can"),
    [
        (["val_accuracy", "latency_ms"], True),
        (["val_loss"], True),
        (["parameters"], False),
        (["val_accuracy", "seconds"], False),  # that of a trial cut short would be low
    ],
)
def test_trials_are_cut_short_only_where_epochs_tell_of_the_objective(objectives, can):
    assert can_prune(objectives) == can
