"""The presets, as data: how many images, epochs, iterations and seeds each data set gets at each size of run.

`smoke` shows in seconds that everything runs, `quick` gives numbers worth reading on two CPU cores, `paper` has the papers' sizes.
"""

import hashlib
import json

FIELDS = {
    "classifier": "architecture of the protected classifier",
    "epochs": "passes over the training images, classifier",
    "train": "training images of the classifier (0: all)",
    "calibrate": "clean images that fix a detector's threshold, held back from training",
    "test": "test images that measure the classifier (0: all)",
    "attacked_train": "training images attacked, to fit detectors",
    "attacked_test": "test images attacked, to measure detectors",
    "detector": "architecture of the detectors (the classifier's, as in paper 000, or a narrower one)",
    "detector_epochs": "passes over clean and attacked images, detector",
    "detector_seeds": "detectors fitted for a main cell, each with a seed of its own",
    "pgd_steps": "gradient steps of PGD",
    "chunk": "images in a batch of an attack",
}


def run_name(parameters: dict) -> str:
    """The folder of a run: data set, preset, seed, and a mark of the model, weights or pictures where they are the user's own."""
    own = [parameters["MODEL"], parameters["WEIGHTS"], parameters["DATA_ROOT"] if parameters["DATASET"] in ("folder", "cats_dogs") else ""]
    mark = f"-{hashlib.sha256(json.dumps(own).encode()).hexdigest()[:8]}" if any(own) else ""
    return f"{parameters['DATASET']}-{parameters['PRESET']}-s{parameters['SEED']}{mark}"


PRESETS = {
    "digits": {
        "smoke": dict(classifier="digits_net", epochs=4, train=400, calibrate=100, test=200, attacked_train=60, attacked_test=40,
                      detector="digits_net", detector_epochs=4, detector_seeds=1, pgd_steps=5, chunk=40),
        "quick": dict(classifier="digits_net", epochs=30, train=0, calibrate=200, test=0, attacked_train=300, attacked_test=150,
                      detector="digits_net", detector_epochs=20, detector_seeds=3, pgd_steps=20, chunk=150),
        "paper": dict(classifier="digits_net", epochs=60, train=0, calibrate=200, test=0, attacked_train=1147, attacked_test=450,
                      detector="digits_net", detector_epochs=60, detector_seeds=5, pgd_steps=40, chunk=450),
    },
}
PRESETS["digits_rgb"] = PRESETS["digits"]
PRESETS["mnist"] = {
    "smoke": dict(classifier="digits_net", epochs=1, train=2000, calibrate=100, test=500, attacked_train=60, attacked_test=40,
                  detector="digits_net", detector_epochs=4, detector_seeds=1, pgd_steps=5, chunk=40),
    "quick": dict(classifier="digits_net", epochs=8, train=0, calibrate=2000, test=0, attacked_train=1400, attacked_test=600,
                  detector="digits_net", detector_epochs=12, detector_seeds=3, pgd_steps=20, chunk=300),
    "paper": dict(classifier="vgg11", epochs=10, train=0, calibrate=2000, test=0, attacked_train=10000, attacked_test=2000,
                  detector="vgg11", detector_epochs=10, detector_seeds=5, pgd_steps=40, chunk=1000),
}
PRESETS["cifar10"] = {
    "smoke": dict(classifier="digits_net", epochs=1, train=2000, calibrate=100, test=500, attacked_train=60, attacked_test=40,
                  detector="digits_net", detector_epochs=4, detector_seeds=1, pgd_steps=5, chunk=40),
    "quick": dict(classifier="cifar_net", epochs=10, train=0, calibrate=2000, test=0, attacked_train=700, attacked_test=300,
                  detector="cifar_net", detector_epochs=6, detector_seeds=3, pgd_steps=20, chunk=100),
    "paper": dict(classifier="vgg11", epochs=30, train=0, calibrate=2000, test=0, attacked_train=10000, attacked_test=2000,
                  detector="vgg11", detector_epochs=10, detector_seeds=5, pgd_steps=40, chunk=1000),
}
PRESETS["cats_dogs"] = {
    "smoke": dict(classifier="digits_net", epochs=6, train=600, calibrate=40, test=100, attacked_train=30, attacked_test=20,
                  detector="digits_net", detector_epochs=2, detector_seeds=1, pgd_steps=3, chunk=20),
    "quick": dict(classifier="cifar_net", epochs=12, train=0, calibrate=400, test=0, attacked_train=300, attacked_test=150,
                  detector="cifar_net", detector_epochs=6, detector_seeds=1, pgd_steps=20, chunk=50),
    "paper": dict(classifier="cifar_net", epochs=30, train=0, calibrate=400, test=0, attacked_train=1600, attacked_test=1000,
                  detector="cifar_net", detector_epochs=10, detector_seeds=5, pgd_steps=40, chunk=200),
}
PRESETS["folder"] = {
    "smoke": dict(classifier="digits_net", epochs=2, train=0, calibrate=1, test=0, attacked_train=0, attacked_test=0,
                  detector="digits_net", detector_epochs=2, detector_seeds=1, pgd_steps=3, chunk=20),
}
PRESETS["folder"]["quick"] = {**PRESETS["folder"]["smoke"], "classifier": "cifar_net", "epochs": 20, "detector": "cifar_net", "detector_epochs": 10,
                              "detector_seeds": 3, "pgd_steps": 20, "chunk": 50}
