"""The rule of verdicts on planted tables, over seeds, and over what is published."""

import json

import pytest

from nbutils import __main__
from nbutils.claims import CLAIMS, rule
from nbutils.claims.evidence import Published
from nbutils.claims.judging import judged, notebook_of, says
from nbutils.claims.rule import Cell, Evidence, judge
from nbutils.data import DATASETS
from nbutils.evaluation import papers
from nbutils.series import verdicts
from nbutils.series.publish import PUBLISHED

SCOPE = ("cifar10",)
BOOKS = ("03", "04", "05", "06", "07", "08", "09")  # that argue claims


def cells(*states, **more):
    """One cell a state: "+" shown, "-" opposite, "0" open."""
    bounds = {"+": (0.2, 0.1, 0.3), "-": (-0.2, -0.3, -0.1), "0": (0.0, -0.1, 0.1)}
    return [Cell(f"cell {i}", *bounds[s], 100, **more) for i, s in enumerate(states)]


def outcome(found, **more):
    return judge([Evidence(found, SCOPE, **more)], "cifar10")


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("+++", rule.HOLDS),
        ("++0", rule.HOLDS),
        ("++++0-", rule.HOLDS),
        ("+++-", rule.IN_PART),  # opposite in more than a sixth
        ("+++00-", rule.IN_PART),
        ("+--", rule.DOES_NOT),
        ("+-00", rule.UNDECIDED),  # as often shown as opposite
        ("++", rule.UNDECIDED),  # two cells
        ("000", rule.UNDECIDED),  # all intervals across zero: not "does not"
        ("+000", rule.UNDECIDED),
        ("", rule.NOT_TESTABLE),
    ],
)
def test_the_rule(states, expected):
    found = outcome(cells(*states))
    assert found.outcome == expected
    assert (found.shown, found.opposite, found.open) == tuple(states.count(s) for s in "+-0")


def test_one_opposite_cell_is_enough_against_a_claim_on_every_attack():
    assert outcome(cells(*"+++++-")).outcome == rule.HOLDS
    assert outcome(cells(*"+++++-"), every=True).outcome == rule.DOES_NOT
    assert outcome(cells(*"+++0"), every=True).outcome == rule.HOLDS


def test_what_is_not_admitted_is_counted_and_named():
    found = outcome([*cells(*"+++"), *cells(*"---", refused="a detector collapsed")])
    assert found.outcome == rule.HOLDS and found.refused == {"a detector collapsed": 3}
    none = outcome(
        cells(*"+++", refused="attack fools fewer than 20 images"), control=rule.SURVIVES
    )
    assert none.outcome == rule.NOT_TESTABLE and none.control == rule.NOT_RUN


def test_near_copies_are_one_cell():
    copies = cells(*"++++", copies="zero_mean")
    assert outcome(copies).outcome == rule.UNDECIDED and outcome(copies).cells == 1
    others = [Cell(f"other {i}", 0.2, 0.1, 0.3, 100) for i in range(2)]
    apart = outcome([*cells(*"+-", copies="zero_mean"), *others])
    assert (apart.shown, apart.open) == (2, 1)  # copies that disagree are open


def test_margins_are_the_claims():
    above = [Cell("a", 0.7, 0.6, 0.8, 100, shown_above=0.5, opposite_below=0.5)]
    assert above[0].state == "shown"
    assert Cell("a", 0.7, 0.6, 0.8, 100, shown_above=0.65, opposite_below=0.65).state == "open"
    assert Cell("a", 0.7, 0.6, 0.8, 100, shown_above=0.9, opposite_below=0.9).state == "opposite"


def test_elsewhere_the_outcome_is_outside_the_scope_and_says_what_it_would_be():
    found = judge([Evidence(cells(*"+++"), SCOPE, rule.SURVIVES)], "digits")
    assert found.outcome == "outside the paper's scope: holds" and found.control == rule.SURVIVES


def test_a_claim_shown_everywhere_whose_control_shows_the_same_does_not_survive():
    found = outcome(cells(*"+++++"), control=rule.FALLS, told="noise flagged 0.95")
    assert (found.outcome, found.control) == (rule.HOLDS, rule.FALLS)


