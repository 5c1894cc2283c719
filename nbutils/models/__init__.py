"""Networks: images in [0,1] to logits.

Each architecture is `(shape, outputs, width=1.0, dropout=...)` -> a fresh network.
"""

from functools import partial

from nbutils.models import architectures, published
from nbutils.models.architectures import APPENDIX_A

ARCHITECTURES = {
    "digits_net": architectures.digits_net,
    "mnist_net": architectures.mnist_net,
    "cifar_net": architectures.cifar_net,
    "cifar_net12": partial(architectures.cifar_net, depth=12),
    "assira_net": architectures.assira_net,
    "zhang_net": architectures.zhang_net,
    "metzen_branch": architectures.metzen_branch,
    "vgg11": architectures.vgg11,
    "resnet20": architectures.resnet20,
    "appendix_a": architectures.appendix_a,
    "appendix_a-no_dropout": partial(architectures.appendix_a, **APPENDIX_A["no_dropout"]),
    "appendix_a-convolutions_3": partial(architectures.appendix_a, **APPENDIX_A["convolutions_3"]),
    "appendix_a-constant_filters": partial(
        architectures.appendix_a, **APPENDIX_A["constant_filters"]
    ),
    "appendix_a-dense_1": partial(architectures.appendix_a, **APPENDIX_A["dense_1"]),
    "appendix_a-no_pool": partial(architectures.appendix_a, **APPENDIX_A["no_pool"]),
    "squeezenet1_1": partial(published.network, "squeezenet1_1"),
    "vgg16": partial(published.network, "vgg16"),
    "resnet50": partial(published.network, "resnet50"),
    "resnet152": partial(published.network, "resnet152"),
}
