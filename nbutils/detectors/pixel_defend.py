"""PixelDefend's detector (Song et al. 2018): an image that is unlikely among clean ones is
suspicious. No attack is needed to fit it.
"""

import torch
from torch import nn

from nbutils import InputError
from nbutils.density.pixelcnn import PixelCNN
from nbutils.density.ranks import p_values, ranks
from nbutils.detectors.base import Detector


class PixelDefend(Detector):
    """The score is the bits per dimension that a density of clean images needs for the image.

    An attack can also make an image *more* likely (smoother) than clean ones: `two_sided` scores
    |rank - 1/2|, how far from the middle the image stands among clean ones, on either side.

    The density is one of 8-bit values: what rounds to the same levels gets the same score. The
    derivative is that without the rounding.
    """

    def __init__(self, classifier: nn.Module, *, two_sided: bool = False) -> None:
        super().__init__(classifier)
        self.two_sided, self.density, self.reference = two_sided, None, None

    def fit(self, clean: torch.Tensor, density: PixelCNN) -> dict:
        """Take a density, and clean images (n,c,h,w) as those that an image is ranked among.

        The paper takes training images; the density may know them by heart, which
        `density.ranks.same_distribution` tells.

        Returns:
            `bits`, the mean bits per dimension of the clean images, and their number `n`.
        """
        with torch.no_grad():
            self.refer(density, density.bits(clean))
        return {"bits": self.reference.mean().item(), "n": len(self.reference)}

    def refer(self, density: PixelCNN, bits: torch.Tensor) -> None:
        """As `fit`, where the density's `bits` (n,) of the clean images are known."""
        self.density, self.reference = density, bits

    def score(self, x: torch.Tensor, viewed: torch.Tensor | None = None) -> torch.Tensor:
        bits = self._fitted().bits(x)
        return (ranks(bits, self.reference) - 0.5).abs() if self.two_sided else bits

    @torch.no_grad()
    def p_values(self, x: torch.Tensor) -> torch.Tensor:
        """(n,): the share of the clean images that are as unlikely or more; small = suspicious."""
        return p_values(self._fitted().bits(x), self.reference)

    def _fitted(self) -> PixelCNN:
        if self.density is None:
            raise InputError(
                "This detector is not fitted yet: call fit with clean images and a density, or "
                "load one."
            )
        return self.density

    def state(self) -> dict[str, torch.Tensor]:
        density = self._fitted().state_dict()
        kept = {f"density.{name}": tensor.contiguous() for name, tensor in density.items()}
        return kept | {"reference": self.reference} | super().state()

    def load(self, tensors: dict[str, torch.Tensor]) -> "PixelDefend":
        kept = {k.removeprefix("density."): v for k, v in tensors.items() if "density." in k}
        self.refer(PixelCNN.of(kept), tensors["reference"])
        return super().load(tensors)
