"""Metrics against numbers worked out by hand, and what they say where there is nothing to say."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tfinetune.errors import DataError
from tfinetune.evaluation import classification_metrics, most_confused, worst_mistakes
from tfinetune.evaluation.metrics import wilson_interval

NAMES = ["cat", "dog", "owl"]


def confident(predicted, classes=3, confidence=0.8):
    """Probabilities [n, C] that predict `predicted`."""
    rest = (1 - confidence) / (classes - 1)
    return np.where(np.eye(classes)[predicted] == 1, confidence, rest)


def test_metrics_equal_hand_computed_values():
    metrics = classification_metrics([0, 0, 0, 1, 1, 2], confident([0, 0, 1, 1, 2, 2]), NAMES)
    assert metrics["n"] == 6
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["confusion"] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    cat, dog, owl = metrics["per_class"]
    assert cat == pytest.approx(
        {"name": "cat", "precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3}
    )
    assert (dog["precision"], dog["recall"], dog["f1"]) == pytest.approx((0.5, 0.5, 0.5))
    assert (owl["precision"], owl["recall"], owl["f1"]) == pytest.approx((0.5, 1.0, 2 / 3))
    assert metrics["macro_f1"] == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    assert metrics["log_loss"] == pytest.approx(-(4 * np.log(0.8) + 2 * np.log(0.1)) / 6)
    assert metrics["ece"] == pytest.approx(0.8 - 4 / 6)
    assert sum(row["count"] for row in metrics["reliability"]) == 6
    assert len(metrics["reliability"]) == 15


def test_interval_is_wilson():
    # Wilson 1927: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964
    assert wilson_interval(8, 10) == pytest.approx([0.490162, 0.943318], abs=1e-6)
    assert wilson_interval(10, 10) == pytest.approx([0.722467, 1.0], abs=1e-6)
    assert wilson_interval(0, 0) is None


def test_class_absent_from_the_labels_has_no_recall_and_does_not_weigh():
    metrics = classification_metrics([0, 1, 1], confident([0, 1, 2]), NAMES)
    owl = metrics["per_class"][2]
    assert owl == {"name": "owl", "precision": 0.0, "recall": None, "f1": None, "support": 0}
    assert metrics["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_class_never_predicted_has_no_precision_and_an_f1_of_zero():
    metrics = classification_metrics([0, 1, 2], confident([0, 1, 1]), NAMES)
    owl = metrics["per_class"][2]
    assert owl == {"name": "owl", "precision": None, "recall": 0.0, "f1": 0.0, "support": 1}


@pytest.mark.parametrize("count", [0, 1])
def test_tiny_sets_give_json_without_nan(count):
    metrics = classification_metrics([2] * count, confident([1] * count), NAMES)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["n"] == count
    assert metrics["accuracy"] == (0.0 if count else None)
    assert metrics["confusion"] == [[0, 0, 0], [0, 0, 0], [0, count, 0]]
    assert (metrics["accuracy_interval"] is None) == (count == 0)


def test_float32_softmax_is_accepted_without_warning(recwarn):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200, 50)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = [str(i) for i in range(50)]
    classification_metrics(generator.integers(0, 50, 200), probabilities, names)
    # Not what the garbage collector, which may run here, says of other tests' temporary folders.
    assert [str(w.message) for w in recwarn if w.category is not ResourceWarning] == []


@pytest.mark.parametrize(
    ("labels", "probabilities", "names", "message"),
    [
        ([0], [[2.0, -1.0]], ["a", "b"], "Were logits given"),
        ([0], [[3.0, 1.0]], ["a", "b"], "sum to 4 to 4"),
        ([0], [[0.5, 0.5]], ["a"], "1 class names were given for probabilities of 2 classes"),
        ([0], [[np.nan, 0.5]], ["a", "b"], "not finite"),
        ([3], [[0.5, 0.5]], ["a", "b"], "integers from 0 to 1"),
    ],
)
def test_input_that_does_not_fit_is_refused(labels, probabilities, names, message):
    with pytest.raises(DataError, match=message):
        classification_metrics(labels, probabilities, names)


def test_most_confused_pairs_come_most_frequent_first_then_by_share():
    confusion = [[5, 3, 0], [1, 0, 1], [0, 3, 0]]
    assert most_confused(confusion) == [(2, 1, 3, 3), (0, 1, 3, 8), (1, 0, 1, 2), (1, 2, 1, 2)]
    assert len(most_confused(confusion, limit=1)) == 1
    assert most_confused([[4, 0], [0, 4]]) == []


def test_worst_mistakes_are_the_surest_wrong_answers():
    probabilities = [[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]
    assert worst_mistakes([1, 1, 1, 0], probabilities).tolist() == [1, 3, 0]
    assert worst_mistakes([1, 1, 1, 0], probabilities, limit=2).tolist() == [1, 3]


def test_evaluation_loads_no_tensorflow():
    code = (
        "import sys, tfinetune.evaluation as e\n"
        "e.render_report(e.ReportData(title='t', history=[{'phase': 'p', 'loss': 1.0}]))\n"
        "assert not {'tensorflow', 'keras', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
