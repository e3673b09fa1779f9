"""Node grids and the reading of a tile's segments against brute force."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cryofuse.atl06.tiles import EDGE_SHARE, write_by_tile
from cryofuse.calendar import TIME_DTYPE
from cryofuse.config import ElevationSettings, FusionSettings, PeriodSettings, RegionSettings
from cryofuse.elevation import scatter
from cryofuse.elevation.scatter import COLUMNS, cut_squares, scatter_segments
from cryofuse.elevation.tiles import (
    Nodes,
    fit_tile,
    node_grid,
    node_ids,
    segment_sigma,
    slopes_on_ground,
)
from cryofuse.geo import project, tile_name, unproject
from cryofuse.tables import (
    NODE_MONTHS,
    NODE_MONTHS_CAUSAL,
    NODES,
    SEGMENTS,
    check,
    from_pandas,
)

REGION = RegionSettings.model_validate(
    {
        "title": "test",
        "crs": "EPSG:3413",
        "outline": {"west": -47, "south": 69.5, "east": -43, "north": 70.5},
    }
)
SETTINGS = ElevationSettings.model_validate(
    {
        "checks": {"max_repeats_per_km2": None},
        "node_spacing_m": 2000,
        "search_radius_m": 2000,
        "tile_m": 20_000,
        "windows": [
            {
                "name": "inner",
                "longitude": -45,
                "latitude": 70,
                "width_m": 8000,
                "node_spacing_m": 1000,
                "search_radius_m": 700,
            }
        ],
    }
)
TILE_M = 20_000.0
X0, Y0 = (float(v) for v in project(-45, 70, "EPSG:3413"))
TILES = [tile_name(X0 + dx, Y0 + dy, 20_000) for dx in (-20e3, 0, 20e3) for dy in (-20e3, 0, 20e3)]


def test_grid_is_regular_unique_and_on_ice():
    grids = {tile: node_grid(tile, SETTINGS, REGION) for tile in TILES}
    number = np.concatenate([g.node_id for g in grids.values()])
    assert np.unique(number).size == number.size
    assert (number > 0).all()
    fine = np.concatenate([g.window for g in grids.values()]) == 0
    assert fine.sum() == 64
    for tile, grid in grids.items():
        assert all(tile_name(x, y, 20_000) == tile for x, y in zip(grid.x_m, grid.y_m, strict=True))
        assert ((grid.x_m - grid.spacing_m / 2) % grid.spacing_m == 0).all()
        assert set(grid.radius_m[grid.window == 0]) <= {700.0}
        assert set(grid.radius_m[grid.window < 0]) <= {2000.0}
    x = np.concatenate([g.x_m for g in grids.values()])
    y = np.concatenate([g.y_m for g in grids.values()])
    window = x[fine].min() - 500, x[fine].max() + 500, y[fine].min() - 500, y[fine].max() + 500
    inside = (x >= window[0]) & (x < window[1]) & (y >= window[2]) & (y < window[3])
    assert (fine == inside).all()
    # Brute force over the coarse grid: centre on ice, not in the window.
    area = np.concatenate([g.spacing_m for g in grids.values()]) ** 2
    assert area[~fine].sum() == pytest.approx(9 * 400e6 - 64e6, rel=0.01)


def test_nodes_off_the_ice_are_left_out():
    small = REGION.model_copy(update={"outline": REGION.outline.model_copy(update={"east": -44.8})})
    grid = node_grid(TILES[4], SETTINGS, small)
    whole = node_grid(TILES[4], SETTINGS, REGION)
    assert 0 < grid.x_m.size < whole.x_m.size
    assert set(grid.node_id) < set(whole.node_id)
    longitude, _ = unproject(grid.x_m, grid.y_m, "EPSG:3413")
    assert (longitude <= -44.8 + 1e-6).all()


def test_node_numbers_do_not_collide():
    column, row = (a.ravel() for a in np.meshgrid(np.arange(-300, 300), np.arange(-300, 300)))
    number = np.concatenate([node_ids(column, row, w) for w in (-1, 0, 1)])
    assert np.unique(number).size == number.size == 3 * 600 * 600
    with pytest.raises(ValueError, match="node_spacing_m"):
        node_ids(np.array([2**23]), np.array([0]), -1)


def make_segments(count=6000, seed=1):
    """Segments over nine tiles: seven years of quarterly passes over a tilted plane."""
    rng = np.random.default_rng(seed)
    x, y = X0 + rng.uniform(-30e3, 30e3, count), Y0 + rng.uniform(-30e3, 30e3, count)
    cycle = rng.integers(1, 25, count)
    rgt = rng.integers(1, 4, count)
    year = 18.8 + cycle * 91 / 365.2425 + rgt * 0.03
    time = np.datetime64("2000-01-01", "us") + (year * 365.2425 * 86_400e6).astype("m8[us]")
    height = 1800 + 0.01 * (x - X0) - 0.4 * year + 0.2 * np.cos(2 * np.pi * year)
    frame = pd.DataFrame(
        {
            "tile": [tile_name(a, b, 20_000) for a, b in zip(x, y, strict=True)],
            "x_m": x,
            "y_m": y,
            "latitude": 70.0,
            "longitude": -45.0,
            "height_m": height + rng.normal(0, 0.05, count),
            "height_sigma_m": np.float32(0.03),
            "time": time.astype(TIME_DTYPE),
            "rgt": rgt.astype(np.int16),
            "cycle": cycle.astype(np.int16),
            "beam": "gt1l",
            "segment_id": np.arange(count, dtype=np.int32),
            "slope_along": np.float32(0.01),
            "granule": "made_here",
        }
    )
    frame.loc[::50, "height_sigma_m"] = np.nan
    for name, column in SEGMENTS.columns.items():
        if name not in frame:
            frame[name] = pa.nulls(count, column.kind).to_pandas()
    return frame[list(SEGMENTS.columns)]


def write_periods(frame, folder, periods=3):
    """One file per period, and one file without a row."""
    part = np.random.default_rng(2).integers(0, periods, len(frame))
    paths = []
    for period in range(periods + 1):
        mine = frame[part == period]
        columns = {}
        for name, column in SEGMENTS.columns.items():
            text = pa.types.is_dictionary(column.kind)
            values = mine[name].to_list() if text else mine[name].to_numpy()
            kind = pa.string() if text else column.kind
            columns[name] = pa.array(values, kind, from_pandas=True).cast(column.kind)
        paths.append(folder / f"{period}.parquet")
        write_by_tile([pa.table(columns)], paths[-1], TILE_M)
    return paths


def read_all(scattered):
    """All squares with their margins, and the box of each."""
    count = scattered.squares.count
    for number in range(count**2):
        yield scattered.squares.box(number), scattered.read(number)


@pytest.mark.parametrize("square_rows", [10**9, 100])
@pytest.mark.parametrize("margin", [0.0, 2000.0])
def test_squares_hold_what_lies_in_them_and_their_margin(
    tmp_path, monkeypatch, square_rows, margin
):
    monkeypatch.setattr(scatter, "SQUARE_ROWS", square_rows)
    monkeypatch.setattr(scatter, "BATCH_ROWS", 700)
    frame = make_segments()
    paths = write_periods(frame, tmp_path)
    for tile in (TILES[4], TILES[0]):
        scattered = scatter_segments(paths, tile, TILE_M, margin, tmp_path)
        assert (scattered.squares.count == 1) == (square_rows > 1e6)
        i, j = (int(part[1:]) for part in tile.split("_"))
        covered = 0.0
        for box, records in read_all(scattered):
            covered += (box[2] - box[0]) * (box[3] - box[1])
            assert box[0] >= i * TILE_M and box[3] <= (j + 1) * TILE_M
            inside = frame["x_m"].between(box[0] - margin, box[2] + margin)
            inside &= frame["y_m"].between(box[1] - margin, box[3] + margin)
            near = frame[inside].sort_values("segment_id")
            # A square reaches up to a metre further than asked.
            order = np.argsort(records["segment_id"])
            found = records[order][np.isin(records["segment_id"][order], near["segment_id"])]
            assert records.size - found.size <= 3
            assert len(near) == found.size > 0
            for name in ("x_m", "y_m", "height_m", "rgt", "cycle", "segment_id"):
                assert found[name].tolist() == near[name].tolist()
            assert (found["time"] == near["time"].to_numpy()).all()
            sigma = near["height_sigma_m"].to_numpy()
            assert np.array_equal(found["height_sigma_m"], sigma, equal_nan=True)
            assert set(found["beam"].tolist()) == {0}
        assert covered == pytest.approx(TILE_M**2)
        (tmp_path / f"{tile}.segments").unlink()


def test_squares_are_as_small_as_segments_and_margin_ask():
    def sides(margin, segments):
        return cut_squares("x-3_y7", 100_000, margin, segments).side_m

    assert sides(1000.0, 0) == sides(1000.0, scatter.SQUARE_ROWS) == 100_000
    assert sides(1000.0, scatter.SQUARE_ROWS + 1) == 50_000
    # 1 470 segments per km², and ten times as many.
    assert sides(1000.0, 14_700_000) == 12_500
    assert sides(1000.0, 147_000_000) == 3125
    # Never narrower than two margins: a segment belongs to four squares at most.
    assert sides(10_000.0, 147_000_000) == 25_000
    squares = cut_squares("x-3_y7", 100_000, 1000.0, 0)
    assert squares.box(0) == (-300_000, 700_000, -200_000, 800_000)
    squares = cut_squares("x-3_y7", 100_000, 1000.0, scatter.SQUARE_ROWS + 1)
    assert squares.box(1) == (-250_000, 700_000, -200_000, 750_000)


@pytest.mark.parametrize("tile_m", [1500.0, 2000.0, 100_000.0])
def test_a_margin_wider_than_the_tile_loses_nothing(tile_m):
    squares = cut_squares("x0_y0", tile_m, 60_000.0, 10**9)
    x = np.array([0.5, -0.5, 0.5]) * tile_m + np.array([0.0, 0.0, 70_000.0 + tile_m])
    rows, numbers = squares.spread(x, np.full(3, tile_m / 2))
    assert (squares.count, rows.tolist(), numbers.tolist()) == (1, [0, 1], [0, 0])


def test_a_node_belongs_to_the_square_that_holds_it():
    squares = cut_squares("x-3_y7", 100_000, 1000.0, scatter.SQUARE_ROWS + 1)
    x = np.array([-300_000.0, -250_000.1, -250_000.0, -200_000.1])
    y = np.array([700_000.0, 799_999.0, 749_999.9, 750_000.0])
    assert squares.number(x, y).tolist() == [0, 2, 1, 3]


def test_only_row_groups_that_matter_are_read(tmp_path, monkeypatch):
    paths = write_periods(make_segments(20_000), tmp_path)
    read = []
    original = pq.ParquetFile.read_row_group

    def spy(self, group, columns=None, **more):
        table = original(self, group, columns=["tile", "x_m", "y_m"])
        read.append(table.to_pandas().astype({"tile": str}))
        assert columns == list(COLUMNS)
        return original(self, group, columns=columns, **more)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    scatter_segments(paths, TILES[4], TILE_M, 300.0, tmp_path)
    i, j = (int(part[1:]) for part in TILES[4].split("_"))
    own, beside = [], []
    for frame in read:
        (tile,) = set(frame["tile"])
        (own if tile == TILES[4] else beside).append(frame)
    assert len(own) == 6 and len(beside) == 3 * 8
    # Of a neighbour only the edge is read: 2 % of its side.
    for frame in beside:
        for name in ("x_m", "y_m"):
            within = frame[name] / TILE_M % 1
            frame[name] = np.minimum(within, 1 - within)
        assert frame[["x_m", "y_m"]].min(axis=1).max() < EDGE_SHARE


def test_sigma_of_a_segment():
    sigma = segment_sigma(np.array([0.03, np.nan, 0.03]), np.array([0.02, 0.0, np.nan]))
    expected = [np.sqrt(0.03**2 + 0.1**2 + 0.02**2), np.sqrt(1 + 0.02**2), np.hypot(0.03, 0.02)]
    assert sigma == pytest.approx(expected)


def test_a_tile_from_files_to_tables(tmp_path):
    frame = make_segments(20_000)
    paths = write_periods(frame, tmp_path)
    period = PeriodSettings(start="2018-10", end="2024-12")
    result = fit_tile(paths, TILES[4], REGION, SETTINGS, FusionSettings(), period)
    nodes = check(from_pandas(result.fits), NODES).to_pandas()
    months = check(result.months, NODE_MONTHS).to_pandas()
    causal = check(result.causal, NODE_MONTHS_CAUSAL).to_pandas()
    grid = node_grid(TILES[4], SETTINGS, REGION)
    assert nodes["node_id"].tolist() == grid.node_id.tolist()
    fitted = nodes[nodes["reason"].isna()]
    assert len(fitted) > 80
    assert abs(fitted["rate_m_yr"].mean() + 0.4) < 0.01
    assert set(nodes["window"].dropna()) == {"inner"}
    assert nodes["bed_m"].isna().all()
    # EPSG:3413 at 70°N is true to scale: a node stands for its square.
    assert nodes["area_km2"].to_numpy() == pytest.approx((nodes["spacing_m"] / 1e3) ** 2, rel=0.01)
    assert fitted.loc[fitted["window"].isna(), "slope"].median() == pytest.approx(0.01, rel=0.05)
    last = causal[causal["month"] == causal["month"].max()].set_index("node_id")
    both = fitted.set_index("node_id").loc[last.index]
    assert last["slope"].to_numpy() == pytest.approx(both["slope"].to_numpy(), rel=0.05)
    assert set(months["node_id"]) == set(fitted["node_id"])
    assert causal["month"].max() == pd.Timestamp("2024-12-01")
    # The same from files in another order.
    again = fit_tile(paths[::-1], TILES[4], REGION, SETTINGS, FusionSettings(), period)
    pd.testing.assert_frame_equal(result.fits, again.fits, check_exact=True)
    assert result.months.equals(again.months)
    assert result.causal.equals(again.causal)


def test_slopes_of_vintages_are_per_metre_of_ground():
    """EPSG:3413 is true to scale at 70° N: a metre of it is less than one at 60°, more at 85°."""
    x, y = project(np.array([-45.0, -40.0, -20.0]), np.array([85.0, 70.0, 60.0]), REGION.crs)
    number = np.array([30, 10, 20])
    nodes = Nodes(number, x, y, *(np.zeros(3) for _ in range(3)))
    causal = pa.table(
        {
            "node_id": [10, 10, 30, 20],
            "rate_m_yr": [1.0, 2.0, 3.0, 4.0],
            "slope": pa.array([0.01, 0.02, 0.01, 0.01], pa.float32()),
        }
    )
    found = slopes_on_ground(causal, nodes, REGION.crs)
    assert found.drop(["slope"]).equals(causal.drop(["slope"]))
    # Scale of the polar stereographic projection on a sphere: (1 + sin 70°)/(1 + sin φ).
    scale = (1 + np.sin(np.radians(70))) / (1 + np.sin(np.radians([70, 70, 85, 60])))
    assert found["slope"].to_numpy() == pytest.approx(
        np.array([0.01, 0.02, 0.01, 0.01]) * scale, rel=2e-3
    )
    assert slopes_on_ground(NODE_MONTHS_CAUSAL.empty(), nodes, REGION.crs).num_rows == 0


def test_squares_change_nothing(tmp_path, monkeypatch):
    frame = make_segments(20_000)
    # Twenty passes over each place, so that there are repeats to check.
    for name in ("x_m", "y_m", "tile", "segment_id"):
        frame[name] = np.repeat(frame[name].to_numpy()[::20], 20)
    paths = write_periods(frame, tmp_path)
    period = PeriodSettings(start="2018-10", end="2024-12")
    given = (paths, TILES[4], REGION, SETTINGS, FusionSettings(), period)
    whole = fit_tile(*given)
    sizes = []
    add = scatter.Scattered.add

    def spy(self, records):
        sizes.append(self.squares.count)
        add(self, records)

    monkeypatch.setattr(scatter.Scattered, "add", spy)
    monkeypatch.setattr(scatter, "SQUARE_ROWS", 100)
    monkeypatch.setattr(scatter, "BATCH_ROWS", 500)
    pieces = fit_tile(*given)
    assert len(sizes) > 3 and set(sizes) == {4}
    assert whole.fits["node_id"].tolist() != pieces.fits["node_id"].tolist()
    pd.testing.assert_frame_equal(
        whole.fits.sort_values("node_id", ignore_index=True),
        pieces.fits.sort_values("node_id", ignore_index=True),
        check_exact=True,
    )
    keys = [("node_id", "ascending"), ("month", "ascending")]
    assert whole.months.sort_by(keys).equals(pieces.months.sort_by(keys))
    assert whole.causal.sort_by(keys).equals(pieces.causal.sort_by(keys))
    # Every pair is held against the same node, whichever square it stands in.
    keys = [(name, "ascending") for name in ("x_m", "y_m", "time_first", "time_second")]
    keys += [(name, "ascending") for name in ("rgt_first", "cycle_first", "cycle_second")]
    drop = ["stands_for"]
    checks = [t.checks.drop_columns(drop).sort_by(keys) for t in (whole, pieces)]
    assert checks[0].num_rows > 20 and checks[0].equals(checks[1])


def test_a_tile_without_files_has_nodes_with_reasons():
    period = PeriodSettings(start="2018-10", end="2019-12")
    result = fit_tile([], TILES[4], REGION, SETTINGS, FusionSettings(), period)
    nodes = check(from_pandas(result.fits), NODES).to_pandas()
    assert set(nodes["reason"]) == {"no_segments"}
    assert nodes["rate_m_yr"].isna().all()
    empty = fit_tile([], "x500_y500", REGION, SETTINGS, FusionSettings(), period)
    assert check(from_pandas(empty.fits), NODES).num_rows == 0
