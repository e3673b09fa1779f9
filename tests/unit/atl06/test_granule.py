import h5py
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from cryofuse.atl06 import granule
from cryofuse.atl06.granule import BEAMS, Area, read_granule
from cryofuse.tables import SEGMENTS, check

FILL = np.float32(3.4028235e38)


def removed(ledger):
    return sum(row["rows_in"] for row in ledger if row["filter"] == "read") - sum(
        row["rows_removed"] for row in ledger
    )


def kinds(ledger):
    return [(row["beam"], row["filter"]) for row in ledger]


def polar_stereographic(longitude, latitude, south=False):
    """Ellipsoidal polar stereographic: Snyder 1987, equations 15-9 and 21-30 on.

    True at 70°N with 45°W down (EPSG:3413), or at 71°S with 0°E up (EPSG:3031).
    """
    parallel, meridian, sign = (71.0, 0.0, -1) if south else (70.0, -45.0, 1)
    a, e = 6378137.0, 0.08181919084262149

    def conformal(phi):
        sine = e * np.sin(phi)
        return np.tan(np.pi / 4 - phi / 2) / ((1 - sine) / (1 + sine)) ** (e / 2)

    phi, true = np.radians(sign * np.asarray(latitude)), np.radians(parallel)
    scale = np.cos(true) / np.sqrt(1 - (e * np.sin(true)) ** 2)
    rho = a * scale * conformal(phi) / conformal(true)
    theta = np.radians(np.asarray(longitude) - meridian)
    return rho * np.sin(theta), -sign * rho * np.cos(theta)


def test_every_column_comes_as_the_contract_says(write_granule, beam):
    path = write_granule({name: beam() for name in BEAMS})
    table, ledger = read_granule(path)
    assert check(table, SEGMENTS).num_rows == 30
    assert [row["rows_in"] for row in ledger] == [5] * 6
    frame = table.to_pandas()
    assert list(frame["beam"].unique()) == list(BEAMS)
    assert set(frame["granule"]) == {path.name}
    assert set(frame["rgt"]) == {123} and set(frame["cycle"]) == {6}
    x_m, y_m = polar_stereographic(frame["longitude"], frame["latitude"])
    assert np.allclose(frame["x_m"], x_m, atol=1e-3) and np.allclose(frame["y_m"], y_m, atol=1e-3)
    assert set(frame["tile"]) == {f"x{int(x_m[0] // 1e5)}_y{int(y_m[0] // 1e5)}"}
    # 63 160 000.25 s are 731 days and 1600.25 s: 2020-01-02 00:26:40.25.
    assert frame["time"].iloc[0] == np.datetime64("2020-01-02T00:26:40.250000")
    assert np.allclose(frame["height_m"][:5], [2000, 2000.1, 2000.2, 2000.3, 2000.4], atol=1e-3)


def test_only_the_columns_asked_for(write_granule, beam):
    path = write_granule({"gt1l": beam(3)})
    table, _ = read_granule(path, columns=["height_m", "x_m", "beam"])
    assert table.column_names == ["x_m", "height_m", "beam"] and table.num_rows == 3
    with pytest.raises(ValueError, match="speed"):
        read_granule(path, columns=["speed"])


def test_absent_beams_and_groups_leave_the_good_ones(write_granule, beam):
    empty = {name: values[:0] for name, values in beam().items()}
    path = write_granule({"gt1l": None, "gt2l": beam(4), "gt3r": empty})
    table, ledger = read_granule(path)
    assert table.num_rows == 4
    assert kinds(ledger) == [
        ("gt1l", "no_segments"),
        ("gt1r", "no_beam"),
        ("gt2l", "read"),
        ("gt2r", "no_beam"),
        ("gt3l", "no_beam"),
        ("gt3r", "no_segments"),
    ]


