"""Detector and rectifier as one model, which an attack on the whole defence can be run on."""

import torch
from torch import nn

from nbutils.adaptive.surrogates import Score
from nbutils.detectors.gcd import GCD
from nbutils.rectifiers import gcd


class Pipeline(nn.Module):
    """What the user of the whole defence reads: the classifier's logits where the detector is
    silent, those of the tuned reader of the rectified image where it is not.

    The reader's logits are the mean over draws of the noise (EOT); the mask is held constant on the
    way back (BPDA), and so is the choice of the branch.
    """

    def __init__(
        self,
        classifier: nn.Module,
        reader: nn.Module,
        detector: GCD,
        score: Score,
        threshold: float,
        *,
        alpha: float,
        draws: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.classifier, self.reader = classifier, reader
        self.__dict__["held"] = (detector, score)
        self.threshold, self.alpha, self.draws, self.seed = threshold, alpha, draws, seed
        self.eval()

    def flags(self, x: torch.Tensor) -> torch.Tensor:
        """(n,) bool: flagged images, which are rectified."""
        with torch.no_grad():
            return self.held[1](x.detach()) > self.threshold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flagged = self.flags(x)
        plain = self.classifier(x)
        if not flagged.any():
            return plain
        rows = flagged.nonzero().flatten()
        index = rows.cpu()  # the noise is the defender's own: drawn anew, not known by the image
        part = x[rows]
        with torch.enable_grad():  # whether or not the caller wants a graph
            gradient = gcd.detector_gradient(self.held[0], part.detach())
        mask = gcd.above_range(gradient, self.alpha)
        several = []
        for draw in range(self.draws):
            drawn = gcd.draws(part.shape, index, self.seed + draw)
            noisy = gcd.replaced(part.detach(), mask, drawn)
            gone = mask & (drawn[0].to(mask.device) < gcd.REPLACED)
            several.append(self.reader(torch.where(gone, noisy, part)))
        return plain.index_put((rows,), torch.stack(several).mean(0))
