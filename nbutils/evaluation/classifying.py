"""How well the protected classifier reads: accuracy, doubt, and what the checks say."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch

from nbutils import InputError
from nbutils.evaluation import papers
from nbutils.evaluation.intervals import wilson
from nbutils.evaluation.leaks import Leak
from nbutils.evaluation.metrics import auroc

SURE = 0.9  # the largest softmax probability of a reading that we call sure


def accuracies(parts: Mapping[str, torch.Tensor]) -> list[dict]:
    """A row a split: `accuracy`, Wilson's `interval`, `n`.

    Args:
        parts: by split (n,) bool, what is read rightly.
    """
    return [
        {
            "split": name,
            "accuracy": right.float().mean().item(),
            "interval": wilson(int(right.sum()), len(right)),
            "n": len(right),
        }
        for name, right in parts.items()
        if len(right)
    ]


def weak(row: Mapping, classes: int) -> bool:
    """Whether the interval of a row of `accuracies` does not lie above twice the share that
    guessing would read rightly (1.5 times with two classes, where twice is everything).
    """
    return row["interval"][0] <= (1.5 if classes == 2 else 2) / classes


def told_accuracy(row: Mapping, classes: int) -> str:
    """One row of `accuracies` as a sentence, and whether attacks on it would say anything
    (`weak`).
    """
    low, high = row["interval"]
    chance = 1 / classes
    said = (
        f"The classifier reads {row['accuracy']:.1%} of {row['n']} images rightly ({row['split']}, "
        f"95 % interval {low:.1%} to {high:.1%}); guessing would read {chance:.1%}."
    )
    if not weak(row, classes):
        return said
    return (
        f"{said} This is a weak classifier, and what is found of attacks on it means little: "
        "train it on more images or for more epochs, or bring better WEIGHTS."
    )


def printed() -> pd.DataFrame:
    """The accuracies that the papers print for their own classifiers: a row each."""
    rows = []
    for number in papers.PAPERS:
        for row in papers.paper(number)["text_numbers"]:
            if "accuracy" in row["id"] and row["unit"] == "percent":
                rows.append(
                    {
                        "paper": number,
                        "data": row["id"].rsplit(".", 1)[-1],
                        "measured on": "training" if "train" in row["what"] else "test",
                        "accuracy": row["value"] / 100,
                        "printed in": row["where"],
                    }
                )
    return pd.DataFrame(rows)


def doubt(confidence: torch.Tensor, right: torch.Tensor) -> pd.DataFrame:
    """Misread images among those of which the classifier is sure and among the others.

    Args:
        confidence: (n,) largest softmax probability. right: (n,) bool.
    Returns:
        two rows: `confidence`, `n`, `misread`, and its `share` with Wilson's `low`, `high`.
    """
    rows, sure = [], confidence >= SURE
    for name, group in ((f"at least {SURE}", sure), (f"under {SURE}", ~sure)):
        n, wrong = int(group.sum()), int((group & ~right).sum())
        low, high = wilson(wrong, n)
        share = wrong / n if n else None
        row = {"confidence": name, "n": n, "misread": wrong, "share": share}
        rows.append({**row, "low": low, "high": high})
    return pd.DataFrame(rows)


def told_doubt(confidence: torch.Tensor, right: torch.Tensor) -> str:
    """How well doubt (1 - largest softmax probability) finds what is misread, as a sentence."""
    if right.all() or not right.any():
        return "All images are read alike here, rightly or wrongly, so doubt has nothing to find."
    groups = [(1 - confidence[part]).numpy(force=True) for part in (right, ~right)]
    sure, unsure = doubt(confidence, right).to_dict("records")
    said = (
        f"{sure['misread']} of the {sure['n']} images with a confidence of at least {SURE} are "
        f"misread, and {unsure['misread']} of the {unsure['n']} others."
    )
    if not sure["n"]:
        said = f"The classifier is never sure here: no confidence reaches {SURE}."
    return f"{said} As a detector of mistakes, doubt has an AUROC of {auroc(*groups):.2f}."


def surest_mistakes(
    logits: torch.Tensor, y: torch.Tensor, classes: Sequence[str], most: int = 8
) -> pd.DataFrame:
    """The images that are misread with the largest confidence: a row each, the surest first.

    Returns:
        `row` (its place among the images), `is`, `read_as`, `confidence`.
    """
    confidence, label = logits.softmax(1).max(1)
    wrong = (label != y.to(label.device)).nonzero().flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:most]
    rows = [
        {
            "row": i,
            "is": classes[int(y[i])],
            "read_as": classes[int(label[i])],
            "confidence": confidence[i].item(),
        }
        for i in order.tolist()
    ]
    return pd.DataFrame(rows, columns=["row", "is", "read_as", "confidence"])


def objection(check: Callable, *arguments: object) -> str:
    """The sentence with which a check refuses what it is given; "nothing" where it does not."""
    try:
        check(*arguments)
    except (Leak, InputError) as error:
        return str(error)
    return "nothing"


def told_training(record: Mapping) -> str:
    """Where a classifier comes from and which epoch was kept, as a sentence."""
    what = f"{record['architecture']} has {record['parameters']:,} weights"
    if "epoch" not in record:
        return f"{what} and was brought, not trained here."
    origin = "is committed with the project" if "made_by" in record else "was trained by this run"
    last = record["epoch"] == record["epochs"]
    kept = "the last one" if last else f"not the last of {record['epochs']}"
    return f"{what} and {origin}; the weights of epoch {record['epoch']} were kept, {kept}."
