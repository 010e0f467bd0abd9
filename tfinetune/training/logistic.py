"""The convex solver: multinomial logistic regression on cached features."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

STRENGTHS = tuple(float(c) for c in 10.0 ** np.arange(-5, 0.5))


def fit_logistic_head(
    views: list[np.ndarray],
    labels: np.ndarray,
    *,
    class_weights: dict[int, float] | None = None,
    folds: int = 3,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit a linear head and choose its L2 strength by cross-validation on the clean view.

    Args:
        views: one array `[n, d]` for each view of the same photos, the clean one first.
        labels: class indices `[n]`, every class present.
        class_weights: loss weight of each class.
        folds: cross-validation folds; fewer where the smallest class has fewer photos.
        seed: of the folds.

    Returns:
        Kernel `[d, classes]` and bias `[classes]` for raw features (the standardization is folded
        in), and the chosen inverse strength C.
    """
    scaler = StandardScaler().fit(views[0])
    clean = scaler.transform(views[0])
    weights = None if class_weights is None else np.vectorize(class_weights.get)(labels)
    folds = min(folds, int(np.bincount(labels).min()))
    strength = (
        _choose_strength(clean, labels, weights, folds=folds, seed=seed)
        if folds >= 2
        else STRENGTHS[len(STRENGTHS) // 2]
    )
    every = np.concatenate([clean, *(scaler.transform(view) for view in views[1:])])
    solution = _solver(strength / len(views)).fit(
        every,
        np.tile(labels, len(views)),
        sample_weight=None if weights is None else np.tile(weights, len(views)),
    )
    kernel, bias = _coefficients(solution)
    kernel = kernel / scaler.scale_[:, None]
    return (
        kernel.astype(np.float32),
        (bias - scaler.mean_ @ kernel).astype(np.float32),
        strength,
    )


def _choose_strength(
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None,
    *,
    folds: int,
    seed: int,
) -> float:
    losses = np.zeros(len(STRENGTHS))
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for train, held_out in splitter.split(features, labels):
        solver = _solver(STRENGTHS[0], warm_start=True)
        for index, strength in enumerate(STRENGTHS):
            solver.set_params(C=strength).fit(
                features[train],
                labels[train],
                sample_weight=None if weights is None else weights[train],
            )
            losses[index] += log_loss(
                labels[held_out],
                solver.predict_proba(features[held_out]),
                sample_weight=None if weights is None else weights[held_out],
                labels=solver.classes_,
            )
    return STRENGTHS[int(np.argmin(losses))]


def _solver(strength: float, *, warm_start: bool = False) -> LogisticRegression:
    return LogisticRegression(C=strength, tol=1e-3, max_iter=300, warm_start=warm_start)


def _coefficients(solution: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    # With two classes scikit-learn fits one score; a softmax over (0, score) is the same model.
    kernel, bias = solution.coef_.T, solution.intercept_
    if kernel.shape[1] == 1:
        return np.concatenate([-kernel, kernel], axis=1) / 2, np.concatenate([-bias, bias]) / 2
    return kernel, bias
