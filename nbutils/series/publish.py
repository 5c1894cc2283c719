"""Results of a run copied to where they are committed: data/results, and the networks that it
trained to data/pretrained.
"""

import json
from pathlib import Path

from nbutils import InputError
from nbutils.resources import ROOT
from nbutils.store.files import atomically

PUBLISHED = ROOT / "data" / "results"
PRETRAINED = ROOT / "data" / "pretrained"


def publish(run_folder: Path, *, pretrained: bool = False) -> Path:
    """Copy the results JSON of a run to data/results, its timings with it, and the figure that the
    README shows.

    Args:
        pretrained: copy the networks that the run trained (robust ones among them) to
            data/pretrained in place of the results; runs of equal arguments then load them.
    """
    if pretrained:
        return _publish_networks(run_folder)
    if not list((run_folder / "results").glob("*.json")):
        raise InputError(
            f"{shown(run_folder)} holds no results to publish: run the notebooks first."
        )
    target = PUBLISHED / run_folder.name
    for result in sorted((run_folder / "results").glob("*.json")):
        atomically(target / result.name, result.read_bytes())
    for figure in sorted((run_folder / "figures").glob("*-controls.png")):
        atomically(target / figure.name, figure.read_bytes())
    return target


def _publish_networks(run_folder: Path) -> Path:
    target, trained = PRETRAINED / run_folder.name, []
    for meta in [
        *run_folder.glob("classifier/*/meta.json"),
        *run_folder.glob("saliency/*/meta.json"),
        *run_folder.glob("density/*/meta.json"),
        *run_folder.glob("robust/*/meta.json"),
    ]:
        content = json.loads(meta.read_text(encoding="utf-8"))
        if content["arguments"].get("committed") is False and {
            "epoch",
            "gate_loss",
            "bits_by_epoch",
        } & set(content["record"]):  # not brought, not loaded
            place = meta.parent.parent.name
            if place == "robust":  # of which a run has two
                place = f"robust-{meta.parent.name}"
            trained.append((meta.parent, target / place))
    if not trained or len({place for _, place in trained}) < len(trained):
        raise InputError(
            f"{shown(run_folder)} holds no single classifier, saliency model or density that was "
            "trained there: make one, with RETRAIN."
        )
    for source, place in trained:
        for name in ("meta.json", "tensors.safetensors"):
            atomically(place / name, (source / name).read_bytes())
    return target


def shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
