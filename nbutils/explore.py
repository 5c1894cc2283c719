"""One picture with knobs: the size of an attack, which attack, which detector; and what classifier
and detector make of it.

It stands beside the rooms, as `plots` does, for it draws what the steps have made.
"""

import html
import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from nbutils import plots
from nbutils.attacks import ATTACKS
from nbutils.detectors.base import Detector, scores, threshold_at
from nbutils.models.contract import predict
from nbutils.saliency.gradients import gradient
from nbutils.series.session import wrapped
from nbutils.steps.adversarial import adversarial, knobs_of, setting_of
from nbutils.steps.classifier import classifier
from nbutils.steps.detector import detector
from nbutils.steps.run import Run

MOVED = ("fgsm", "bim", "pgd")  # attacks within a budget in the l-infinity norm
GUARDS = ("id", "jsd", "max_softmax", "noise")
FITTED_ON = "fgsm"
FPR = 0.05
SIZES = 51  # steps of the slider above 0; on digits each is 1/255


@dataclass(frozen=True)
class Guard:
    """A detector with what its scores are read by.

    `groups`: scores of calibration images ("clean") and of images under the attack that trained
    detectors are fitted on, by its name; `threshold`: that of FPR on the former.
    """

    detector: Detector
    groups: Mapping[str, torch.Tensor]
    threshold: float
    collapsed: bool = False


@dataclass(frozen=True)
class Look:
    """One image (1,c,h,w) under one attack of one size, as classifier and detector see it.

    `saliency` (1,c,h,w): the signed gradient of the predicted class's logit at the attacked image.
    `reading`, `reading_adv`: a class's number and its softmax probability.
    """

    clean: torch.Tensor
    attacked: torch.Tensor
    saliency: torch.Tensor
    reading: tuple[int, float]
    reading_adv: tuple[int, float]
    score: float
    score_adv: float
    threshold: float

    @property
    def changed(self) -> bool:
        """Whether the attacked image is read as another class."""
        return self.reading[0] != self.reading_adv[0]

    @property
    def flagged(self) -> bool:
        """Whether the detector says that the attacked image is one."""
        return self.score_adv > self.threshold


def look(model: nn.Module, x: torch.Tensor, x_adv: torch.Tensor, guard: Guard) -> Look:
    """What classifier and detector make of one image (1,c,h,w) and of what an attack made of it."""
    both = torch.cat([x, x_adv])
    confidence, labels = predict(model, both).softmax(1).max(1)
    readings = list(zip(labels.tolist(), confidence.tolist(), strict=True))
    score, score_adv = scores(guard.detector, both).tolist()
    saliency = gradient(model, x_adv, labels[1:].to(x_adv.device))
    return Look(x, x_adv, saliency, *readings, score, score_adv, guard.threshold)


def picture(seen: Look, guard: Guard, classes: Sequence[str], *, title: str, name: str) -> Figure:
    """Clean image, attacked image, what was added times k, and the attacked image's gradient map;
    under them the scores of many images with the threshold, and where this image stands.

    Its size and the places of everything are always the same, so that one picture can take the
    place of another without a jump.

    Args:
        name: of the detector.
    """
    added, k = plots.magnified(seen.attacked - seen.clean)
    before, after = (
        plots.shortened(classes[one[0]], 14) for one in (seen.reading, seen.reading_adv)
    )
    nothing = torch.equal(seen.attacked, seen.clean)
    empty = not seen.saliency.any()
    columns = {
        f"clean\nread as {before} ({seen.reading[1]:.0%})": seen.clean[0],
        f"adversarial\nread as {after} ({seen.reading_adv[1]:.0%})": seen.attacked[0],
        f"perturbation\n{'nothing' if nothing else f'x {k:g}'}": added[0],
        f"saliency map\n{'empty' if empty else f'asked for {after}'}": plots.signed(seen.saliency)[
            0
        ],
    }
    figure = Figure(figsize=(8, 4.8))
    above = figure.add_gridspec(1, len(columns), left=0.01, right=0.99, top=0.83, bottom=0.46)
    for place, (caption, image) in zip(above, columns.items(), strict=True):
        ax = plots.picture(figure.add_subplot(place), image)
        ax.set(xticks=[], yticks=[])
        ax.set_title(plots.plain(plots.fitted(caption, 1.9, 9)), fontsize=9)
    below = figure.add_gridspec(1, 1, left=0.08, right=0.99, top=0.35, bottom=0.11)
    ax = plots.histogram(figure.add_subplot(below[0]), guard.groups, threshold=seen.threshold)
    ax.axvline(seen.score, color=plots.colour("clean"), lw=2.5, label="this picture, clean")
    ax.axvline(seen.score_adv, color=plots.colour("adversarial"), lw=2.5, label="adversarial")
    ax.legend(fontsize=8, loc="upper right")
    said = "flagged" if seen.flagged else "not flagged"
    ax.set_title(
        f"{name}: score {seen.score_adv:.3g}, threshold (dashed) {seen.threshold:.3g}: {said}",
        fontsize=10,
    )
    figure.suptitle(plots.plain(title), fontsize=11)
    return figure


