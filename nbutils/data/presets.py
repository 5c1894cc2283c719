"""The presets, as data: how many images, epochs, iterations and seeds each data set gets at each
size of run.

`smoke` shows in seconds that everything runs, `quick` gives numbers worth reading on two CPU cores,
`paper` has the papers' sizes.
"""

FIELDS = {
    "classifier": "architecture of the protected classifier",
    "width": "factor on the classifier's numbers of filters",
    "dropouts": (
        "dropout before its dense layers (null: the architecture's own); of several the one with "
        "the best validation accuracy"
    ),
    "refit": (
        "whether it is trained once more, on the validation images too, for as many epochs as "
        "were best"
    ),
    "epochs": "passes over the training images, classifier",
    "train": "training images of the classifier (0: all)",
    "calibrate": (
        "clean images that fix a detector's threshold, held back from training (below 1: a share "
        "of them)"
    ),
    "test": "test images that measure the classifier (0: all)",
    "attacked_train": "training images attacked, to fit detectors (0: all)",
    "attacked_test": "test images attacked, to measure detectors (0: all)",
    "detector": (
        "architecture of the detectors (the classifier's, as in paper 000, or a narrower one)"
    ),
    "detector_width": "factor on the detectors' numbers of filters",
    "detector_epochs": "passes over clean and attacked images, detector",
    "detector_batch": "images in a step of it",
    "detector_seeds": "detectors fitted for a main cell, each with a seed of its own",
    "variation_fits": (
        "detectors fitted for each of paper 000's variations of ID and JSD (appendix A)"
    ),
    "variation_width": "factor on their numbers of filters, and on those of Metzen's branch",
    "saliency_train": "clean training images of the learned saliency model (0: all)",
    "saliency_epochs": "passes over them",
    "saliency_area": "weight of the map's area in its loss, chosen on clean images",
    "pgd_steps": "gradient steps of PGD",
    "search_steps": "gradient steps of each round of C&W's search, and of DDN (0: the setting's)",
    "jsma_pairs": "pairs of values that JSMA may change (0: the setting's share of them)",
    "chunk": "images in a batch of an attack",
}
SWEEP = [0.3, 0.4, 0.5, 0.6, 0.7]  # paper 000's choice of dropout


def _preset(classifier: str, detector: str, **changes: object) -> dict:
    """A preset with the fields that most share: full width, the architecture's dropout, no refit,
    three detectors, 20 steps of PGD.
    """
    shared = {
        "width": 1.0,
        "dropouts": [None],
        "refit": False,
        "train": 0,
        "test": 0,
        "detector_width": 1.0,
        "detector_batch": 64,
        "detector_seeds": 3,
        "variation_fits": 1,
        "variation_width": 0.25,
        "saliency_train": 0,
        "saliency_epochs": 10,
        "saliency_area": 7.0,
        "pgd_steps": 20,
        "search_steps": 0,
        "jsma_pairs": 0,
    }
    return {
        field: {**shared, "classifier": classifier, "detector": detector, **changes}[field]
        for field in FIELDS
    }