def test_seeds_are_pooled_as_clusters():
    """Two seeds that disagree leave a cell open, however sure each of them is."""
    sure = [Cell("a", value, value - 0.01, value + 0.01, 100) for value in (0.3, -0.3)]
    (pooled,) = rule.pooled_over_seeds([[sure[0]], [sure[1]]])
    assert pooled.state == "open" and pooled.value == pytest.approx(0) and pooled.n == 200
    alike = [Cell("a", value, value - 0.1, value + 0.1, 100) for value in (0.30, 0.32)]
    (pooled,) = rule.pooled_over_seeds([[alike[0]], [alike[1]]])
    assert pooled.state == "shown" and 0.1 < pooled.high - pooled.low < 0.3
    twins = [Cell("a", 0.3, 0.2, 0.4, 100)] * 2
    (pooled,) = rule.pooled_over_seeds([[twins[0]], [twins[1]]])
    assert pooled.state == "shown" and pooled.value == pytest.approx(0.3)
    one = Cell("b", 0.1, 0.05, 0.2, 50)
    assert rule.pooled_over_seeds([[one], []]) == [one]  # a cell of one seed keeps its interval
    both = [Evidence([alike[0]], SCOPE, rule.SURVIVES), Evidence([alike[1]], SCOPE, rule.FALLS)]
    assert judge(both, "cifar10").control == rule.FALLS and judge(both, "cifar10").seeds == 2
    one = [Evidence([alike[0]], SCOPE, rule.SURVIVES), Evidence([alike[1]], SCOPE, rule.NOT_RUN)]
    assert judge(one, "cifar10").control == judge(one[::-1], "cifar10").control == rule.SURVIVES


def test_two_equal_seeds_say_what_one_says():
    """Whatever is published: pooling must not turn a cell."""
    for name, runs in verdicts.published().items():
        once, twice = judged(runs), judged([*runs, *runs])
        for a, b in zip(once, twice, strict=True):
            states = ("shown", "opposite")
            assert all(b[state] >= a[state] for state in states), (name, a["claim"])
            assert b["shown"] == a["shown"] or a["open"], (name, a["claim"])


def test_a_value_outside_its_interval_is_no_cell():
    with pytest.raises(ValueError, match="lies outside"):
        Cell("a", 0.5, 0.6, 0.7, 10)
    Cell("a", float("nan"), 0.0, 0.0, 0, refused="not measured")


# -- the faults that a referee found in the published verdicts, as planted tables


def fig2(**auroc):
    """002's matrix on one attack each: rows of ID and JSD with their collapses."""
    return [
        {
            "detector": detector,
            "fit_attack": attack,
            "test_attack": attack,
            "auroc": value,
            "interval": [value - 0.02, value + 0.02],
            "collapses": collapses,
            "n": 300,
        }
        for attack in ("fgsm", "bim", "iterative_l2", "jsma")
        for detector, (value, collapses) in auroc.items()
    ]


def gains(value):
    rows = []
    for attack in ("fgsm", "bim", "iterative_l2", "jsma"):
        for pair in ("jsd - id", "jsd - jsd_shuffled"):
            interval = [value - 0.03, value + 0.03]
            rows.append(
                {"attack": attack, "difference": pair, "auroc": value, "interval": interval}
            )
    return [row | {"n": 300} for row in rows]


def strength(success=0.9):
    return [
        {"attack": a, "success": success, "n": 300} for a in ("fgsm", "bim", "iterative_l2", "jsma")
    ]


def jacobian_adds(**tables):
    planted = Published("cifar10", 0, {"04": {"strength": strength(), **tables}})
    return judged([planted], ["002.C2"])[0]


def test_a_weak_jsd_over_a_collapsed_id_adds_nothing():
    row = jacobian_adds(
        **{"002.fig2": fig2(id=(0.5, 9), jsd=(0.66, 0)), "jacobian_gain": gains(0.16)}
    )
    assert row["verdict"] == rule.NOT_TESTABLE and "collapsed" in row["not admitted"]
    dead = jacobian_adds(
        **{"002.fig2": fig2(id=(0.51, 0), jsd=(0.66, 0)), "jacobian_gain": gains(0.15)}
    )
    assert dead["verdict"] == rule.NOT_TESTABLE and "chance" in dead["not admitted"]
    alive = jacobian_adds(
        **{"002.fig2": fig2(id=(0.7, 0), jsd=(0.86, 0)), "jacobian_gain": gains(0.16)}
    )
    assert alive["verdict"] == rule.HOLDS


def test_no_difference_at_the_ceiling():
    table = {"002.fig2": fig2(id=(0.985, 0), jsd=(0.999, 0)), "jacobian_gain": gains(0.04)}
    assert "ceiling" in jacobian_adds(**table)["not admitted"]


def test_a_trivial_scalar_that_does_better_overturns_it():
    table = {"002.fig2": fig2(id=(0.7, 0), jsd=(0.8, 0)), "jacobian_gain": gains(0.1)}
    noise = [{"attack": a["attack"], "detector": "noise", "auroc": 0.9} for a in strength()]
    faint = [row | {"auroc": 0.6} for row in noise]
    assert jacobian_adds(**table, scalars_and_stand_ins=faint)["control"] == rule.SURVIVES
    assert jacobian_adds(**table, scalars_and_stand_ins=noise)["control"] == rule.FALLS
    assert jacobian_adds(**table)["control"] == rule.NOT_RUN


