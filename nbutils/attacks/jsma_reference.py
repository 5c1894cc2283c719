"""JSMA's pair rule as it is printed, for reading and for testing `jsma.best_pairs` against."""

import torch


def best_pair_reference(
    a: torch.Tensor, b: torch.Tensor, free: torch.Tensor
) -> tuple[int, int] | None:
    """The pair p, q of free values of one image that JSMA changes, from the table of all pairs.

    Args:
        a, b: (m,) derivatives of the target's logit, and of the sum of all others.
        free: (m,) bool, the values that may be changed.
    Returns:
        the places p < q of the pair with the largest -(a_p + a_q)(b_p + b_q) among those that raise
        the target and lower the others; None where there is no such pair.
    """
    up = a[:, None] + a[None, :]  # what changing p and q does to the target's logit
    down = b[:, None] + b[None, :]  # and to the sum of all others
    allowed = free[:, None] & free[None, :] & (up > 0) & (down < 0)
    allowed = allowed.triu(diagonal=1)  # each pair once, and no value with itself
    score = torch.where(allowed, -up * down, 0)
    if not allowed.any():
        return None
    place = int(score.argmax())
    return place // len(a), place % len(a)