_SMALL = {
    "train": 2000,
    "calibrate": 100,
    "test": 500,
    "attacked_train": 60,
    "attacked_test": 40,
    "detector_epochs": 4,
    "detector_seeds": 1,
    "pgd_steps": 5,
    "search_steps": 20,
    "jsma_pairs": 40,
    "chunk": 40,
    "variation_fits": 0,
    "saliency_train": 300,
    "saliency_epochs": 2,
}
_PAPER = {
    "detector_seeds": 5,
    "variation_fits": 5,
    "variation_width": 1.0,
    "pgd_steps": 40,
    "search_steps": 200,
}
PRESETS = {
    "digits": {
        "smoke": _preset(
            "digits_net", "digits_net", **{**_SMALL, "train": 400, "test": 200}, epochs=4
        ),
        "quick": _preset(
            "digits_net",
            "digits_net",
            epochs=30,
            calibrate=200,
            attacked_train=300,
            attacked_test=150,
            detector_epochs=10,
            chunk=150,
            variation_fits=0,
            saliency_epochs=20,
        ),
        "paper": _preset(
            "digits_net",
            "digits_net",
            **_PAPER,
            epochs=60,
            calibrate=200,
            attacked_train=1147,
            attacked_test=450,
            detector_epochs=60,
            chunk=450,
        ),
    },
    "mnist": {
        "smoke": _preset("digits_net", "digits_net", **_SMALL, epochs=1),
        "quick": _preset(
            "digits_net",
            "digits_net",
            epochs=8,
            calibrate=2000,
            attacked_train=1400,
            attacked_test=600,
            detector_epochs=12,
            chunk=300,
            variation_fits=3,
            saliency_train=10000,
            saliency_epochs=6,
            saliency_area=9.0,
        ),
        "paper": _preset(
            "mnist_net",
            "mnist_net",
            **_PAPER,
            dropouts=SWEEP,
            refit=True,
            epochs=10,
            calibrate=2000,
            attacked_train=10000,
            attacked_test=2000,
            detector_epochs=10,
            chunk=500,
        ),
    },
    "cifar10": {
        "smoke": _preset("digits_net", "digits_net", **_SMALL, epochs=1),
        "quick": _preset(
            "cifar_net",
            "cifar_net",
            dropouts=[0.4],
            epochs=10,
            calibrate=2000,
            attacked_train=700,
            attacked_test=300,
            detector_width=0.5,
            detector_epochs=6,
            chunk=100,
            saliency_train=8000,
            saliency_epochs=6,
            saliency_area=5.0,
        ),
        "paper": _preset(
            "cifar_net",
            "cifar_net",
            **_PAPER,
            dropouts=SWEEP,
            refit=True,
            epochs=30,
            calibrate=2000,
            attacked_train=10000,
            attacked_test=2000,
            detector_epochs=10,
            chunk=1000,
        ),
    },
    "cats_dogs": {
        "smoke": _preset(
            "digits_net",
            "digits_net",
            **{
                **_SMALL,
                "train": 600,
                "calibrate": 40,
                "test": 100,
                "attacked_train": 30,
                "attacked_test": 20,
                "detector_epochs": 2,
                "pgd_steps": 3,
                "jsma_pairs": 5,
                "chunk": 20,
            },
            epochs=6,
        ),
        "quick": _preset(
            "vgg11",
            "vgg11",
            width=0.25,
            dropouts=[0.5],
            epochs=20,
            calibrate=200,
            attacked_train=200,
            attacked_test=100,
            detector_width=0.25,
            detector_epochs=6,
            detector_seeds=1,
            chunk=50,
            variation_fits=0,
            saliency_train=2000,
            saliency_epochs=5,
            saliency_area=5.0,
        ),
        "paper": _preset(
            "assira_net",
            "assira_net",
            **_PAPER,
            dropouts=SWEEP,
            refit=True,
            epochs=30,
            calibrate=200,
            attacked_train=1600,
            attacked_test=1000,
            detector_epochs=10,
            chunk=100,
        ),
    },
    "imagenet_subset": {
        "smoke": _preset(
            "squeezenet1_1",
            "digits_net",
            **{
                **_SMALL,
                "train": 0,
                "calibrate": 0.02,
                "test": 60,
                "attacked_train": 20,
                "attacked_test": 16,
                "detector_epochs": 2,
                "pgd_steps": 3,
                "search_steps": 3,
                "jsma_pairs": 3,
                "chunk": 8,
            },
            epochs=1,
        ),
        "quick": _preset(
            "squeezenet1_1",
            "digits_net",
            epochs=20,
            calibrate=0.1,
            attacked_train=60,
            attacked_test=30,
            detector_width=0.5,
            detector_epochs=8,
            detector_seeds=1,
            pgd_steps=5,
            search_steps=10,
            jsma_pairs=20,
            chunk=20,
            variation_fits=0,
            saliency_train=400,
            saliency_epochs=3,
            saliency_area=5.0,
        ),
        "paper": _preset(
            "vgg16",
            "vgg11",
            **_PAPER,
            epochs=90,
            calibrate=0.2,
            attacked_train=0,
            attacked_test=0,
            detector_epochs=100,
            chunk=50,
        ),
    },
    "folder": {
        "smoke": _preset(
            "digits_net",
            "digits_net",
            **{
                **_SMALL,
                "train": 0,
                "test": 0,
                "calibrate": 0.2,
                "pgd_steps": 3,
                "jsma_pairs": 5,
                "chunk": 20,
            },
            epochs=2,
        ),
        "quick": _preset(
            "cifar_net",
            "cifar_net",
            epochs=20,
            calibrate=0.2,
            attacked_train=0,
            attacked_test=0,
            detector_width=0.5,
            detector_epochs=10,
            chunk=50,
            variation_fits=0,
            saliency_epochs=5,
            saliency_area=5.0,
        ),
        "paper": _preset(
            "vgg11",
            "vgg11",
            **_PAPER,
            epochs=60,
            calibrate=0.2,
            attacked_train=0,
            attacked_test=0,
            detector_epochs=10,
            chunk=200,
        ),
    },
}
PRESETS["digits_rgb"], PRESETS["mnist_rgb"] = PRESETS["digits"], PRESETS["mnist"]
