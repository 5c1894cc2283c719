"""The spectral detector (Harder et al. 2021): a logistic regression on the size of the image's
Fourier transform. It needs no classifier and no network, at a thousandth of a network's cost.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from nbutils.detectors.networks import Network, Recipe
from nbutils.detectors.regression import logistic
from nbutils.store.artifacts import Parts

PENALTY = 1.0  # of the weights, for features of unit deviation


def magnitudes(classifier: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The absolute value of each channel's 2-D Fourier transform, (n,c,h,w/2+1): the other half of
    a real image's is its mirror image.
    """
    return torch.fft.rfft2(x).abs()


class Spectral(Network):
    """A logistic regression on `view`; the score is its logit.

    Features are scaled by their mean and deviation over the training images, the weights penalised.
    The paper's is on the plain features, and on those images alone that the classifier reads
    rightly.
    """

    def fit(
        self,
        clean: torch.Tensor,
        adversarial: torch.Tensor,
        index: torch.Tensor,
        recipe: Recipe | None = None,
        *,
        index_adversarial: torch.Tensor | None = None,
        seed: int = 0,
        start: nn.Module | None = None,
        viewed: tuple[torch.Tensor, torch.Tensor] | None = None,
        parts: Parts | None = None,
        progress: Callable = iter,
        penalty: float = PENALTY,
    ) -> dict:
        """Fit it; of `Network.fit`'s arguments it uses `clean`, `adversarial` and `viewed`.

        Args:
            penalty: the inverse of scikit-learn's C.
        Returns:
            `collapsed` (one answer for every image) and `collapses`.
        """
        sides = viewed or (self.view_all(clean), self.view_all(adversarial))
        x = torch.cat(sides).flatten(1).double().numpy(force=True)
        y = np.repeat([0, 1], [len(side) for side in sides])
        weight, bias = logistic(x, y, penalty=penalty)
        self.net = self._logistic(x.shape[1]).to(sides[0].device)
        with torch.no_grad():
            self.net[1].weight[1] = torch.from_numpy(weight)
            self.net[1].bias[1] = bias
        collapsed = len(np.unique(x @ weight + bias > 0)) == 1
        return {"collapsed": collapsed, "collapses": int(collapsed)}

    @staticmethod
    def _logistic(features: int) -> nn.Sequential:
        net = nn.Sequential(nn.Flatten(), nn.Linear(features, 2))  # the first output stays 0
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
        return net.eval().requires_grad_(False)

    def load(
        self,
        tensors: dict[str, torch.Tensor],
        shape: tuple[int, int, int] | None = None,
        recipe: Recipe | None = None,
    ) -> "Spectral":
        weight = tensors["net.1.weight"]
        self.net = self._logistic(weight.shape[1])
        self.net.load_state_dict(
            {name[4:]: tensors[name] for name in tensors if name[:4] == "net."}
        )
        self.net.to(self.device)
        return super(Network, self).load(tensors)
