"""The median rule: who is judged, by whom, and when."""

from tfinetune.search.pruning import ENOUGH, is_hopeless


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
