"""The filter report against counts of single segments, which no ledger has seen."""

import weakref
from collections import defaultdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryofuse.atl06.ledger import ledger_row, ledger_table
from cryofuse.atl06.report import LEDGER_COLUMNS, report_filters
from cryofuse.tables import FILTER_REPORT, check, from_pandas

FILTERS = ["finite_height", "quality_summary", "height_sigma", "ice_mask"]
CUTS = ["outside_region", "incomplete", "duplicate_segment"]


def report(ledgers):
    """The report as it is stored, by period and step."""
    stored = check(from_pandas(report_filters(ledgers.items())), FILTER_REPORT)
    frame = pd.DataFrame(stored.to_pylist(), columns=list(FILTER_REPORT.columns), dtype=object)
    return frame.set_index(["period", "stage", "filter"], drop=False)


def test_every_number_of_a_small_ledger():
    rows = [
        # One beam in two is cut at the outline: all 150 rows were before it all the same.
        ledger_row("a.h5", "gt1l", "subset", "read", 100, 0),
        ledger_row("a.h5", "gt1l", "subset", "outside_region", 100, 30),
        ledger_row("a.h5", "gt1r", "subset", "no_beam", reason="the file has no such group"),
        ledger_row("b.h5", "gt1l", "subset", "read", 50, 0),
        ledger_row("c.h5", None, "acquire", "superseded", reason="a later release"),
        ledger_row("a.h5", "gt1l", "filter", "height_sigma", 70, 7, rows_alone=7),
        ledger_row("a.h5", "gt1l", "filter", "ice_mask", 63, 3, rows_alone=9),
        ledger_row(
            "b.h5", "gt1l", "filter", "height_sigma", 50, 0, rows_alone=0, reason="not_given"
        ),
        ledger_row("b.h5", "gt1l", "filter", "ice_mask", 50, 10, rows_alone=15),
    ]
    found = report({"2020": ledger_table(rows, "2020")})
    expected = {
        # granules, beams, not given, rows in, removed, alone, removed %, alone %, kept %
        ("acquire", "superseded"): (1, 0, 0, 0, 0, None, None, None, 100.0),
        ("subset", "no_beam"): (1, 1, 0, 0, 0, None, None, None, 100.0),
        ("subset", "read"): (2, 2, 0, 150, 0, None, 0.0, None, 100.0),
        ("subset", "outside_region"): (1, 1, 0, 150, 30, None, 20.0, None, 80.0),
        ("filter", "height_sigma"): (2, 2, 1, 120, 7, 7, 700 / 120, 700 / 120, 11300 / 150),
        ("filter", "ice_mask"): (2, 2, 0, 113, 13, 24, 1300 / 113, 20.0, 10000 / 150),
    }
    values = [
        c for c in FILTER_REPORT.columns if c not in ("period", "stage", "position", "filter")
    ]
    for period in ("2020", "all"):
        steps = found.loc[period]
        assert list(steps.index) == list(expected)
        assert steps["position"].tolist() == [1, 2, 3, 4, 5, 6]
        for step, numbers in expected.items():
            assert steps.loc[step, values].tolist() == pytest.approx(list(numbers)), step


EVENTS = {
    ("acquire", "superseded"): None,
    ("acquire", "unreadable"): None,
    ("subset", "unreadable"): "gt2l",
    ("subset", "name_mismatch"): None,
    ("subset", "no_beam"): "gt2l",
    ("subset", "no_segments"): "gt2r",
    ("subset", "read"): "gt1l",
    ("subset", "outside_region"): "gt1l",
    ("subset", "incomplete"): "gt1l",
    ("subset", "duplicate_segment"): "gt1l",
    ("subset", "all_fill"): "gt1l",
}


@pytest.mark.parametrize("seed", range(4))
def test_events_are_counted_and_stand_in_one_order_however_a_ledger_names_them(seed):
    steps = list(EVENTS)
    np.random.default_rng(seed).shuffle(steps)
    rows = [ledger_row(f"{step[1]}.h5", EVENTS[step], *step) for step in steps]
    found = report({"2020": ledger_table(rows + rows, "2020")}).loc["2020"]
    assert list(found.index) == list(EVENTS)
    # Each stands twice: two rows of one granule.
    assert (found["granules"] == 1).all()
    assert found["beams"].tolist() == [0 if beam is None else 2 for beam in EVENTS.values()]
    assert (found["rows_in"] == 0).all() and found["kept_percent"].isna().all()