@pytest.mark.parametrize("fill_shape", [(), (1,)])
def test_fill_is_null_whatever_the_shape_of_its_attribute(write_granule, beam, fill_shape):
    path = write_granule(
        {
            "gt1l": beam(
                3,
                **{
                    "h_li": [FILL, 10.0, np.nan],
                    "h_li_sigma": [FILL, FILL, 1.0],
                    "geophysical/bsnow_conf": [127, -1, 127],
                    "fit_statistics/n_fit_photons": [2147483647, 7, 8],
                },
            )
        },
        fill_shape=fill_shape,
    )
    frame = read_granule(path)[0].to_pandas()
    assert frame["height_m"].isna().tolist() == [True, False, True]
    assert frame["height_sigma_m"].isna().tolist() == [True, True, False]
    assert frame["blowing_snow"].isna().tolist() == [True, False, True]
    assert frame["photon_count"].isna().tolist() == [True, False, False]


def test_a_fill_value_of_its_own_is_honoured(write_granule, beam):
    path = write_granule({"gt1l": beam(3, **{"h_li": [-9999.0, 10.0, 11.0]})})
    with h5py.File(path, "a") as file:
        file["gt1l/land_ice_segments/h_li"].attrs["_FillValue"] = np.float32(-9999)
    assert read_granule(path)[0]["height_m"].to_pylist()[0] is None


def test_missing_optional_datasets_are_null_columns(write_granule, beam):
    lacking = beam(
        4, **{"geophysical/r_eff": None, "dem/dem_h": None, "atl06_quality_summary": None}
    )
    path = write_granule({"gt1l": beam(4), "gt1r": lacking}, orbit=None)
    frame = read_granule(path)[0].to_pandas().set_index("beam")
    for column in ("effective_reflectance", "dem_m", "quality_summary"):
        assert frame.loc["gt1r", column].isna().all()
        assert frame.loc["gt1l", column].notna().all()
    assert set(frame["rgt"]) == {123}


def test_a_beam_of_fill_is_said_to_be_one(write_granule, beam):
    path = write_granule({"gt1l": beam(3, **{"h_li": [FILL] * 3}), "gt1r": beam(3)})
    table, ledger = read_granule(path)
    assert table.num_rows == 6
    assert [row["beam"] for row in ledger if row["filter"] == "all_fill"] == ["gt1l"]
    assert removed(ledger) == 6


def test_a_broken_beam_does_not_cost_the_others(write_granule, beam):
    path = write_granule(
        {
            "gt1l": beam(5, **{"h_li": np.zeros(4)}),
            "gt1r": beam(5, **{"delta_time": None}),
            "gt2l": beam(5),
        }
    )
    table, ledger = read_granule(path)
    assert set(table["beam"].to_pylist()) == {"gt2l"}
    reasons = {row["beam"]: row["reason"] for row in ledger if row["filter"] == "unreadable"}
    assert set(reasons) == {"gt1l", "gt1r"}
    assert "h_li" in reasons["gt1l"] and "delta_time" in reasons["gt1r"]
    assert removed(ledger) == table.num_rows == 5


def test_a_damaged_chunk_costs_its_beam_alone(write_granule, beam):
    path = write_granule({"gt1l": beam(50), "gt1r": beam(50)})
    with h5py.File(path) as file:
        chunk = file["gt1l/land_ice_segments/h_li"].id.get_chunk_info(0)
    with open(path, "r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(b"\xff" * chunk.size)
    table, ledger = read_granule(path)
    assert set(table["beam"].to_pylist()) == {"gt1r"}
    assert ("gt1l", "unreadable") in kinds(ledger)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html>Earthdata Login</html>", "HTML"),
        (b"\n <html>", "HTML"),
        (b"CDF\x01 something else", "not HDF5"),
        (b"\x89HDF\r\n\x1a\n", ""),
    ],
)
def test_no_hdf5_is_one_line_in_the_ledger(tmp_path, content, reason):
    path = tmp_path / "ATL06_20200102030405_01230603_006_02.h5"
    path.write_bytes(content)
    table, ledger = read_granule(path)
    assert table.num_rows == 0 and table.schema.names == list(SEGMENTS.columns)
    assert kinds(ledger) == [(None, "unreadable")]
    assert reason in ledger[0]["reason"] and "\n" not in ledger[0]["reason"]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_a_truncated_file_is_one_line_in_the_ledger(write_granule, beam, share):
    path = write_granule({name: beam(200) for name in BEAMS})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    table, ledger = read_granule(path)
    assert table.num_rows == 0 and kinds(ledger) == [(None, "unreadable")]
    assert "truncated" in ledger[0]["reason"]