@dataclass(frozen=True)
class Explorer:
    """What the knobs choose among, for one image.

    `settings`: for each attack its setting at the largest size; `most`: this size in 255ths.
    """

    model: nn.Module
    x: torch.Tensor
    index: torch.Tensor
    seed: int
    classes: Sequence[str]
    settings: Mapping[str, dict]
    guards: Mapping[str, Guard]
    most: float

    @property
    def step(self) -> float:
        """One step of the slider, in 255ths."""
        return self.most / SIZES

    def attacked(self, attack: str, eps_255: float) -> torch.Tensor:
        """The image (1,c,h,w) under an attack of this size, whose step keeps its share of it."""
        knobs, share = dict(knobs_of(self.settings[attack])), eps_255 / self.most
        for knob in {"eps", "step"} & set(knobs):
            knobs[knob] *= share
        label = predict(self.model, self.x).argmax(1).to(self.x.device)
        run = ATTACKS[self.settings[attack]["attack"]]
        return run(self.model, self.x, label, index=self.index, seed=self.seed, **knobs)

    def picture(self, attack: str, eps_255: float, guard: str) -> tuple[Figure, str]:
        """The picture at one place of the knobs, and the sentence that says what it shows."""
        who = self.guards[guard]
        seen = look(self.model, self.x, self.attacked(attack, eps_255), who)
        title = f"{plots.short(attack)} of size {eps_255:g}/255 (n = 1 image)"
        name = f"{guard} (collapsed in its training)" if who.collapsed else guard
        return picture(seen, who, self.classes, title=title, name=name), (
            f"Under {plots.short(attack)} of size {eps_255:g}/255 {told(seen, self.classes, guard)}"
        )

    def first(self, attack: str = MOVED[0]) -> pd.DataFrame:
        """The smallest of the slider's sizes at which the reading changes, and at which each
        detector flags the picture.

        Returns:
            a row for the reading and one a detector: `what`, `attack`, `first_255` (0: the clean
            image already; none: at no size), `at_largest`: whether also at the largest size.
        """
        sizes = [place * self.step for place in range(SIZES + 1)]
        images = torch.cat([self.attacked(attack, size) for size in sizes])
        labels = predict(self.model, images).argmax(1)
        happens = {"reading": labels != labels[0]}
        for name, guard in self.guards.items():
            happens[name] = scores(guard.detector, images) > guard.threshold
        rows = []
        for what, where in happens.items():
            places = where.nonzero().flatten().tolist()
            first = round(sizes[places[0]], 3) if places else None
            row = {"what": what, "attack": attack, "first_255": first}
            rows.append(row | {"at_largest": bool(where[-1])})
        return pd.DataFrame(rows).astype({"first_255": float})

    def show(self, attack: str = MOVED[0], guard: str = GUARDS[0]) -> Figure:
        """Show the picture at a middling size, with knobs where somebody can move them.

        That is where a Jupyter server started the kernel for a notebook (JupyterLab, Notebook 7;
        the server sets JPY_SESSION_NAME), and in VS Code and Colab, which start kernels themselves
        and show widgets as well. Everywhere else (papermill, nbclient, nbval, a script) the picture
        is shown as it is, no widget is made and ipywidgets is not imported, so that nothing of a
        widget is ever stored in a notebook that was run headless.

        Returns:
            the picture, to be kept.
        """
        from IPython.display import display

        start = round(SIZES / 2) * self.step
        figure, said = self.picture(attack, start, guard)
        display(self._with_knobs(attack, start, guard, figure, said) if movable() else figure)
        return figure

    def _with_knobs(
        self, attack: str, start: float, guard: str, figure: Figure, said: str
    ) -> object:
        """The widgets: knobs, picture and sentence.

        The picture's bytes are replaced, which does not flicker. While one is being drawn the front
        end holds back all places of the slider but the last, so that none queue however fast it is
        dragged. An image widget takes no alternative text (a tooltip breaks it, for it has no
        description), so the sentence below it is what a reader hears who cannot see it.
        """
        import ipywidgets

        wide = {"description_width": "initial"}
        size = ipywidgets.FloatSlider(
            value=start,
            min=0,
            max=self.most,
            step=self.step,
            description="eps in 255ths",
            readout_format=".3g",
            style=wide,
            layout={"width": "28em"},
        )
        which = ipywidgets.Dropdown(
            options=[(plots.short(name), name) for name in self.settings],
            value=attack,
            description="attack",
            layout={"width": "14em"},
        )
        who = ipywidgets.Dropdown(
            options=list(self.guards), value=guard, description="detector", layout={"width": "18em"}
        )
        shown = ipywidgets.Image(format="png", layout={"width": "800px", "max_width": "100%"})
        words = ipywidgets.HTML()

        def put(drawn: Figure, sentence: str) -> None:
            shown.value = as_png(drawn)
            words.value = f"<pre>{html.escape(wrapped(sentence))}</pre>"

        def moved(_: object) -> None:
            put(*self.picture(which.value, size.value, who.value))

        put(figure, said)
        for knob in (size, which, who):
            knob.observe(moved, "value")
        return ipywidgets.VBox([ipywidgets.HBox([size, which, who]), shown, words])


