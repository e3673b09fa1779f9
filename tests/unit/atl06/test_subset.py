"""A period's granules: order, fallbacks, and the share of unreadable ones."""

import numpy as np
import pyarrow as pa
import pytest
import shapely

from cryofuse.acquire.local import list_local
from cryofuse.acquire.manifest import GranuleFile, build_manifest
from cryofuse.atl06.granule import Area
from cryofuse.atl06.ledger import ledger_table
from cryofuse.atl06.subset import cut_granules
from cryofuse.calendar import period_bounds
from cryofuse.logs import UserError
from cryofuse.tables import LEDGER, check

AREA = Area(shapely.box(-3e6, -3e6, 3e6, 0), "EPSG:3413", 1e5)
YEAR = period_bounds("2020")


def cut(manifest, share=1.0):
    tables, ledger = [], []
    for table, rows in cut_granules(manifest, AREA, share):
        tables.append(table)
        ledger += rows
    return pa.concat_tables(tables) if tables else None, ledger


def test_granules_come_by_name_whatever_the_manifest_says(write_granule, beam, tmp_path):
    for second in (5, 3, 4):
        write_granule({"gt1l": beam(3)}, name=f"ATL06_2020010203040{second}_01230603_006_02.h5")
    manifest = list_local(tmp_path, *YEAR)
    straight = cut(manifest)
    turned = cut(manifest.take([2, 0, 1]))
    assert straight[0].to_pylist() == turned[0].to_pylist() and straight[1] == turned[1]
    assert straight[0]["granule"].to_pylist() == sorted(straight[0]["granule"].to_pylist())


def test_rows_are_sorted_by_segment(write_granule, beam, tmp_path):
    rows = {name: values[::-1] for name, values in beam(5).items()}
    write_granule({"gt1r": rows, "gt1l": beam(5)})
    table, _ = cut(list_local(tmp_path, *YEAR))
    assert table["segment_id"].to_pylist() == [600_000 + i for i in range(5)] * 2
    assert table["beam"].to_pylist() == ["gt1l"] * 5 + ["gt1r"] * 5
    assert np.allclose(table["height_m"].to_numpy()[:5], table["height_m"].to_numpy()[5:])


def test_the_latest_release_counts_and_the_other_is_named(write_granule, beam, tmp_path):
    write_granule({"gt1l": beam(3)}, name="ATL06_20200102030405_01230603_005_01.h5")
    write_granule({"gt1l": beam(4)}, name="ATL06_20200102030405_01230603_006_01.h5")
    table, ledger = cut(list_local(tmp_path, *YEAR))
    assert table.num_rows == 4
    old = [row for row in ledger if row["filter"] == "superseded"]
    assert [row["granule"] for row in old] == ["ATL06_20200102030405_01230603_005_01.h5"]
    assert old[0]["stage"] == "acquire" and "006" in old[0]["reason"]


def test_an_older_release_steps_in_for_a_broken_file(write_granule, beam, tmp_path):
    write_granule({"gt1l": beam(3)}, name="ATL06_20200102030405_01230603_005_01.h5")
    write_granule({"gt1l": beam(4)}, name="ATL06_20200102030405_01230603_004_01.h5")
    (tmp_path / "ATL06_20200102030405_01230603_006_01.h5").write_bytes(b"")
    table, ledger = cut(list_local(tmp_path, *YEAR), share=0.0)
    assert table.num_rows == 3
    assert [row["granule"][-9:] for row in ledger if row["filter"] == "unreadable"] == ["006_01.h5"]
    old = [row["granule"][-9:] for row in ledger if row["filter"] == "superseded"]
    assert old == ["004_01.h5"]


def test_too_many_unreadable_granules_stop_the_run(write_granule, beam, tmp_path):
    write_granule({"gt1l": beam(3)}, name="ATL06_20200102030405_01230603_006_01.h5")
    (tmp_path / "ATL06_20200102030406_01230603_006_01.h5").write_bytes(b"<html>")
    manifest = list_local(tmp_path, *YEAR)
    table, ledger = cut(manifest, share=0.5)
    assert table.num_rows == 3
    assert check(ledger_table(ledger, "2020"), LEDGER).num_rows == len(ledger)
    with pytest.raises(UserError, match=r"1 of 2 .*20200102030406.*HTML") as caught:
        cut(manifest, share=0.4)
    assert "\n" not in str(caught.value)


def test_a_granule_that_was_not_fetched_is_unreadable(tmp_path):
    name = "ATL06_20200102030405_01230603_006_01.h5"
    manifest = build_manifest([GranuleFile(str(tmp_path / name), None, "not fetched: 404")], *YEAR)
    _, ledger = cut(manifest)
    assert [(row["stage"], row["filter"], row["reason"]) for row in ledger] == [
        ("acquire", "unreadable", "not fetched: 404")
    ]


def test_a_granule_elsewhere_has_a_row_for_each_beam(write_granule, beam, tmp_path):
    far = beam(7, latitude=np.full(7, -75.0))
    write_granule({"gt1l": far, "gt2l": far})
    table, ledger = cut(list_local(tmp_path, *YEAR))
    assert table.num_rows == 0
    out = [(r["beam"], r["rows_removed"]) for r in ledger if r["filter"] == "outside_region"]
    assert out == [("gt1l", 7), ("gt2l", 7)]


def test_an_empty_manifest_gives_nothing():
    assert cut(build_manifest([], *YEAR), share=0.0) == (None, [])
    assert ledger_table([], "2020").num_rows == 0
