"""Scores of features: they equal their definitions and rise with how well classes come apart."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.preprocessing import StandardScaler

from tfinetune.search.transferability import RIDGE_STRENGTHS, h_score, log_me, probe_accuracy


def features(separation, *, n=60, d=8, classes=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = random.normal(size=(classes, d))
    return random.normal(size=(n, d)) + separation * centres[labels], labels


@pytest.mark.parametrize(("n", "d"), [(40, 6), (20, 30)])
def test_log_me_is_the_greatest_log_evidence_of_a_bayesian_linear_model(n, d):
    x, labels = features(1.0, n=n, d=d)
    best = []
    for label in range(3):
        target = (labels == label).astype(float)

        def evidence(logs, target=target):
            alpha, beta = np.exp(logs)
            covariance = np.eye(n) / beta + x @ x.T / alpha
            return -multivariate_normal(np.zeros(n), covariance).logpdf(target) / n

        best.append(-minimize(evidence, [1.0, 1.0], method="Nelder-Mead").fun)
    assert log_me(x, labels) == pytest.approx(np.mean(best), abs=2e-4)


@pytest.mark.parametrize("score", [log_me, h_score, probe_accuracy])
def test_scores_rise_as_classes_come_apart(score):
    scores = [score(*features(separation)) for separation in (0.0, 0.5, 1.0, 2.0)]
    assert scores == sorted(scores) and scores[0] < scores[-1]


@pytest.mark.parametrize("classes", [2, 3])
def test_probe_is_right_as_often_as_classifiers_that_never_saw_the_example(classes):
    x, labels = features(0.2, n=40, classes=classes)
    scaled = StandardScaler().fit_transform(x)
    each_left_out = [
        cross_val_score(RidgeClassifier(strength), scaled, labels, cv=LeaveOneOut()).mean()
        for strength in RIDGE_STRENGTHS
    ]
    assert probe_accuracy(x, labels) == pytest.approx(max(each_left_out))
    assert max(each_left_out) < 0.9


def test_h_score_tells_noise_from_classes_with_fewer_examples_than_features():
    # Unshrunk, both would have the greatest score there is: the number of classes less one.
    noise, classes = (h_score(*features(s, n=30, d=200)) for s in (0.0, 2.0))
    assert noise < 0.7 and classes > 1.5
