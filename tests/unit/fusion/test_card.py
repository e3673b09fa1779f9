"""The data card against counts made by hand, and the page that is made of it."""

import json

import numpy as np
import pandas as pd
import pytest

from cryofuse.calendar import month_range
from cryofuse.config import FeatureSettings
from cryofuse.fusion import feature_columns
from cryofuse.fusion.card import READERS, describe_features, render_card
from cryofuse.fusion.features import split_lag

MONTHS = month_range("2019-11", "2020-10")
PRODUCTS = {
    "altimetry": {"granules": 12, "by release": {"006": 4, "007": 8}},
    "gravimetry": {"product": "jpl", "release": "RL06.3Mv04", "unit": "native"},
}
PROVENANCE = {
    "version": "0.1.0",
    "config": "abc",
    "code": "def",
    "citations": ["Smith 2020."],
    "inputs": ["a", "b"],
}


def _features():
    table = pd.DataFrame({"mascon_id": np.repeat([4, 7], 12), "month": np.tile(MONTHS, 2)})
    table["land_area_km2"] = 100.0
    month = np.tile(np.arange(12), 2)
    for name in ("target_change_cm", "target_cumulative_cm"):
        table[name] = 1.0
    # No solution in January and February, and in June; one mascon alone lacks April.
    gap = np.isin(month, (2, 3, 7))
    table.loc[gap | ((month == 5) & (table["mascon_id"] == 4)), "target_cumulative_cm"] = np.nan
    table.loc[gap | np.isin(month, (0, 4, 8)), "target_change_cm"] = np.nan
    table["dh_m"] = np.where(month < 5, np.nan, 0.5)
    table["latitude"] = 70.0
    table["dh_m_lag01"] = np.where(month < 6, np.nan, 0.5)
    table["dh_m_lag02"] = np.where(month < 7, np.nan, 0.5)
    return table


def _ledger():
    return pd.DataFrame(
        {
            "feature": ["dh_m", "dh_m_lag01", "dh_m_lag02"],
            "reason": ["no node was seen in the month (10)", "early 1", "early 2"],
            "n_null": [10, 12, 14],
        }
    )


def _card(features=None, **settings):
    features = _features() if features is None else features
    return describe_features(
        features, _ledger(), FeatureSettings(**settings), "greenland", PRODUCTS, PROVENANCE
    )


def test_the_card_counts_rows_nulls_and_gaps():
    card = _card()
    assert (card["rows"], card["mascons"], card["with_elevation_change"]) == (24, 2, 14)
    assert (card["first"], card["last"], card["step"]) == ("2019-11-01", "2020-10-01", "month")
    columns = {column["name"]: column for column in card["columns"]}
    assert list(columns) == list(_features())
    assert {name: column["null"] for name, column in columns.items() if column["null"]} == {
        "target_change_cm": 12,
        "target_cumulative_cm": 7,
        "dh_m": 10,
        "dh_m_lag01": 12,
        "dh_m_lag02": 14,
    }
    assert columns["dh_m"]["reason"] == "no node was seen in the month (10)"
    assert columns["target_change_cm"]["reason"].startswith(
        "no solution of gravimetry in the month"
    )
    assert columns["latitude"]["reason"] is None
    assert columns["dh_m"]["unit"] == columns["dh_m_lag02"]["unit"] == "m"
    assert columns["dh_m_lag02"]["formula"].endswith(", 2 months before")
    assert columns["month"]["type"] == "timestamp[us]"
    assert card["gaps"] == {
        "target_change_cm": [
            ["2019-11", "2019-11"],
            ["2020-01", "2020-03"],
            ["2020-06", "2020-07"],
        ],
        "target_cumulative_cm": [["2020-01", "2020-02"], ["2020-06", "2020-06"]],
    }
    assert json.loads(json.dumps(card)) == card


def test_the_gaps_of_seasons_are_spans_of_seasons():
    features = _features().iloc[:12:3].reset_index(drop=True)
    features["target_cumulative_cm"] = [np.nan, np.nan, 1.0, np.nan]
    card = _card(features, step="season")
    assert card["gaps"]["target_cumulative_cm"] == [["2019-11", "2020-02"], ["2020-08", "2020-08"]]
    assert "no solution of gravimetry in the season" in render_card(card)


def test_the_page_says_what_the_card_says():
    page = render_card(_card())
    for words in (
        "24 rows, one for each mascon and month: 2 mascons, 2019-11 to 2020-10",
        "14 rows have an elevation change",
        "| `dh_m` | feature | m | 10 | 41.7% | no node was seen in the month (10) |",
        "| `dh_m` | 2 | 12 to 14 |",
        "- `target_change_cm` is null in every mascon: 2019-11, 2020-01 to 2020-03, 2020-06 to",
        "- altimetry: granules 12; by release 006: 4, 007: 8",
        "- gravimetry: product jpl; release RL06.3Mv04; unit native",
        "- Smith 2020.",
        "- config: abc",
        "- 2 input files",
    ):
        assert words in page, words
    assert "`dh_m_lag01` |" not in page
    for engine in READERS:
        assert f"{engine}:" in page


def test_a_table_without_rows_has_a_card():
    card = _card(_features().iloc[:0])
    assert (card["rows"], card["first"]) == (0, None)
    assert "0 rows, one for each mascon and month: 0 mascons, no month." in render_card(card)


@pytest.mark.parametrize(
    ("column", "expected"), [("dh_m_lag07", ("dh_m", 7)), ("dh_m", ("dh_m", 0))]
)
def test_lags_are_told_from_their_feature(column, expected):
    assert split_lag(column) == expected
    assert feature_columns(pd.DataFrame({column: [1.0]})) == [column]