def test_a_kind_of_event_that_is_new_comes_after_those_that_are_known():
    rows = [
        ledger_row("a.h5", "gt1l", "subset", "struck_by_lightning"),
        ledger_row("a.h5", "gt1l", "subset", "read", 5, 0),
        ledger_row("a.h5", "gt1l", "filter", "ice_mask", 5, 1, rows_alone=1),
    ]
    found = report({"2020": ledger_table(rows, "2020")}).loc["2020"]
    assert found["filter"].tolist() == ["read", "struck_by_lightning", "ice_mask"]


def test_a_period_without_a_granule_is_there_with_no_row_and_no_share():
    rows = [ledger_row("a.h5", "gt1l", "subset", "read", 5, 0)]
    found = report({"2020-02": ledger_table([], ""), "2020-01": ledger_table(rows, "2020-01")})
    assert found["period"].tolist() == ["2020-01", "2020-02", "all"]
    empty = found.loc["2020-02"].iloc[0]
    assert empty["filter"] == "read" and empty["rows_in"] == 0 and empty["granules"] == 0
    assert empty[["rows_alone", "removed_percent", "kept_percent"]].isna().all()
    assert found.loc["all"].iloc[0]["rows_in"] == 5


def test_all_periods_take_the_filters_in_order_of_first_appearance():
    def period(order, rows):
        left, listed = rows, [ledger_row("a.h5", "gt1l", "subset", "read", rows, 0)]
        for name in order:
            listed.append(ledger_row("a.h5", "gt1l", "filter", name, left, 10, rows_alone=20))
            left -= 10
        return listed

    orders = {"2019": ["ice_mask", "height_sigma"], "2020": ["height_sigma", "photon_count"]}
    ledgers = {
        name: ledger_table(period(order, 100 * n), name)
        for n, (name, order) in enumerate(orders.items(), 1)
    }
    found = report(ledgers)
    for name, order in orders.items():
        assert found.loc[name]["filter"].tolist() == ["read", *order]
    whole = found.loc["all"].set_index("filter")
    assert whole.index.tolist() == ["read", "ice_mask", "height_sigma", "photon_count"]
    # 100 and 200 rows: height σ ran second on 90 rows, then first on 200.
    assert whole["rows_in"].tolist() == [300, 100, 290, 190]
    assert whole["rows_removed"].tolist() == [0, 10, 20, 10]
    assert whole["kept_percent"].tolist() == pytest.approx(
        [100, 2900 / 3e1, 2700 / 3e1, 2600 / 3e1]
    )
    assert whole["alone_percent"].tolist()[1:] == pytest.approx([20 / 3, 40 / 3, 20 / 3])


def test_what_was_not_measured_is_null_and_not_a_part_of_a_sum():
    def period(*alone):
        rows = []
        for beam, would in zip(("gt1l", "gt1r"), alone, strict=True):
            rows.append(ledger_row("a.h5", beam, "subset", "read", 10, 0))
            rows.append(ledger_row("a.h5", beam, "filter", "ice_mask", 10, 1, rows_alone=would))
        return ledger_table(rows, "")

    found = report({"2019": period(4, 2), "2020": period(4, None), "2021": period(None, None)})
    steps = found.xs("ice_mask", level="filter")
    assert steps["rows_alone"].tolist() == [6, None, None, None]
    assert steps["alone_percent"].tolist() == [30.0, None, None, None]


@pytest.mark.parametrize("off", [-1, 1])
def test_a_filter_that_did_not_take_up_what_was_left_stops_the_report(off):
    rows = [
        ledger_row("a.h5", "gt1l", "subset", "read", 10, 0),
        ledger_row("a.h5", "gt1l", "subset", "outside_region", 10, 4),
        ledger_row("a.h5", "gt1l", "filter", "ice_mask", 6, 1, rows_alone=1),
        ledger_row("a.h5", "gt1l", "filter", "photon_count", 5 + off, 0, rows_alone=0),
    ]
    expected = rf"2020 does not add up: photon_count took up {5 + off} rows.* left 5$"
    with pytest.raises(ValueError, match=expected):
        report_filters([("2020", ledger_table(rows, "2020"))])


def test_ledgers_are_taken_one_after_the_other():
    alive = []

    def ledgers():
        for month in range(1, 13):
            held = sum(table() is not None for table in alive)
            # The one just summed may not be let go yet.
            assert held <= 1
            table = ledger_table([ledger_row("a.h5", "gt1l", "subset", "read", month, 0)], "")
            alive.append(weakref.ref(table))
            yield f"2020-{month:02d}", table
            del table

    assert report_filters(ledgers())["rows_in"].iloc[-1] == 78


