"""Networks that others have published, and their weights; the one place that imports torchvision.

The wheel that pip installs beside a CPU build of torch cannot load its compiled operators, and
fails on import for want of two of their names; the networks need none of them, so the names are
defined and the import tried once more.
"""

import sys
from functools import cache
from types import ModuleType

import torch
from torch import nn

from nbutils import InputError

NO_OPERATORS = "torchvision::nms does not exist"  # how that import fails

NETWORKS = ("squeezenet1_1", "vgg16", "resnet50", "resnet152")

# Those whose weights others have trained and published: on what, and the normalisation and outputs
# of the published network.
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


PUBLISHED = {
    "resnet20": {**_IMAGENET, "data": "cifar10", "outputs": 10},
    **{name: {**_IMAGENET, "data": "imagenet_subset", "outputs": 1000} for name in NETWORKS},
}


# Grad-CAM's layer, where the last that is a picture would not do: SqueezeNet's is its map of class
# scores.
CAM_LAYERS = {"squeezenet1_1": "features"}


@cache
def torchvision() -> ModuleType:
    """torchvision's `models`; the import costs 2 s, so it is late."""
    try:
        import torchvision.models
    except RuntimeError as error:
        if NO_OPERATORS not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _defined.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _defined.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.models
    return torchvision.models


_defined = torch.library.Library("torchvision", "FRAGMENT")


def network(
    name: str,
    shape: tuple[int, int, int],
    outputs: int,
    width: float = 1.0,
    dropout: float | None = None,
) -> nn.Module:
    """torchvision's `name` without weights, for colour pictures of 32x32 and more, or several maps
    of three channels stacked.

    Raises:
        InputError: channels that are no multiple of three, a picture too small, or another width
            than 1.
    """
    if shape[0] % 3 or min(shape[1:]) < 32 or width != 1:
        raise InputError(
            f"{name} reads colour pictures of 32x32 and more, at its full width; these are "
            f"{shape}, width {width}."
        )
    options = {} if dropout is None or name.startswith("resnet") else {"dropout": dropout}
    made = getattr(torchvision(), name)(num_classes=outputs, **options)
    if shape[0] > 3:  # image and Jacobian
        where, first = next((n, m) for n, m in made.named_modules() if isinstance(m, nn.Conv2d))
        wider = nn.Conv2d(
            shape[0],
            first.out_channels,
            first.kernel_size,
            first.stride,
            first.padding,
            bias=first.bias is not None,
        )
        made.set_submodule(where, wider)
    return made


def torchvisions_weights(name: str) -> dict[str, torch.Tensor]:
    """The weights that torchvision publishes (ImageNet, first version), fetched once into torch's
    cache, with checksum.

    Raises:
        InputError: no network.
    """
    weights = torchvision().get_model_weights(name).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        where = (
            f"put {name}.safetensors (its state dict) into weights/ under the data root, or give "
            "WEIGHTS a file"
        )
        raise InputError(
            f"The weights of {name} cannot be downloaded ({reason}): {where}."
        ) from error
