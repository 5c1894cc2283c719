"""Pictures: data sets by their names, each `(root) -> classes, training part, test part` (no test
part: a share of the first becomes it).
"""

from nbutils.data import embedded, folders, official

DATASETS = {
    "digits": embedded.digits,
    "digits_rgb": embedded.digits_rgb,
    "mnist": official.mnist,
    "mnist_rgb": official.mnist_rgb,
    "cifar10": official.cifar10,
    "cats_dogs": folders.cats_dogs,
    "imagenet_subset": folders.imagenet_subset,
    "folder": folders.folder,
}