def made_up(seed):
    """Segments of two periods with the steps that each fails, as ledgers and as counts.

    Each segment has a mark for every step that would remove it: the counts are of marks, the
    ledger is what a reader and filters would write about them.
    """
    rng = np.random.default_rng(seed)
    ledgers, truth = {}, {}
    for period in ("2019Q4", "2020Q1"):
        order = [str(name) for name in rng.permutation(FILTERS)][: rng.integers(0, 5)]
        granules, counts = [], defaultdict(lambda: [0, 0, 0, set(), set()])
        for number in range(rng.integers(0, 4)):
            granule, rows = f"{period}_{number}.h5", []
            for beam in ("gt1l", "gt1r", "gt3l"):
                size = int(rng.integers(0, 30))
                marks = {name: rng.random(size) < rng.random() / 2 for name in CUTS + FILTERS}
                alive = np.ones(size, bool)
                rows.append(ledger_row(granule, beam, "subset", "read", size, 0))
                for name in CUTS:
                    gone = alive & marks[name]
                    if gone.any():
                        n = int(alive.sum())
                        rows.append(ledger_row(granule, beam, "subset", name, n, int(gone.sum())))
                    counts[name][0] += int(alive.sum())
                    counts[name][1] += int(gone.sum())
                    alive &= ~gone
                inside = alive.copy()
                counts["read"][0] += size
                counts["entered"][0] += int(inside.sum())
                for name in order if inside.any() else ():
                    gone, alone = alive & marks[name], inside & marks[name]
                    numbers = int(alive.sum()), int(gone.sum())
                    row = ledger_row(
                        granule, beam, "filter", name, *numbers, rows_alone=int(alone.sum())
                    )
                    rows.append(row)
                    for place, value in enumerate((*numbers, int(alone.sum()))):
                        counts[name][place] += value
                    alive &= ~gone
                counts["kept"][0] += int(alive.sum())
            granules.append(rows)
        # As files: what was cut first, then what was filtered.
        both = [[r for r in rows if (r["stage"] == "filter") == late] for late in (False, True)
                for rows in granules]  # fmt: skip
        ledgers[period] = ledger_table([row for rows in both for row in rows], period)
        truth[period] = counts, order
    return ledgers, truth


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_any_ledger_adds_up_to_the_segments_that_were_counted(seed):
    ledgers, truth = made_up(seed)
    found = report(ledgers)
    for period, (counts, order) in truth.items():
        steps = found.loc[period].set_index("filter")
        ran = [name for name in order if counts[name][0] or counts[name][2]]
        filters = steps[steps["stage"] == "filter"]
        assert [name for name in filters.index if name in ran] == ran
        for name, step in steps.iterrows():
            if name == "read":
                assert step["rows_in"] == counts["read"][0]
                continue
            assert [step["rows_in"], step["rows_removed"]] == counts[name][:2], name
            if step["stage"] == "filter":
                assert step["rows_alone"] == counts[name][2]
                if counts["entered"][0]:
                    share = 100 * counts[name][2] / counts["entered"][0]
                    assert step["alone_percent"] == pytest.approx(share)
        removed = {name for name in CUTS if counts[name][1]}
        assert {name for name in CUTS if name in steps.index} == removed
        # What was read less what was removed is what was kept.
        assert steps["rows_in"]["read"] - steps["rows_removed"].sum() == counts["kept"][0]
        if counts["read"][0]:
            kept = 100 * counts["kept"][0] / counts["read"][0]
            assert steps["kept_percent"].iloc[-1] == pytest.approx(kept)
    whole = found.loc["all"].set_index("filter")
    kept = sum(counts["kept"][0] for counts, _ in truth.values())
    assert whole["rows_in"]["read"] - whole["rows_removed"].sum() == kept
    for name in whole.index.intersection(FILTERS):
        for place, column in enumerate(("rows_in", "rows_removed", "rows_alone")):
            assert whole[column][name] == sum(c[name][place] for c, _ in truth.values())


def test_neither_the_order_of_ledgers_nor_their_chunks_matter():
    ledgers, _ = made_up(3)
    assert all(table.num_rows > 30 for table in ledgers.values())
    straight = report_filters(ledgers.items())
    pieces = {
        name: pa.concat_tables([table.slice(i, 1) for i in range(table.num_rows)])
        for name, table in reversed(ledgers.items())
    }
    chosen = ((name, table.select(LEDGER_COLUMNS)) for name, table in pieces.items())
    pd.testing.assert_frame_equal(report_filters(chosen), straight)
