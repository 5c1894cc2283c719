"""MNIST and CIFAR-10 in their official parts."""

from pathlib import Path

from nbutils.data import sources
from nbutils.data.embedded import inked
from nbutils.data.images import Images, two_parts


def mnist(root: Path) -> tuple[list[str], Images, Images]:
    return [str(i) for i in range(10)], *two_parts(
        sources.mnist(root, "train"), sources.mnist(root, "test")
    )


def mnist_rgb(root: Path) -> tuple[list[str], Images, Images]:
    """MNIST in colour."""
    classes, train, test = mnist(root)
    return classes, inked(train), inked(test)


def cifar10(root: Path) -> tuple[list[str], Images, Images]:
    return sources.CIFAR10_CLASSES, *two_parts(
        sources.cifar10(root, "train"), sources.cifar10(root, "test")
    )
