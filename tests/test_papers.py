"""The papers as data: complete, consistent with what the papers' own texts count, and joined with ours."""

import json

import pytest

from nbutils import InputError, papers


def test_index_has_all_43_and_each_table_is_there():
    index = papers.index()
    assert len(index) == 43 == index["id"].nunique()
    assert index.groupby("paper").size().to_dict() == {"000": 17, "002": 6, "003": 9, "004": 11}
    for row in index[index["kind"] == "table"].itertuples():
        assert len(papers.table(row.id)) > 0


def test_every_row_has_its_keys_once():
    for number in papers.PAPERS:
        for name, table in papers.paper(number)["tables"].items():
            seen = {json.dumps([row[k] for k in table["keys"]]) for row in table["rows"]}
            assert len(seen) == len(table["rows"]), name
            numeric = [row["value"] for row in table["rows"] if not isinstance(row["value"], str)]
            assert all(isinstance(v, int | float) for v in numeric) and (numeric or name == "002.table1")


def test_known_cells():
    """Read in the papers by eye, one or two a table."""
    def cell(name, **keys):
        t = papers.table(name)
        for key, value in keys.items():
            t = t[t[key] == value]
        assert len(t) == 1, (name, keys, len(t))
        return t["value"].iloc[0]

    assert cell("000.table4", dataset="mnist", attack="fgsm") == 19.27
    assert cell("000.table2", dataset="cifar10", attack="carlini_wagner_l2", statistic="l2") == 0.0017
    assert cell("000.table7", dataset="mnist", fit_attack="fgsm", test_attack="carlini_wagner_l2", detector="id") == 0.69
    assert cell("000.table7", dataset="mnist", fit_attack="mim", test_attack="fgsm", detector="smd") == 1.92  # as printed
    assert cell("000.table8", dataset="cifar10", fit_attack="bim", test_attack="jsma", detector="jsd") == 0.71
    assert cell("000.table9", dataset="cats_dogs", fit_attack="fgsm", test_attack="fgsm", detector="id") == 0.66


def test_counts_of_the_claims_ledger():
    """SPD against SMD on MNIST is 21 wins, 13 losses, 2 ties when the misprint 1.92 is read as .92."""
    t = papers.table("000.table7").replace({"value": {1.92: 0.92}}).pivot(index=["fit_attack", "test_attack"], columns="detector", values="value")
    assert len(t) == 36
    assert ((t.spd > t.smd).sum(), (t.spd < t.smd).sum(), (t.spd == t.smd).sum()) == (21, 13, 2)
    assert ((t.id > t.jsd).sum(), (t.id < t.jsd).sum()) == (8, 4)


def test_compare_joins_and_leaves_gaps():
    here = [{"attack": "fgsm", "here": 20.0, "n": 5}, {"attack": "pgd", "here": 1.0, "n": 5}]
    joined = papers.compare("000.table4", here, dataset="mnist")
    assert joined["paper"].iloc[0] == 19.27 and joined["paper"].isna().iloc[1]
    assert list(joined.columns) == ["attack", "paper", "here", "n"]
    with pytest.raises(InputError, match="is no table"):
        papers.table("000.table77")