def test_a_missing_file_is_one_line_in_the_ledger(tmp_path):
    _, ledger = read_granule(tmp_path / "ATL06_20200102030405_01230603_006_02.h5")
    assert kinds(ledger) == [(None, "unreadable")]


def test_name_and_content_are_compared(write_granule, beam):
    path = write_granule({"gt1l": beam()}, orbit=(124, 6))
    table, ledger = read_granule(path)
    assert set(table["rgt"].to_pylist()) == {123}
    assert ledger[0]["filter"] == "name_mismatch"
    assert ledger[0]["reason"] == "rgt 124 in the file, 123 in its name"


def test_a_strange_name_takes_the_track_from_the_content(write_granule, beam):
    table, ledger = read_granule(write_granule({"gt1l": beam()}, name="mine.h5", orbit=(77, 9)))
    assert set(table["rgt"].to_pylist()) == {77} and set(table["cycle"].to_pylist()) == {9}
    assert ledger[0]["filter"] == "name_mismatch"
    _, ledger = read_granule(write_granule({"gt1l": beam()}, name="other.h5", orbit=None))
    assert kinds(ledger) == [(None, "unreadable")]


def test_rows_without_position_time_or_number_go(write_granule, beam):
    rows = beam(8)
    rows["latitude"][0] = np.nan
    rows["latitude"][1] = 91
    rows["longitude"][2] = 1.797e308
    rows["delta_time"][3] = 1.797e308
    rows["segment_id"][4] = 2147483647
    rows["delta_time"][5] = 1e20
    table, ledger = read_granule(write_granule({"gt1l": rows}))
    assert table["segment_id"].to_pylist() == [600_006, 600_007]
    gone = [row for row in ledger if row["filter"] == "incomplete"]
    assert [(row["rows_in"], row["rows_removed"]) for row in gone] == [(8, 6)]


def test_unsorted_times_stay_with_their_rows(write_granule, beam):
    rows = beam(4)
    rows["delta_time"] = rows["delta_time"][[2, 0, 3, 1]]
    time = read_granule(write_granule({"gt1l": rows}))[0]["time"].to_numpy()
    assert np.argsort(time).tolist() == [1, 3, 0, 2]


def test_of_a_repeated_segment_the_row_with_a_height_stays(write_granule, beam):
    rows = beam(5, **{"h_li": [1.0, FILL, 3.0, 4.0, 5.0]})
    rows["segment_id"] = np.array([10, 11, 11, 12, 10], "i4")
    path = write_granule({"gt1l": rows})
    table, ledger = read_granule(path)
    assert table["height_m"].to_pylist() == [1.0, 3.0, 4.0]
    assert [row["rows_removed"] for row in ledger if row["filter"] == "duplicate_segment"] == [2]
    # The rows do not depend on the columns asked for.
    assert read_granule(path, ["latitude"])[0].num_rows == 3


