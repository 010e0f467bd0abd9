"""The convex solver: the coefficients it folds give scikit-learn's own predictions."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tfinetune.training.logistic import fit_logistic_head


def blobs(classes: int, *, per_class: int = 30, seed: int = 0):
    random = np.random.default_rng(seed)
    centers = random.normal(size=(classes, 6)) * 2
    labels = np.repeat(np.arange(classes), per_class)
    features = centers[labels] + random.normal(size=(len(labels), 6)) + 5
    return features.astype("float32"), labels


@pytest.mark.parametrize("classes", [2, 4])
def test_folded_head_equals_scikit_learn_on_standardized_features(classes):
    features, labels = blobs(classes)
    kernel, bias, strength = fit_logistic_head([features], labels)
    scaler = StandardScaler().fit(features)
    reference = LogisticRegression(C=strength, tol=1e-3, max_iter=300)
    reference.fit(scaler.transform(features), labels)
    np.testing.assert_allclose(
        softmax(features @ kernel + bias, axis=1),
        reference.predict_proba(scaler.transform(features)),
        atol=1e-4,
    )


def test_class_weights_move_the_border_towards_the_large_class():
    features, labels = blobs(2)
    keep = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:5]])
    # Noise that makes the classes overlap: without it every border is right.
    noise = np.random.default_rng(1).normal(size=(len(keep), 6)) * 4
    features, labels = (features[keep] + noise).astype("float32"), labels[keep]
    plain = fit_logistic_head([features], labels)
    weighted = fit_logistic_head([features], labels, class_weights={0: 0.5, 1: 6.0})

    def recall(head):
        return np.mean((features[labels == 1] @ head[0] + head[1]).argmax(1) == 1)

    assert recall(weighted) > recall(plain)


def test_class_with_one_photo_is_fitted_without_cross_validation():
    features, labels = blobs(3, per_class=2)
    kernel, bias, _ = fit_logistic_head([features[:-1], features[:-1]], labels[:-1])
    assert kernel.shape == (6, 3) and bias.shape == (3,)
    assert ((features @ kernel + bias).argmax(1)[:-1] == labels[:-1]).all()
