"""The notebooks' cells where there is next to nothing to show: two attacked images, whom no attack
fools.
"""

import importlib
import json

import matplotlib.pyplot as plt
import pytest

from nbutils.attacks import settings
from nbutils.series.parameters import COMMON, NOTEBOOKS
from tests.conftest import ROOT, SMOKE

NOTHING = {
    "02_attacks": ["fgsm", "003.fgsm_1"],
    "03_saliency": ["fgsm"],
    "06_gradcam_consistency": ["003.fgsm_1"],
    "08_white_box": ["fgsm"],
    "09_gcd_rectifier": ["004.fgsm"],
}


@pytest.fixture
def feeble(monkeypatch):
    """Settings whose FGSM and PGD change a value by a millionth."""
    told = settings.settings_for

    def much_smaller(dataset):
        return {
            name: {**setting, "eps": 1e-6} if setting["attack"] in ("fgsm", "pgd") else setting
            for name, setting in told(dataset).items()
        }

    places = ("series.session", "steps.adversarial", "steps.tables", "adaptive.settings")
    for place in places:
        module = importlib.import_module(f"nbutils.{place}")  # some names are a step's as well
        monkeypatch.setattr(module, "settings_for", much_smaller)


def cells_of(notebook):
    content = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTHING)
def test_two_images_whom_no_attack_fools_breaks_no_cell(notebook, tmp_path, feeble):
    given = {"CHANGES": {"attacked_test": 2, "attacked_train": 10, "saliency_epochs": 1}}
    given |= {**SMOKE, "OUT": str(tmp_path), "ATTACKS": NOTHING[notebook]}
    assert set(given) <= {*COMMON, *NOTEBOOKS[notebook]}
    space = {"__name__": "__main__", "display": lambda shown: None}
    for number, cell in enumerate(cells_of(notebook)):
        exec(compile("".join(cell["source"]), f"{notebook}, cell {number}", "exec"), space)
        if "parameters" in cell["metadata"].get("tags", []):
            space.update(given)
        plt.close("all")
    tables = space["result"]["tables"]
    said = json.dumps(tables)
    assert tables and "NaN" not in said
    fooled = {
        "02_attacks": [row["success"] for row in tables.get("sizes", [])],
        "03_saliency": tables.get("swap"),
        "06_gradcam_consistency": [row["fooled"] for row in tables.get("grid", [])],
        "08_white_box": [
            row["fooled"] for row in tables.get("ledger", []) if row["game"] == "linf"
        ],
        "09_gcd_rectifier": [row["fooled"] for row in tables.get("reached", [])],
    }
    assert not any(fooled[notebook])