def test_a_region_keeps_what_lies_inside(write_granule, beam):
    rows = beam(100)
    path = write_granule({"gt1l": rows, "gt2l": beam(4, latitude=np.full(4, 10.0))})
    x_m, y_m = polar_stereographic(rows["longitude"], rows["latitude"])
    middle, half = float(y_m[50]), 200.0
    square = shapely.box(x_m.min() - 1e3, middle - half, x_m.max() + 1e3, middle + half)
    table, ledger = read_granule(path, region=Area(square, "EPSG:3413", 1000.0))
    inside = np.abs(y_m - middle) < half
    assert 0 < inside.sum() < 100
    assert table["segment_id"].to_pylist() == rows["segment_id"][inside].tolist()
    # The rows read begin in the middle of the file.
    assert np.allclose(table["height_m"], rows["h_li"][inside])
    out = {r["beam"]: r["rows_removed"] for r in ledger if r["filter"] == "outside_region"}
    assert out == {"gt1l": 100 - inside.sum(), "gt2l": 4}
    assert set(table["tile"].to_pylist()) == {
        f"x{int(x // 1000)}_y{int(y // 1000)}"
        for x, y in zip(x_m[inside], y_m[inside], strict=True)
    }


def test_holes_inside_the_range_of_rows_are_left_out(write_granule, beam):
    rows = beam(6, latitude=[72.0, 10.0, 72.001, 72.002, np.nan, 72.003])
    square = shapely.box(-3e6, -3e6, 3e6, 0)
    table, ledger = read_granule(
        write_granule({"gt1l": rows}), region=Area(square, "EPSG:3413", 1e5)
    )
    assert table["segment_id"].to_pylist() == [600_000, 600_002, 600_003, 600_005]
    assert removed(ledger) == 4


def test_a_region_over_the_antimeridian_and_the_pole(write_granule, beam):
    rows = beam(
        8,
        latitude=[88.0, 88.0, 88.0, 88.0, 89.9999, 90.0, 60.0, 86.0],
        longitude=[179.99, -179.99, 180.0, -180.0, 10.0, 0.0, 180.0, 359.5],
    )
    disc = shapely.Point(0, 0).buffer(500_000)
    table, ledger = read_granule(write_granule({"gt1l": rows}), region=Area(disc, "EPSG:3413", 1e5))
    assert table["segment_id"].to_pylist() == [600_000 + i for i in (0, 1, 2, 3, 4, 5, 7)]
    assert removed(ledger) == 7
    x_m = table["x_m"].to_numpy()
    assert np.allclose(x_m[2], x_m[3], atol=1e-3)
    assert np.allclose([x_m[5], table["y_m"].to_numpy()[5]], 0, atol=1e-3)


def test_the_southern_pole_and_both_hemispheres(write_granule, beam):
    path = write_granule({"gt1l": beam(3, latitude=[-90.0, -80.0, 80.0], longitude=[0, 0, -45.0])})
    disc = shapely.Point(0, 0).buffer(2_000_000)
    inside, _ = read_granule(path, region=Area(disc, "EPSG:3031", 1e5))
    assert inside["segment_id"].to_pylist() == [600_000, 600_001]
    everything = read_granule(path)[0].to_pandas()
    assert np.allclose(everything["x_m"], [0, 0, 0], atol=1e-3)
    # 0°E points up in the south; 45°W points down in the north.
    assert everything["y_m"][1] > 1e6 and everything["y_m"][2] < -1e6


def test_latitudes_of_an_area_reach_the_pole_only_where_it_is_inside():
    disc = Area(shapely.Point(0, 0).buffer(1e6), "EPSG:3413", 1e5)
    assert disc.latitudes[1] == 90.0 and 80 < disc.latitudes[0] < 82
    beside = Area(shapely.box(2e6, 0, 2.1e6, 1e5), "EPSG:3413", 1e5)
    south, north = beside.latitudes
    # A scale of about 0.97–1.0 puts 2 000 km from the pole near 71.6°N.
    assert 70 < south < north < 72


# ---------------------------------------------------------------- several chunks

CHUNK = 20


@pytest.fixture
def track_path(tmp_path):
    return tmp_path / "ATL06_20200102030405_01230603_006_02.h5"