def explorer(
    run: Run,
    x: torch.Tensor,
    index: torch.Tensor,
    *,
    attacks: Sequence[str] = MOVED,
    guards: Sequence[str] = GUARDS,
) -> Explorer:
    """Everything that the knobs need, made or loaded: the run's classifier, its attacks up to the
    size that FGSM has on these pictures, detectors with thresholds from calibration images.

    Args:
        x, index: (1,c,h,w) one image in [0,1], and (1,) its number.
        guards: detectors; those that are trained are fitted on FGSM.
    """
    known = {name: _guard(run, name) for name in guards}
    largest = setting_of(run, FITTED_ON)["eps"]
    settings = {name: setting_of(run, name, changed={"eps": largest}) for name in attacks}
    model, classes = classifier(run).model, run.data.classes
    return Explorer(model, x, index, run.seed, classes, settings, known, 255 * largest)


def _guard(run: Run, name: str) -> Guard:
    made, record = detector(run, name, FITTED_ON)
    clean = scores(made, run.data.calibrate.pixels()).cpu()
    groups = {"clean": clean, FITTED_ON: scores(made, adversarial(run, FITTED_ON).x_adv).cpu()}
    return Guard(made, groups, threshold_at(clean, FPR), record.get("collapsed", False))


def told(seen: Look, classes: Sequence[str], guard: str) -> str:
    """What a look shows, as the end of a sentence, and a sentence."""
    (label, _), (label_adv, sure) = seen.reading, seen.reading_adv
    read = f"still read as {classes[label]}"
    if seen.changed:
        read = f"read as {classes[label_adv]} in place of {classes[label]}"
    above, does = ("above", "flags it") if seen.flagged else ("not above", "does not flag it")
    return (
        f"the picture is {read} ({sure:.0%}). {guard} gives it the score {seen.score_adv:.3g}, "
        f"which is {above} its threshold of {seen.threshold:.3g}, and {does}."
    )


def told_first(found: pd.DataFrame) -> str:
    """What `Explorer.first` says: a line for the reading, and one a detector."""
    rows = found.set_index("what")
    attack = plots.short(found["attack"].iloc[0])
    changed = rows["first_255"].pop("reading")
    lines = [f"The smallest size of {attack} that changes the reading is {changed:g}/255."]
    if changed != changed:
        lines = [f"No size of {attack} on the slider changes the reading."]
    for name, row in rows.drop("reading").iterrows():
        later = row["first_255"] == row["first_255"] and not row["at_largest"]
        lapse = ", and not at the largest size" if later else ""
        lines.append(f"- {name} {_when(row['first_255'], changed)}{lapse}.")
    return "\n".join(lines)


def _when(size: float, changed: float) -> str:
    if size != size:
        return "never flags the picture"
    if size == 0:
        return "flags the picture even when it is clean"
    if changed != changed:
        return f"first flags it at {size:g}/255"
    order = "before" if size < changed else "after" if size > changed else "just when"
    return f"first flags it at {size:g}/255, {order} the reading changes"


def movable() -> bool:
    """Whether somebody sits before this kernel who can move a widget."""
    if os.environ.get("JPY_SESSION_NAME") or "google.colab" in sys.modules:
        return True
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and "__vsc_ipynb_file__" in shell.user_ns


def as_png(figure: Figure) -> bytes:
    """A figure in its own size, 100 dots an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
