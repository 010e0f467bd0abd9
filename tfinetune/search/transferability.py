"""How well features suit labels, without training: LogME, H-score and a closed-form probe."""

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import RidgeCV
from sklearn.metrics import make_scorer
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

RIDGE_STRENGTHS = tuple(10.0 ** np.arange(-2, 6))

# Threads of BLAS that wait for each other spin: alone, one is faster at these sizes.
ONE_THREAD = threadpool_limits.wrap(limits=1, user_api="blas")


@ONE_THREAD
def log_me(features: np.ndarray, labels: np.ndarray, *, iterations: int = 100) -> float:
    """Return the mean log evidence of a Bayesian linear model on features; more is better.

    You et al. 2021, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning":
    prior precision alpha and noise precision beta are those that maximize the evidence.

    Args:
        features: `[n, d]`.
        labels: class indices `[n]`.
        iterations: at most, of the fixed point.
    """
    features = np.asarray(features, np.float64)
    n, d = features.shape
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    evidences = []
    for label in np.unique(labels):
        target = (labels == label).astype(np.float64)
        evidences.append(_evidence(u.T @ target, target @ target, s**2, n, d, iterations))
    return float(np.mean(evidences))


def _evidence(
    projected: np.ndarray, norm: float, sigma: np.ndarray, n: int, d: int, iterations: int
) -> float:
    """Maximize the log evidence of one target over alpha and beta; return it per example."""
    unexplained = max(norm - projected @ projected, 0.0)
    alpha, beta, ratio = 1.0, 1.0, 1.0
    for _ in range(iterations):
        scale = alpha + beta * sigma
        gamma = (beta * sigma / scale).sum()
        weights = beta**2 * (sigma * projected**2 / scale**2).sum()
        residual = ((alpha / scale) ** 2 * projected**2).sum() + unexplained
        alpha = gamma / max(weights, 1e-12)
        beta = max(n - gamma, 1e-12) / max(residual, 1e-12)
        previous, ratio = ratio, alpha / beta
        if abs(ratio - previous) <= 1e-3 * previous:
            break
    scale = alpha + beta * sigma
    weights = beta**2 * (sigma * projected**2 / scale**2).sum()
    residual = ((alpha / scale) ** 2 * projected**2).sum() + unexplained
    log_determinant = np.log(scale).sum() + (d - len(sigma)) * np.log(alpha)
    evidence = d * np.log(alpha) + n * np.log(beta) - n * np.log(2 * np.pi) - log_determinant
    return (evidence - beta * residual - alpha * weights) / (2 * n)


@ONE_THREAD
def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """Return how far classes lie apart against how far features vary; more is better.

    Bao et al. 2019, "An Information-Theoretic Approach to Transferability in Task Transfer
    Learning", with the shrunk covariance of Ibrahim et al. 2021, "Newer is not always better":
    without it, fewer examples than features give every backbone the best score.

    Args:
        features: `[n, d]`.
        labels: class indices `[n]`.
    """
    features = np.asarray(features, np.float64)
    covariance, shrinkage = ledoit_wolf(features)
    centred = features - features.mean(axis=0)
    means = np.zeros_like(centred)
    for label in np.unique(labels):
        means[labels == label] = centred[labels == label].mean(axis=0)
    between = (1 - shrinkage) * (means.T @ means) / len(labels)
    return float(np.trace(np.linalg.solve(covariance, between)))


@ONE_THREAD
def probe_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the leave-one-out accuracy of a ridge classifier, in closed form.

    The best of several strengths counts, chosen on the same examples.

    Args:
        features: `[n, d]`.
        labels: class indices `[n]`.
    """
    scaled = StandardScaler().fit_transform(np.asarray(features, np.float64))
    # RidgeClassifierCV takes the argmax of the one column that it has for two classes: it would
    # be right about all of them.
    targets = np.where(labels[:, None] == np.unique(labels), 1.0, -1.0)
    probe = RidgeCV(alphas=RIDGE_STRENGTHS, scoring=make_scorer(_accuracy))
    return float(probe.fit(scaled, targets).best_score_)


def _accuracy(targets: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean(targets.argmax(axis=1) == predicted.argmax(axis=1)))