def orbit(start, stop, rows):
    """Latitudes and longitudes between two arguments of an orbit inclined by 92° (degrees)."""
    argument, tilt = np.radians(np.linspace(start, stop, rows)), np.radians(92)
    latitude = np.degrees(np.arcsin(np.sin(tilt) * np.sin(argument)))
    longitude = np.degrees(np.arctan2(np.cos(tilt) * np.sin(argument), np.cos(argument)))
    return latitude, longitude


def write_track(path, latitude, longitude, order=None, chunk=CHUNK, beams=("gt1l",), **change):
    """Write a track in chunks, its rows in an order; segment numbers and heights are its own."""
    rows = latitude.size
    datasets = {
        "latitude": latitude,
        "longitude": longitude,
        "delta_time": 6.3e7 + np.arange(rows) * 0.28,
        "segment_id": np.arange(rows, dtype="i4"),
        "h_li": np.arange(rows, dtype="f4"),
    }
    with h5py.File(path, "w") as file:
        for beam in beams:
            for name, values in datasets.items():
                file.create_dataset(
                    f"{beam}/land_ice_segments/{name}",
                    data=change.get(name, values)[slice(None) if order is None else order],
                    chunks=(chunk,),
                    maxshape=(None,),
                    compression=6,
                    shuffle=name in ("segment_id", change.get("shuffled")),
                )


def damage(path, place, numbers):
    """Spoil the checksums of chunks; their first values can still be told."""
    with h5py.File(path) as file:
        chunks = [file[place].id.get_chunk_info_by_coord((n * CHUNK,)) for n in numbers]
    with open(path, "r+b") as stream:
        for chunk in chunks:
            stream.seek(chunk.byte_offset + chunk.size - 4)
            checksum = stream.read(4)
            stream.seek(-4, 1)
            stream.write(bytes(255 - byte for byte in checksum))


def ring(half, hole=0.0, south=False):
    """Return a square around a pole (m) with a square hole, as an area."""
    polygon = shapely.box(-half, -half, half, half)
    if hole:
        polygon = polygon.difference(shapely.box(-hole, -hole, hole, hole))
    return Area(polygon, "EPSG:3031" if south else "EPSG:3413", 1e5)


def rows_in_ring(latitude, longitude, half, hole=0.0, south=False):
    x_m, y_m = polar_stereographic(longitude, latitude, south)
    far = np.maximum(np.abs(x_m), np.abs(y_m))
    return np.flatnonzero((far < half) & (far > hole))


