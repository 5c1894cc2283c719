"""Each claim on attackers who know the detector, on planted tables of notebook 08.

`PLANTED` has one builder a claim: `build(gap, control, n)` gives tables in which every cell of the
claim lies `gap` above the edge from which it is shown, on `n` images, and whose control lets the
claim stand or explains it. Rows that the claim must not read stand first, and say the reverse.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nbutils.claims import CLAIMS, white_box
from nbutils.claims.evidence import Published
from nbutils.claims.judging import WHITE_BOX, judged, notebook_of
from nbutils.claims.rule import (
    DOES_NOT,
    FALLS,
    HOLDS,
    LEAST_CELLS,
    NOT_RUN,
    NOT_TESTABLE,
    OUTSIDE,
    SURVIVES,
    UNDECIDED,
    judge,
)
from nbutils.steps import white_box_tables
from tests.test_claims_by_paper import CHANCE, COLLAPSED, FEW, MANY, UNKNOWN, N, changed, counts

MISSING = "detector collapsed, or was not measured"
OF_000, OF_002 = ("mnist", "cifar10", "cats_dogs"), ("mnist", "cifar10", "imagenet_subset")
PICTURES = ("imagenet_subset",)
BEST, OTHERS = 0.7, (0.0, 0.3, 1.0)  # sigma of the mix that succeeds most, and the rest


def evidence(claim, tables, dataset=""):
    dataset = dataset or PLANTED[claim].scope[0]
    return CLAIMS[claim](Published(dataset, 0, tables))


def verdict(claim, tables, dataset=""):
    dataset = dataset or PLANTED[claim].scope[0]
    return judge([evidence(claim, tables, dataset)], dataset)


def plant(claim, gap=None, control=True, n=N):
    plan = PLANTED[claim]
    return plan.build(plan.shown if gap is None else gap, control, n)


def values(claim, tables, dataset=""):
    return {one.name: one.value for one in evidence(claim, tables, dataset).cells}


# What notebook 08 publishes


def passing(value, n):
    """Columns of a success at 5 % false positives; those at 1 and 10 % say the reverse."""
    half = n**-0.5
    other = {"success_1": 1 - value, "success_10": 1 - value}
    return {"success_5": value, "low": value - half, "high": value + half, "n": n} | other


def ledger(n, **linf):
    """Detector by detector a plain game that it sees, its paper's, and the referee's of this
    success.
    """
    return [
        {"detector": name, "game": game, "auroc": auroc, "collapsed": False} | passing(success, n)
        for name, strong in linf.items()
        for game, auroc, success in (
            ("plain", 0.9, 0.5),
            ("alternating", 0.5, 1 - strong),
            ("l2", 0.5, 1 - strong),
            ("linf", 0.5, strong),
        )
    ]


def mixed(n, **best):
    """Detector by detector a mix that succeeds so often at its best sigma, and less at others."""
    return [
        {"detector": name, "sigma": sigma} | passing(success if sigma == BEST else success - 0.4, n)
        for name, success in best.items()
        for sigma in (*OTHERS[:2], BEST, OTHERS[2])
    ]


def alternating(gap, control, n, spd_resists=False):
    rows, best, strong = [], {}, {}
    for name in ("id", "smd", "spd"):
        few = 0.5 - gap if name == "spd" and spd_resists else 0.5 + gap
        few = 1 - few if name == "id" else few  # nothing is said of ID
        at = {1: 0.0, 2: 0.0, 5: few, 10: 1.0, 20: 1.0, 50: few + 0.05 - gap}
        rows += [
            {"detector": name, "rounds": rounds, "reading": reading}
            | passing(success if reading == "accumulated" else 1 - success, n)
            for reading in ("from the image", "accumulated")
            for rounds, success in at.items()
        ]
        best[name], strong[name] = few - gap, few + (0.0 if control else 0.15)
    return {"08": {"alternations": rows, "mixes": mixed(n, **best), "ledger": ledger(n, **strong)}}


def hardened(gap, control, n):
    rows = []
    for name in ("id", "jsd", "smd", "spd"):
        gained = {"spd": 0.1 + gap, "smd": 0.1 - gap}.get(name, 0.0)
        last = {"spd": 0.3 if control else 0.7}.get(name, 1.0)
        for game, when, success in (
            ("linf", "before", 0.9),
            ("linf", "after", last),
            ("alternating_own", "before", 0.5 + gained / 2),
            ("alternating_own", "after", 0.5 - gained / 2),
        ):
            row = {"detector": name, "adversarial_training": when, "game": game}
            row |= {"tpr": 1 - success, "tnr": success, "collapsed": False}
            rows.append(row | passing(success, n))
    return {"08": {"hardened": rows}}


def two_jacobians(gap, control, n):
    names = ("jsd", "first_layer_jacobian")
    strong = dict.fromkeys(names, 0.3 if control else 0.7) | {"first_layer": 1.0}
    best = dict.fromkeys(names, 0.5 - gap) | {"first_layer": 0.5 + gap}
    return {"08": {"mixes": mixed(n, **best), "ledger": ledger(n, **strong)}}


def first_layers(gap, control, n):
    best = {"jsd": 0.5 + gap, "first_layer": 0.9 + gap, "first_layer_jacobian": 0.5 - gap}
    strong = {"jsd": 1.0, "first_layer": 1.0, "first_layer_jacobian": 0.3 if control else 0.7}
    return {"08": {"mixes": mixed(n, **best), "ledger": ledger(n, **strong)}}


def transferred(gap, control, n):
    success = 0.9 + gap
    tries = {"no detector": success - (0.2 if control else 0.02)}
    tries |= {"the detector itself": success, "its imitation": success}
    rows = [
        {"detector": name, "attacker": who} | passing(share, n)
        for name in ("id", "n_plus_one")
        for who, share in tries.items()
    ]
    return {"08": {"transferred": rows, "ledger": ledger(n, id=1.0, n_plus_one=1.0)}}


def informed(gap, control, n):
    alone, guarded = "colour_reversing", "gradcam_colour_reversing"
    told = [
        (alone, "plain", "", 0.5 - gap),
        (alone, "linf", "", 1.0),
        (alone, "both_orders", "", 0.5 + gap),
        (guarded, "plain", "", 0.5 + gap),
        (guarded, "both_orders", "", 0.5 - gap),
        (guarded, "linf", "held", 0.5 - gap),
        (guarded, "linf", "derived", 0.5 - gap),
    ]
    rows = [
        {"detector": name, "game": game, "map": how} | passing(success, n)
        for name, game, how, success in told
    ]
    tables = {"08": {"informed": rows, "ledger": ledger(n, **{alone: 1.0, guarded: 1.0})}}
    if control:
        return tables
    for how, success in (("held", 0.3), ("derived", 0.7)):  # one of both is enough
        tables = changed(tables, "08/informed", {"map": how}, **passing(success, n))
    return tables


FIVE = [("fgsm", False), ("pgd", False), ("pgd", True)]
FIVE += [("carlini_wagner_l2", False), ("carlini_wagner_l2", True)]


def of_table3(gap, control, n):
    rows = []
    others = [("deepfool", False), ("ddn", False), ("ddn", True)]
    for attack, targeted in (*others, *FIVE):
        success = 0.5 - gap if (attack, targeted) in FIVE else 0.5 + gap
        for name, here in (("none", 0.99), ("det_is", 1 - success), ("gcd", success)):
            row = {"attack": attack, "targeted": targeted, "detector": name, "paper": 0.5}
            told = passing(here, n)
            rows.append(row | {"here": told.pop("success_5")} | told)
    strong = ledger(n, insen=1.0, gcd=0.3)
    strong.append({"detector": "gcd", "game": "carlini_wagner_l2"})
    strong[-1] |= passing(0.3 if control else 0.7, n)
    return {"08": {"004.table3": rows, "ledger": strong}}


@dataclass(frozen=True)
class Plan:
    """A claim's builder, gaps that show it and its opposite, its cells, and what its docstring says
    of the control.
    """

    build: Callable
    shown: float
    opposite: float
    cells: int
    scope: tuple[str, ...]
    told: str
    every: bool = False


HALF = "must succeed on less than half"
PLANTED = {
    "000.C9": Plan(alternating, 0.2, -0.2, 6, OF_000, "must not find .1 more on half"),
    "000.C10": Plan(hardened, 0.25, -0.25, 4, OF_000, HALF),
    "002.C7": Plan(two_jacobians, 0.3, -0.3, 2, OF_002, f"{HALF} of the images of each", True),
    "002.C8 (second round)": Plan(first_layers, 0.08, -0.3, 2, OF_002[:2], HALF, True),
    "002.C9": Plan(transferred, 0.08, -0.3, 4, OF_002, "must do worse by .05 in half of them"),
    "003.C9": Plan(informed, 0.3, -0.3, 4, PICTURES, f"the better of the last two {HALF}"),
    "004.C9": Plan(of_table3, 0.3, -0.3, 5, OF_002, HALF, True),
}
EVERY = tuple(claim for claim, plan in PLANTED.items() if plan.every)
claims = pytest.mark.parametrize("claim", PLANTED)


def test_the_builders_cover_exactly_the_claims_of_notebook_08():
    assert set(PLANTED) == set(WHITE_BOX) <= set(CLAIMS)
    assert set(PLANTED) == {claim for claim in CLAIMS if notebook_of(claim) == "08"}


@claims
def test_planted_columns_are_those_that_the_notebook_writes(claim):
    columns = {
        "ledger": white_box_tables.LEDGER,
        "hardened": white_box_tables.HARDENED,
        "004.table3": white_box_tables.TABLE3_004,
        "alternations": white_box_tables.ALTERNATIONS,
        "mixes": white_box_tables.MIXES,
        "transferred": white_box_tables.TRANSFERRED,
        "informed": white_box_tables.INFORMED,
    }
    for table, rows in plant(claim)["08"].items():
        traps = {"success_1", "success_10"}  # which not every table has
        assert all(set(row) - traps <= set(columns[table]) for row in rows), table


# The two outcomes


@claims
def test_what_is_plainly_shown_holds_and_survives(claim):
    found = verdict(claim, plant(claim))
    assert counts(found) == (PLANTED[claim].cells, 0, 0) and not found.refused
    assert found.outcome == (UNDECIDED if PLANTED[claim].cells < LEAST_CELLS else HOLDS)
    assert found.control == SURVIVES and found.told and found.n == N


@claims
def test_its_opposite_does_not(claim):
    found = verdict(claim, plant(claim, PLANTED[claim].opposite))
    assert counts(found) == (0, PLANTED[claim].cells, 0) and not found.refused
    assert found.outcome == DOES_NOT


@claims
def test_the_margin_is_where_it_stands(claim):
    cells = PLANTED[claim].cells
    assert counts(verdict(claim, plant(claim, 0.004, n=MANY))) == (cells, 0, 0)
    assert counts(verdict(claim, plant(claim, -0.004, n=MANY))) == (0, cells, 0)


@claims
def test_an_interval_over_the_margin_is_open(claim):
    for gap in (0.01, 0.0, -0.01):
        found = verdict(claim, plant(claim, gap, n=50))
        assert counts(found) == (0, 0, PLANTED[claim].cells) and found.outcome == UNDECIDED


@claims
def test_it_is_asked_where_the_paper_makes_it(claim):
    plan = PLANTED[claim]
    assert CLAIMS[claim](Published("", 0, {})).scope == plan.scope
    for dataset in ("digits", *OF_000, *PICTURES):
        found = verdict(claim, plant(claim), dataset=dataset)
        assert found.outcome.startswith(OUTSIDE) == (dataset not in plan.scope)


@claims
def test_without_tables_it_is_not_testable(claim):
    for tables in ({}, {"08": {table: [] for table in plant(claim)["08"]}}):
        found = verdict(claim, tables)
        assert (found.outcome, found.control) == (NOT_TESTABLE, NOT_RUN) and not found.refused


@claims
def test_a_run_with_notebook_08_is_judged(claim):
    run = Published(PLANTED[claim].scope[0], 0, plant(claim))
    (row,) = judged([run], [claim])
    assert row["claim"] == claim and row["shown"] == PLANTED[claim].cells
    assert not judged([Published("mnist", 0, {"07": plant(claim)["08"]})], [claim])


@claims
def test_two_seeds_that_disagree_leave_every_cell_open(claim):
    plan = PLANTED[claim]
    seeds = [evidence(claim, plant(claim, gap)) for gap in (plan.shown, plan.opposite)]
    found = judge(seeds, plan.scope[0])
    assert counts(found) == (0, 0, plan.cells) and found.n == 2 * N and found.seeds == 2


# Claims on every cell


@claims
def test_only_a_claim_on_every_cell_falls_with_one(claim):
    for tables in ({}, plant(claim)):
        assert evidence(claim, tables).every == PLANTED[claim].every


BREAKS = {"success_5": 0.95, "low": 0.9, "high": 0.98}
ONE_BROKEN = [
    *[
        ("002.C7", "08/mixes", {"detector": d, "sigma": BEST}, BREAKS)
        for d in ("jsd", "first_layer_jacobian")
    ],
    ("002.C8 (second round)", "08/mixes", {"detector": "first_layer_jacobian"}, BREAKS),
    (
        "002.C8 (second round)",
        "08/mixes",
        {"detector": "first_layer"},
        {"success_5": 0.8, "low": 0.75, "high": 0.85},
    ),
    *[
        (
            "004.C9",
            "08/004.table3",
            {"detector": "gcd", "attack": attack, "targeted": targeted},
            {"here": 0.95, "low": 0.9, "high": 0.98},
        )
        for attack, targeted in FIVE
    ],
]


@pytest.mark.parametrize(("claim", "place", "where", "change"), ONE_BROKEN)
def test_one_opposite_cell_suffices_of_a_claim_on_every_cell(claim, place, where, change):
    found = verdict(claim, changed(plant(claim), place, where, **change))
    assert counts(found) == (PLANTED[claim].cells - 1, 1, 0) and found.outcome == DOES_NOT


def test_one_opposite_cell_does_not_overturn_the_other_claims():
    where = {"detector": "smd", "sigma": BEST}
    tables = changed(plant("000.C9"), "08/mixes", where, **BREAKS)
    found = verdict("000.C9", tables)
    assert counts(found) == (5, 1, 0) and found.outcome == HOLDS


# The control


@claims
def test_a_control_that_explains_it_is_not_survived(claim):
    found = verdict(claim, plant(claim, control=False))
    assert found.control == FALLS and found.told
    if claim != "003.C9":  # its control is two of its cells
        assert found.shown == PLANTED[claim].cells


WITHOUT = [
    ("000.C9", {"game": "linf"}, "08/ledger"),
    ("000.C10", {"game": "linf"}, "08/hardened"),
    ("002.C7", {"game": "linf"}, "08/ledger"),
    ("002.C8 (second round)", {"game": "linf"}, "08/ledger"),
    ("002.C9", {"attacker": "no detector"}, "08/transferred"),
    ("004.C9", {"detector": "gcd"}, "08/ledger"),
]


@pytest.mark.parametrize(("claim", "where", "place"), WITHOUT)
def test_a_control_without_its_rows_is_not_run(claim, where, place):
    book, table = place.split("/")
    tables = plant(claim, control=False)
    gone = [row for row in tables[book][table] if any(row[k] != v for k, v in where.items())]
    assert len(gone) < len(tables[book][table])
    found = verdict(claim, {book: tables[book] | {table: gone}})
    assert (found.control, found.told) == (NOT_RUN, "") and found.shown == PLANTED[claim].cells


def test_a_control_without_its_table_is_not_run():
    tables = plant("004.C9", control=False)["08"]
    found = verdict("004.C9", {"08": {"004.table3": tables["004.table3"]}})
    assert found.control == NOT_RUN and found.shown == 5


def test_the_control_of_colours_is_not_run_without_an_attack_on_the_map():
    rows = [row for row in plant("003.C9")["08"]["informed"] if row["game"] != "linf"]
    found = verdict("003.C9", {"08": plant("003.C9")["08"] | {"informed": rows}})
    assert found.control == NOT_RUN and counts(found) == (2, 0, 0)


def of(detector, game="linf", **more):
    return {"detector": detector, "game": game} | more


TURNS = [
    # .1 more than the alternating attack's .7, on half of the two detectors
    *[
        ("000.C9", "08/ledger", of(name), {"success_5": share}, control)
        for name in ("smd", "spd")
        for share, control in ((0.79, SURVIVES), (0.81, FALLS))
    ],
    ("000.C9", "08/ledger", of("id"), {"success_5": 1.0}, SURVIVES),
    ("000.C9", "08/ledger", of("spd", "l2"), {"success_5": 1.0}, SURVIVES),
    # half of the images
    *[
        ("000.C10", "08/hardened", of("spd") | {"adversarial_training": "after"}, change, control)
        for change, control in (
            ({"success_5": 0.499}, SURVIVES),
            ({"success_5": 0.5}, FALLS),
            ({"success_5": 0.501}, FALLS),
        )
    ],
    ("000.C10", "08/hardened", of("smd"), {"success_5": 1.0}, SURVIVES),
    (
        "000.C10",
        "08/hardened",
        of("spd") | {"adversarial_training": "before"},
        {"success_5": 1.0},
        SURVIVES,
    ),
    *[
        ("002.C7", "08/ledger", of(name), {"success_5": share}, control)
        for name in ("jsd", "first_layer_jacobian")
        for share, control in ((0.499, SURVIVES), (0.5, FALLS), (0.501, FALLS))
    ],
    *[
        (
            "002.C8 (second round)",
            "08/ledger",
            of("first_layer_jacobian"),
            {"success_5": share},
            control,
        )
        for share, control in ((0.499, SURVIVES), (0.5, FALLS), (0.501, FALLS))
    ],
    # .05 less than .98, in half of the comparisons
    *[
        ("002.C9", "08/transferred", {"attacker": "no detector"}, {"success_5": share}, control)
        for share, control in ((0.929, SURVIVES), (0.931, FALLS))
    ],
    *[
        (
            "002.C9",
            "08/transferred",
            {"attacker": "no detector", "detector": name},
            {"success_5": 0.97},
            SURVIVES,  # as well on one of two detectors, worse on the other
        )
        for name in ("id", "n_plus_one")
    ],
    *[
        ("003.C9", "08/informed", {"map": how}, {"success_5": share}, control)
        for how in ("held", "derived")
        for share, control in ((0.499, SURVIVES), (0.5, FALLS), (0.501, FALLS))
    ],
    *[
        ("004.C9", "08/ledger", of("gcd", game), {"success_5": share}, control)
        for game in ("linf", "carlini_wagner_l2")
        for share, control in ((0.499, SURVIVES), (0.5, FALLS), (0.501, FALLS))
    ],
    ("004.C9", "08/ledger", of("insen"), {"success_5": 1.0}, SURVIVES),
    ("004.C9", "08/ledger", of("gcd", "plain"), {"success_5": 1.0}, SURVIVES),
    ("004.C9", "08/ledger", of("gcd", "l2"), {"success_5": 1.0}, SURVIVES),
]


@pytest.mark.parametrize(("claim", "place", "where", "change", "control"), TURNS)
def test_where_a_control_turns(claim, place, where, change, control):
    change = {"low": 0.0, "high": 1.0} | change
    assert verdict(claim, changed(plant(claim), place, where, **change)).control == control


def test_who_knows_no_detector_and_does_as_well_in_three_of_four_overturns_the_second_round():
    where = {"attacker": "no detector", "detector": "id"}
    tables = changed(plant("002.C9"), "08/transferred", where, success_5=0.97)
    where = {"attacker": "its imitation", "detector": "n_plus_one"}
    tables = changed(tables, "08/transferred", where, success_5=0.8, low=0.75, high=0.85)
    assert verdict("002.C9", tables).control == FALLS


@pytest.mark.parametrize("game", ["linf", "carlini_wagner_l2"])
def test_gcd_on_halves_that_did_not_collapse_is_asked_by_the_referee(game):
    tables = plant("004.C9")
    rows = [row for row in tables["08"]["ledger"] if row["detector"] != "gcd"]
    rows.append({"detector": "gcd_cured", "game": game} | passing(0.7, N))
    found = verdict("004.C9", {"08": tables["08"] | {"ledger": rows}})
    assert found.control == FALLS and f"{game} 0.70" in found.told


# What is not admitted

ASKED = {  # claim -> the detectors that it asks, with their cells
    "000.C9": {"smd": 3, "spd": 3},
    "002.C7": {"jsd": 1, "first_layer_jacobian": 1},
    "002.C8 (second round)": {"first_layer": 1, "first_layer_jacobian": 1},
    "002.C9": {"id": 2, "n_plus_one": 2},
    "003.C9": {"colour_reversing": 1, "gradcam_colour_reversing": 3},
}
asked = pytest.mark.parametrize(
    ("claim", "name", "cells"),
    [(claim, *one) for claim, names in ASKED.items() for one in names.items()],
)
COLLAPSE = {"collapsed": True, "auroc": 0.5}


@asked
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (COLLAPSE, COLLAPSED),
        ({"auroc": 0.5}, CHANCE),
        ({"auroc": 0.54}, CHANCE),  # 200 images: .06 either way
        ({"game": "elsewhere"}, MISSING),
    ],
)
@pytest.mark.parametrize("shown", [True, False])
def test_a_detector_that_tells_nothing_apart_is_named_and_not_counted(
    claim, name, cells, change, why, shown
):
    plan = PLANTED[claim]
    tables = plant(claim, plan.shown if shown else plan.opposite)
    found = verdict(claim, changed(tables, "08/ledger", of(name, "plain"), **change))
    left = plan.cells - cells
    assert counts(found) == ((left, 0, 0) if shown else (0, left, 0))
    assert found.refused == {why: cells}


@asked
def test_a_detector_that_is_just_better_than_chance_is_admitted(claim, name, cells):
    tables = changed(plant(claim), "08/ledger", of(name, "plain"), auroc=0.57)
    assert verdict(claim, tables).shown == PLANTED[claim].cells


@asked
def test_the_control_does_not_ask_a_detector_that_is_not_admitted(claim, name, cells):
    tables = plant(claim)
    strong, blind = of(name), {"detector": name, "attacker": "no detector"}
    if claim == "002.C9":
        tables = changed(tables, "08/transferred", blind, success_5=1.0)
    elif claim == "003.C9":
        tables = changed(tables, "08/informed", strong, success_5=1.0, high=1.0)
    else:
        tables = changed(tables, "08/ledger", strong, success_5=1.0)
    assert verdict(claim, tables).control == (
        SURVIVES if name in ("colour_reversing", "first_layer") or claim == "002.C9" else FALLS
    )
    tables = changed(tables, "08/ledger", of(name, "plain"), **COLLAPSE)
    alone = name == "gradcam_colour_reversing" or claim == "002.C8 (second round)"
    alone = alone and name != "first_layer"
    assert verdict(claim, tables).control == (NOT_RUN if alone else SURVIVES)


def test_who_does_worse_against_a_detector_that_is_not_admitted_does_not_save_the_claim():
    tables = plant("002.C9", control=False)
    where = {"detector": "id", "attacker": "no detector"}
    tables = changed(tables, "08/transferred", where, success_5=0.5)
    assert verdict("002.C9", tables).control == SURVIVES
    tables = changed(tables, "08/ledger", of("id", "plain"), **COLLAPSE)
    assert verdict("002.C9", tables).control == FALLS  # N+1 alone is left


@pytest.mark.parametrize("name", ["smd", "spd"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_training_of_a_detector_that_collapsed_is_not_admitted(name, when):
    where = of(name, "alternating_own", adversarial_training=when)
    found = verdict("000.C10", changed(plant("000.C10"), "08/hardened", where, collapsed=True))
    assert counts(found) == (2, 0, 0) and found.refused == {COLLAPSED: 2}


def test_a_last_spd_that_collapsed_is_not_attacked():
    tables = plant("000.C10", control=False)
    where = {"detector": "spd", "adversarial_training": "after"}
    found = verdict("000.C10", changed(tables, "08/hardened", where, collapsed=True))
    assert counts(found) == (2, 0, 0) and (found.control, found.told) == (NOT_RUN, "")


@pytest.mark.parametrize("when", ["before", "after"])
def test_training_without_both_ends_is_no_cell(when):
    where = of("smd", "alternating_own", adversarial_training=when)
    tables = changed(plant("000.C10"), "08/hardened", where, game="elsewhere")
    found = verdict("000.C10", tables)
    assert counts(found) == (2, 0, 0) and not found.refused


@pytest.mark.parametrize(
    ("success", "n", "why"),
    [
        (19 / 200, 200, FEW),
        (20 / 200, 200, ""),
        (0.0, 200, FEW),
        (1.0, 19, FEW),
        (None, 200, UNKNOWN),
    ],
)
def test_an_attack_that_fools_fewer_than_20_images_is_not_defeated(success, n, why):
    tables = changed(plant("004.C9"), "08/004.table3", {"attack": "fgsm"}, n=n)
    where = {"attack": "fgsm", "detector": "none"}
    found = verdict("004.C9", changed(tables, "08/004.table3", where, here=success))
    assert found.shown == (4 if why else 5) and found.refused == ({why: 1} if why else {})


def test_an_attack_that_was_not_made_without_a_detector_is_not_admitted():
    where = {"attack": "pgd", "targeted": True, "detector": "none"}
    tables = changed(plant("004.C9"), "08/004.table3", where, detector="another")
    assert verdict("004.C9", tables).refused == {UNKNOWN: 1}


def test_a_weak_attack_that_passes_gcd_does_not_overturn_it():
    where = {"attack": "fgsm"}
    tables = changed(plant("004.C9"), "08/004.table3", where, here=0.05)
    where |= {"detector": "gcd"}
    tables = changed(tables, "08/004.table3", where, here=0.95, low=0.9, high=0.98)
    found = verdict("004.C9", tables)
    assert found.outcome == HOLDS and found.refused == {FEW: 1}


def test_each_aim_of_an_attack_is_asked_for_its_own_success():
    where = {"attack": "pgd", "targeted": False, "detector": "none"}
    tables = changed(plant("004.C9"), "08/004.table3", where, here=0.0)
    left = evidence("004.C9", tables).cells
    assert [one.name for one in left if one.refused] == ["pgd"]
    assert {one.name for one in left if not one.refused} == {
        "fgsm",
        "pgd T",
        "carlini_wagner_l2",
        "carlini_wagner_l2 T",
    }


# What the cells measure


def test_spd_is_said_to_resist_the_alternating_attack_on_cifar10_alone():
    resists = alternating(0.2, True, N, spd_resists=True)
    found = verdict("000.C9", resists, "cifar10")
    assert counts(found) == (6, 0, 0) and (found.outcome, found.control) == (HOLDS, SURVIVES)
    assert values("000.C9", resists, "cifar10")["spd resists"] == pytest.approx(0.7)
    for dataset in ("mnist", "cats_dogs"):
        assert counts(verdict("000.C9", resists, dataset)) == (5, 1, 0)
        assert "spd fooled" in values("000.C9", resists, dataset)
    assert counts(verdict("000.C9", plant("000.C9"), "cifar10")) == (5, 1, 0)
    assert "smd fooled" in values("000.C9", resists, "cifar10")


def test_the_margin_of_spd_that_resists_is_one_half_too():
    for gap, expected in ((0.004, (6, 0, 0)), (-0.004, (0, 6, 0))):
        tables = alternating(gap, True, MANY, spd_resists=True)
        assert counts(verdict("000.C9", tables, "cifar10")) == expected


def test_where_spd_resists_the_referee_that_finds_more_overturns_it():
    tables = alternating(0.2, False, N, spd_resists=True)
    assert verdict("000.C9", tables, "cifar10").control == FALLS


def test_the_alternating_attack_is_compared_with_its_own_50_rounds_and_the_best_mix():
    found = values("000.C9", plant("000.C9"))
    assert found == pytest.approx(
        {f"{name} fooled": 0.7 for name in ("smd", "spd")}
        | {f"{name} T = 5 enough": 0.15 for name in ("smd", "spd")}
        | {f"{name} beats the mix": 0.2 for name in ("smd", "spd")}
    )


PLANTED_000_C9 = {
    f"{name} {what}"
    for name in ("smd", "spd")
    for what in ("fooled", "T = 5 enough", "beats the mix")
}


@pytest.mark.parametrize(
    ("place", "where", "change", "gone"),
    [
        ("08/alternations", {"rounds": 50}, {"rounds": 49}, "T = 5 enough"),
        ("08/alternations", {"rounds": 5}, {"rounds": 4}, ""),
        ("08/alternations", {"reading": "accumulated"}, {"reading": "another"}, ""),
        ("08/mixes", {}, {"detector": "another"}, "beats the mix"),
    ],
)
def test_an_alternating_attack_that_was_not_made_is_no_cell(place, where, change, gone):
    for name in ("smd", "spd"):
        of_one = where | {"detector": name}
        left = values("000.C9", changed(plant("000.C9"), place, of_one, **change))
        missing = [f"{name} {gone}"] if gone else [one for one in PLANTED_000_C9 if name in one]
        assert set(left) == PLANTED_000_C9 - set(missing)


def test_training_is_measured_by_what_it_takes_and_by_what_it_finds_more():
    assert values("000.C10", plant("000.C10")) == pytest.approx(
        {"spd success": 0.35, "spd found": 0.35, "smd success": 0.15, "smd found": 0.15}
    )
    where = of("spd", "alternating_own", adversarial_training="after")
    tables = changed(plant("000.C10"), "08/hardened", where, tpr=0.3)
    assert counts(verdict("000.C10", tables)) == (3, 1, 0)  # it finds less than before


def test_training_that_makes_smd_robust_too_is_the_opposite_of_half_the_cells():
    rows = [
        row | {"detector": {"spd": "smd"}.get(row["detector"], row["detector"])}
        for row in plant("000.C10")["08"]["hardened"]
        if row["detector"] != "smd"
    ]
    assert counts(verdict("000.C10", {"08": {"hardened": rows}})) == (0, 2, 0)


def test_the_sigma_counts_at_which_the_mix_succeeds_most():
    for claim in ("002.C7", "002.C8 (second round)"):
        for sigma in OTHERS:
            where = {"detector": "first_layer_jacobian", "sigma": sigma}
            tables = changed(plant(claim), "08/mixes", where, **BREAKS)
            found = verdict(claim, tables)
            assert counts(found) == (1, 1, 0) and found.outcome == DOES_NOT


def test_who_knows_no_detector_is_no_cell():
    names = set(values("002.C9", plant("002.C9")))
    assert names == {
        f"{name}, {who}"
        for name in ("id", "n_plus_one")
        for who in ("the detector itself", "its imitation")
    }


def test_colours_alone_are_evaded_and_the_map_is_not():
    assert values("003.C9", plant("003.C9")) == pytest.approx(
        {
            "colour_reversing both_orders": 0.8,
            "gradcam_colour_reversing both_orders": 0.8,
            "gradcam_colour_reversing linf held": 0.8,
            "gradcam_colour_reversing linf derived": 0.8,
        }
    )


def test_a_failure_has_the_interval_of_its_success_turned_around():
    change = {"success_5": 0.4, "low": 0.3, "high": 0.6}
    places = [
        ("002.C7", "08/mixes", change),
        ("003.C9", "08/informed", change),
        ("004.C9", "08/004.table3", {"here": 0.4, "low": 0.3, "high": 0.6}),
    ]
    for claim, place, values_of in places:
        one = evidence(claim, changed(plant(claim), place, {}, **values_of)).cells[-1]
        assert (one.value, one.low, one.high) == pytest.approx((0.6, 0.4, 0.7))


# Docstrings

WORDS = {0.5: "over one half", 0.9: "over .9", 0.1: ".1", -0.05: "above -.05", 0.0: "above 0"}
SCOPES = {
    OF_000: "Scope: the paper's three sets.",
    OF_002: "Scope: MNIST, CIFAR-10, pictures of ImageNet.",
    OF_002[:2]: "Scope: MNIST, CIFAR-10.",
    PICTURES: "Scope: pictures of ImageNet.",
}


def says(claim):
    return " ".join(inspect.getdoc(CLAIMS[claim]).split())


@claims
def test_a_docstring_says_the_margins_of_the_code_and_no_others(claim):
    cells = evidence(claim, plant(claim)).cells
    told = says(claim).split("Cells: ")[1].split("Control: ")[0]
    assert all(one.shown_above == one.opposite_below for one in cells)
    edges = {abs(one.shown_above) for one in cells}
    assert {abs(edge) for edge, word in WORDS.items() if word in told} == edges


@claims
def test_a_docstring_says_scope_and_control_and_whether_it_is_a_claim_on_every_cell(claim):
    plan = PLANTED[claim]
    assert SCOPES[plan.scope] in says(claim) and plan.told in says(claim).split("Control: ")[1]
    assert ("a claim on " in says(claim)) == plan.every


def test_the_claim_names_the_rounds_that_are_compared():
    assert (white_box.FEW_ROUNDS, white_box.MANY_ROUNDS) == (5, 50)
    assert "five iterations" in says("000.C9") and "50 iterations" in says("000.C9")


def test_a_gcd_that_does_not_see_plain_pgd_is_no_witness():
    tables = changed(plant("004.C9"), "08/ledger", of("gcd", "plain"), auroc=0.5)
    found = verdict("004.C9", tables)
    assert found.refused == {CHANCE: 5} and not found.cells