def test_no_attack_that_fools_is_not_testable():
    table = {"002.fig2": fig2(id=(0.7, 0), jsd=(0.86, 0)), "jacobian_gain": gains(0.16)}
    row = jacobian_adds(**table, strength=strength(0.05))
    assert row["verdict"] == rule.NOT_TESTABLE and "fewer than 20" in row["not admitted"]


def test_an_underflow_that_is_nowhere_does_not_hold():
    rows = [
        {
            "derivative of": of,
            "images": images,
            "maps all zero": 0.0,
            "maps off by a tenth": 0.3,
            "n": 300,
        }
        for of in ("logit", "softmax", "cross_entropy")
        for images in ("clean", "fgsm", "jsma")
    ]
    planted = Published("cifar10", 0, {"03": {"underflow": rows}})
    assert judged([planted], ["000.C4 (underflow)"])[0]["verdict"] == rule.DOES_NOT


def test_matched_noise_that_is_flagged_too_overturns_every_attack_found():
    rows = [row | {"tpr": 0.97, "tnr": 0.96} for row in fig2(jsd=(0.99, 0))]
    controls = [
        {"detector": "jsd", "attack": row["attack"], "flagged_adversarial": 0.97, "n": 300}
        for row in strength()
    ]
    for noise, control in ((0.95, rule.FALLS), (0.05, rule.SURVIVES)):
        noisy = [row | {"flagged_noise_sign": noise} for row in controls]
        tables = {"strength": strength(), "002.fig2": rows, "controls": noisy}
        row = judged([Published("cifar10", 0, {"04": tables})], ["002.C1"])[0]
        assert (row["verdict"], row["control"]) == (rule.HOLDS, control)


# -- the ledger


def test_every_claim_is_in_the_ledger_with_scope_and_control():
    known = {row["id"] for row in papers.claims().to_dict("records")}
    for claim in CLAIMS:
        assert claim.split(" ")[0] in known, claim
        assert notebook_of(claim) in BOOKS and len(says(claim)) > 15
        scope = CLAIMS[claim](Published("digits", 0, {})).scope
        assert scope and set(scope) <= set(DATASETS)
    ledger = {row["id"]: row for row in papers.claims().to_dict("records")}
    for claim in CLAIMS:
        row = ledger[claim.split(" ")[0]]
        scope = CLAIMS[claim](Published("digits", 0, {})).scope
        assert set(row["scope"]) >= set(scope) and row["control"], claim


def test_missing_tables_are_no_cells():
    for claim in CLAIMS:
        found = judge([CLAIMS[claim](Published("cifar10", 0, {}))], "cifar10")
        assert found.cells == 0 and rule.NOT_TESTABLE in found.outcome, claim


def test_verdicts_are_recomputed_from_what_is_published(capsys):
    assert __main__.main(["verdicts"]) == 0
    printed = capsys.readouterr().out
    for name, rows in verdicts.verdicts().items():
        assert name in printed and rows
        for row in rows:
            words = row["verdict"].removeprefix(f"{rule.OUTSIDE}: ")
            assert words in (
                rule.HOLDS,
                rule.IN_PART,
                rule.DOES_NOT,
                rule.UNDECIDED,
                rule.NOT_TESTABLE,
            )
            assert row["control"] in (rule.SURVIVES, rule.FALLS, rule.NOT_RUN)
            assert (
                row["cells"] == row["shown"] + row["opposite"] + row["open"] and row["seeds"] >= 1
            )


def test_the_page_of_verdicts_is_what_the_command_writes():
    written = (PUBLISHED / verdicts.PAGE).read_text(encoding="utf-8")
    assert written == verdicts.page(), "run `python -m nbutils verdicts --write`"


def test_published_verdicts_of_digits_are_those_of_its_tables():
    run = verdicts.read(PUBLISHED / "digits-quick-s0")
    for path in sorted((PUBLISHED / "digits-quick-s0").glob("0[3-6]*.json")):
        stored = json.loads(path.read_text(encoding="utf-8"))["tables"]["verdicts"]
        number = path.stem[:2]
        again = judged([run], [claim for claim in CLAIMS if notebook_of(claim) == number])
        told = [(row["claim"], row["verdict"], row["control"]) for row in again]
        dataset = json.loads(path.read_text(encoding="utf-8"))["parameters"]["DATASET"]
        assert dataset == "digits" and len(told) == len(stored)
        assert told == [(row["claim"], row["verdict"], row["control"]) for row in stored], number