ORDERS = {
    "in order": np.arange(610),
    "reversed": np.arange(610)[::-1],
    "rolled": np.roll(np.arange(610), 267),
    "rolled by half a chunk": np.roll(np.arange(610), CHUNK // 2),
    "rolled within the last chunk": np.roll(np.arange(610), -3),
    "rolled within the first chunk": np.roll(np.arange(610), 3),
    "shuffled": np.random.default_rng(5).permutation(610),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("south", [False, True])
@pytest.mark.parametrize(("half", "hole"), [(1.5e6, 0.0), (1.8e6, 9e5), (2.5e5, 0.0), (5e6, 3e6)])
@pytest.mark.parametrize("span", [(50, 130), (20, 91), (89, 150)])
def test_rows_of_a_region_whatever_their_order(track_path, order, south, half, hole, span):
    turn = 180 if south else 0
    latitude, longitude = orbit(span[0] + turn, span[1] + turn, 610)
    write_track(track_path, latitude, longitude, ORDERS[order])
    table, ledger = read_granule(track_path, region=ring(half, hole, south))
    inside = rows_in_ring(latitude, longitude, half, hole, south)
    expected = [row for row in ORDERS[order] if row in inside]
    assert table["segment_id"].to_pylist() == expected and len(expected) > 3
    assert table["height_m"].to_pylist() == expected
    assert np.array_equal(table["latitude"], latitude[expected])
    outside = [row["rows_removed"] for row in ledger if row["filter"] == "outside_region"]
    assert outside == [610 - len(expected)] and removed(ledger) == len(expected)


@given(
    start=st.floats(0, 360),
    length=st.floats(1, 120),
    rows=st.integers(1, 300),
    chunk=st.integers(1, 60),
    lost=st.floats(0, 0.9),
    half=st.floats(1e5, 6e6),
    shift=st.one_of(st.just(0), st.integers(-300, 300)),
)
def test_rows_of_a_region_along_any_orbit(
    tmp_path_factory, start, length, rows, chunk, lost, half, shift
):
    path = tmp_path_factory.getbasetemp() / "ATL06_20200102030405_01230603_006_02.h5"
    seen = np.random.default_rng(rows).random(rows) >= lost
    seen[0] = True
    latitude, longitude = (values[seen] for values in orbit(start, start + length, rows))
    order = np.roll(np.arange(latitude.size), shift)
    write_track(path, latitude, longitude, order, chunk)
    for south in (False, True):
        table, _ = read_granule(path, ["segment_id"], ring(half, south=south))
        inside = rows_in_ring(latitude, longitude, half, south=south)
        assert table["segment_id"].to_pylist() == order[np.isin(order, inside)].tolist()


def test_only_chunks_that_the_region_needs_are_read(track_path):
    latitude, longitude = orbit(50, 130, 610)
    write_track(track_path, latitude, longitude)
    inside = rows_in_ring(latitude, longitude, 1.8e6, 9e5)
    # In, out over the pole, in again, with the turn between.
    used = np.unique(inside // CHUNK)
    idle = np.setdiff1d(np.arange(31), used)
    between = idle[(idle > used[0]) & (idle < used[-1])]
    assert between.size > 3 and inside[0] > 3 * CHUNK and inside[-1] < 607 - 3 * CHUNK
    for place in ("longitude", "delta_time", "segment_id", "h_li"):
        damage(track_path, f"gt1l/land_ice_segments/{place}", between[1:-1])
    damage(track_path, "gt1l/land_ice_segments/latitude", [1, 2, *between[1:-1], 28, 29])
    area = ring(1.8e6, 9e5)
    table, ledger = read_granule(track_path, region=area)
    assert table["segment_id"].to_pylist() == inside.tolist() and removed(ledger) == inside.size
    # Without a region the same damage is an error.
    assert ("gt1l", "unreadable") in kinds(read_granule(track_path)[1])


@pytest.mark.parametrize("place", ["latitude", "longitude", "delta_time", "segment_id", "h_li"])
def test_a_damaged_chunk_that_is_needed_costs_its_beam_alone(track_path, place):
    latitude, longitude = orbit(50, 130, 610)
    write_track(track_path, latitude, longitude, beams=("gt1l", "gt3r"))
    inside = rows_in_ring(latitude, longitude, 1.8e6, 9e5)
    damage(track_path, f"gt1l/land_ice_segments/{place}", [inside[-1] // CHUNK])
    table, ledger = read_granule(track_path, region=ring(1.8e6, 9e5))
    assert set(table["beam"].to_pylist()) == {"gt3r"}
    assert table["segment_id"].to_pylist() == inside.tolist() and removed(ledger) == inside.size
    assert [row["beam"] for row in ledger if row["filter"] == "unreadable"] == ["gt1l"]


def hide_rows(latitude, longitude, inside):
    """Give rows in the middle of a chunk far off, where no bracket shows them, a place inside."""
    for values in (latitude, longitude):
        values[105:110] = values[inside[:5]]


def move(values, rows, by):
    values[rows] += by


#: What shows that rows follow no orbit, in the first values or in the chunks always read.
STRAY = {
    "a time": lambda latitude, time: move(time, 200, -300),
    "every time": lambda latitude, time: move(time, slice(None), -np.arange(1220.0)[::2]),
    "two turns": lambda latitude, time: move(latitude, slice(400, 440), 5),
    "a latitude beyond the pole": lambda latitude, time: move(latitude, 300, 20),
    "a latitude that is none": lambda latitude, time: move(latitude, 440, np.nan),
    "a row of the first chunk": lambda latitude, time: move(latitude, 15, -10),
    "a row of the last chunk": lambda latitude, time: move(latitude, 605, 10),
    "a row that is none": lambda latitude, time: move(latitude, 15, np.nan),
}


@pytest.mark.parametrize("what", STRAY)
def test_all_latitudes_are_read_where_rows_follow_no_orbit(track_path, what):
    latitude, longitude = orbit(50, 130, 610)
    time = 6.3e7 + np.arange(610.0)
    inside = rows_in_ring(latitude, longitude, 2.5e5)
    hide_rows(latitude, longitude, inside)
    write_track(track_path, latitude, longitude, delta_time=time)
    area = ring(2.5e5)
    unseen, _ = read_granule(track_path, ["segment_id"], area)
    assert unseen["segment_id"].to_pylist() == inside.tolist()
    STRAY[what](latitude, time)
    write_track(track_path, latitude, longitude, delta_time=time)
    inside = inside[np.abs(latitude[inside]) <= 90]
    table, ledger = read_granule(track_path, ["segment_id"], area)
    assert table["segment_id"].to_pylist() == [*range(105, 110), *inside]
    assert removed(ledger) == 5 + inside.size


def test_the_turn_wherever_it_lies_in_a_chunk(track_path):
    for south in (False, True):
        for shift in range(2 * CHUNK):
            # 0.15° apart along the orbit: the latitude falls by a degree within a chunk.
            argument = 90 + 180 * south + (np.arange(2 * CHUNK * 4) - 3 * CHUNK - shift) * 0.15
            latitude, longitude = orbit(argument[0], argument[-1], argument.size)
            write_track(track_path, latitude, longitude)
            top = np.argmax(np.abs(latitude))
            x_m, y_m = polar_stereographic(longitude, latitude, south)
            near = np.flatnonzero(np.hypot(x_m - x_m[top], y_m - y_m[top]) < 3e4)
            disc = shapely.Point(x_m[top], y_m[top]).buffer(3e4)
            area = Area(disc, "EPSG:3031" if south else "EPSG:3413", 1e5)
            table, _ = read_granule(track_path, ["segment_id"], area)
            assert table["segment_id"].to_pylist() == near.tolist() and near.size > 2


@pytest.mark.parametrize("shuffled", ["latitude", "delta_time"])
def test_chunks_whose_first_values_are_not_cheap(track_path, shuffled):
    latitude, longitude = orbit(50, 130, 610)
    write_track(track_path, latitude, longitude, shuffled=shuffled)
    table, _ = read_granule(track_path, ["segment_id"], ring(5e5))
    assert table["segment_id"].to_pylist() == rows_in_ring(latitude, longitude, 5e5).tolist()


@pytest.mark.parametrize("unknown", [np.nan, 3.4e38, 91.0])
def test_a_first_latitude_that_is_none_makes_all_count(track_path, unknown):
    latitude, longitude = orbit(50, 130, 610)
    inside = rows_in_ring(latitude, longitude, 5e5)
    latitude[[40, 45, inside[3]]] = unknown
    write_track(track_path, latitude, longitude)
    table, ledger = read_granule(track_path, ["segment_id"], ring(5e5))
    assert table["segment_id"].to_pylist() == np.delete(inside, 3).tolist()
    gone = {r["filter"]: (r["rows_in"], r["rows_removed"]) for r in ledger if r["rows_removed"]}
    outside = 610 - inside.size - 2
    assert gone == {"outside_region": (610, outside), "incomplete": (610 - outside, 3)}


def test_many_chunks_with_everything_that_goes_wrong(track_path):
    latitude, longitude = orbit(50, 130, 610)
    longitude[::3] += 360 * (longitude[::3] < 0)
    longitude[[17, 333]] = 180.0, -180.0
    height = np.arange(610, dtype="f4")
    height[[5, 100, 101, 300]] = FILL, FILL, np.nan, FILL
    number = np.arange(610, dtype="i4")
    number[[301, 500]] = 300, 2147483647
    time = 6.3e7 + np.arange(610.0)
    time[200:240] = time[200:240][::-1].copy()
    time[400] = 1.797e308
    write_track(
        track_path,
        latitude,
        longitude,
        h_li=height,
        segment_id=number,
        delta_time=time,
        beams=("gt1l", "gt2r"),
    )
    with h5py.File(track_path, "a") as file:
        file.create_group("gt1r")
        file["gt2r/land_ice_segments/h_li"][:] = FILL
    # Of the two rows numbered 300 the second has a height in the first beam.
    good = {"gt1l": np.delete(np.arange(610), [300, 400, 500])}
    good["gt2r"] = np.delete(np.arange(610), [301, 400, 500])
    for area, inside in (
        (None, np.arange(610)),
        (ring(3e6), rows_in_ring(latitude, longitude, 3e6)),
    ):
        table, ledger = read_granule(track_path, region=area)
        frame = table.to_pandas().set_index("beam")
        for beam, rows in good.items():
            rows = rows[np.isin(rows, inside)]
            found = frame.loc[beam]
            assert found["segment_id"].tolist() == number[rows].tolist()
            assert np.array_equal(found["longitude"], longitude[rows])
            seconds = (found["time"] - np.datetime64("2018-01-01")).dt.total_seconds()
            assert np.array_equal(seconds, time[rows])
        heights = frame.loc["gt1l"]["height_m"].to_numpy()
        rows = good["gt1l"][np.isin(good["gt1l"], inside)]
        assert np.array_equal(np.isnan(heights), np.isin(rows, [5, 100, 101]))
        assert np.array_equal(heights[~np.isnan(heights)], np.setdiff1d(rows, [5, 100, 101]))
        assert frame.loc["gt2r"]["height_m"].isna().all()
        assert [r["beam"] for r in ledger if r["filter"] == "all_fill"] == ["gt2r"]
        assert ("gt1r", "no_segments") in kinds(ledger)
        lost = [row["rows_removed"] for row in ledger if row["filter"] == "duplicate_segment"]
        assert lost == [1, 1] and removed(ledger) == table.num_rows


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_truncated_file_of_many_chunks(track_path, share):
    write_track(track_path, *orbit(50, 130, 610))
    content = track_path.read_bytes()
    track_path.write_bytes(content[: int(len(content) * share)])
    table, ledger = read_granule(track_path, region=ring(1e6))
    assert table.num_rows == 0 and kinds(ledger) == [(None, "unreadable")]


def test_positions_are_projected_only_for_columns_that_need_it(write_granule, beam, monkeypatch):
    path = write_granule({"gt1l": beam(5), "gt3l": beam(5)})
    expected, _ = read_granule(path)

    def refuse(*_):
        raise AssertionError("projected")

    monkeypatch.setattr(granule, "project", refuse)
    columns = [name for name in SEGMENTS.columns if name not in ("tile", "x_m", "y_m")]
    assert read_granule(path, columns)[0].equals(expected.select(columns))
    with pytest.raises(AssertionError, match="projected"):
        read_granule(path, ["x_m"])


def test_long_beams_are_a_chunk_each(write_granule, beam, monkeypatch):
    lacking = beam(4, **{"h_li": [1.0, FILL, 3.0, 4.0], "dem/dem_h": None})
    path = write_granule({"gt1l": beam(3), "gt2l": None, "gt2r": lacking})
    joined, ledger = read_granule(path)
    monkeypatch.setattr(granule, "_JOINED_ROWS", 6)
    parts, same = read_granule(path)
    assert same == ledger and joined["x_m"].num_chunks == 1 and parts["x_m"].num_chunks == 2
    assert parts.schema == joined.schema and parts.to_pylist() == joined.to_pylist()
    assert check(parts, SEGMENTS).num_rows == 7
