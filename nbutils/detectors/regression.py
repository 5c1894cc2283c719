"""The logistic regression that several detectors end in."""

import numpy as np


def logistic(
    features: np.ndarray, y: np.ndarray, *, penalty: float = 1.0
) -> tuple[np.ndarray, float]:
    """Weights (d,) and bias of a logistic regression that weighs both kinds alike, for features
    (n,d) as they are.

    It is fitted on features of unit deviation, so that the penalty does not depend on their units;
    one that never varies weighs 0.

    Args:
        y: (n,) 0 or 1. penalty: the inverse of scikit-learn's C.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 0, scale, np.inf)
    model = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=1000)
    model.fit((features - mean) / scale, y)
    weight = model.coef_[0] / scale
    return weight, float(model.intercept_[0] - mean @ weight)
