"""(i) The dashboard: size, time to write, and first paint in a browser without a network."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import ROOT, run_alone

#: Greenland's mascons, and that many pieces of each: the second page's.
PIECES = 10
MONTHS = ("2018-10", "2024-12")
REPEATS = 5


def _world(pieces: int) -> dict[str, Any]:
    """Return tables of JPL's Greenland mascons, each cut into pieces, with all digits."""
    import geopandas
    import pandas as pd
    import shapely

    from cryofuse.calendar import month_range
    from cryofuse.mascons.footprints import load_footprints
    from cryofuse.products.dashboard.data import LAKES_COLUMNS, SERIES, TOTALS_COLUMNS

    rng = np.random.default_rng(3)
    boxes = []
    for west, south, east, north in load_footprints("jpl_greenland").bounds.to_numpy():
        edges = np.linspace(west, east, pieces + 1)
        boxes += [
            shapely.box(a, south, b, north) for a, b in zip(edges[:-1], edges[1:], strict=True)
        ]
    centre = shapely.get_coordinates(shapely.centroid(boxes))
    ids = np.arange(1, len(boxes) + 1)
    mascons = geopandas.GeoDataFrame(
        {"mascon_id": ids, "latitude": centre[:, 1], "longitude": centre[:, 0]},
        geometry=boxes,
        crs="EPSG:4326",
    ).assign(ice_area_km2=1e5 / pieces, selected=True)
    months = month_range(*MONTHS)
    index = pd.MultiIndex.from_product([ids, months], names=["mascon_id", "month"])
    product = pd.DataFrame(rng.normal(size=(len(index), len(SERIES))), index, list(SERIES))
    product = product.reset_index().assign(has_gravimetry=True, reason=None)
    values = rng.normal(size=len(ids))
    rates = pd.DataFrame({"mascon_id": ids, "rate_m_yr": values, "reason": None})
    parts = [f"explained_{part}" for part in ("total", "trend", "seasonal", "interannual")]
    explained = pd.DataFrame(rng.uniform(-1, 1, (len(ids), 4)), columns=parts)
    treatments = ("raw", "detrended", "deseasonalised")
    coupling = [
        pd.DataFrame({"mascon_id": ids, "treatment": name, "r": np.tanh(values), "q_fdr": 0.01})
        for name in treatments
    ]
    seasons = [
        pd.DataFrame(
            {"mascon_id": ids, "year": year, "dh_season_m": values, "observed_gt": values,
             "predicted_gt": values, "predicted_lower_gt": values - 1,
             "predicted_upper_gt": values + 1, "reason": None}
        )
        for year in (2019, 2020, 2021)
    ]  # fmt: skip
    scored = ("leave_mascon_out", "forward")
    scores = [
        {"model": "ridge", "kind": "model", "split": split, "target": "change", "scope": scope,
         "score": score, "value": 0.5, "reason": None}
        for split in scored
        for score, scopes in (("rmse_cm", ["pooled"]), ("r2", [f"mascon:{i}" for i in ids]))
        for scope in scopes
    ]  # fmt: skip
    totals = pd.DataFrame(rng.normal(size=(300, 10)), columns=list(TOTALS_COLUMNS))
    totals = totals.assign(source="gravity", month=month_range("2000-01", "2024-12"))
    sea_level = pd.DataFrame(
        {"source": ["gravity"], "density_kg_m3": np.nan, "density_lower_kg_m3": np.nan,
         "density_upper_kg_m3": np.nan, "start": months[0], "end": months[-1], "n": 75,
         "trend_gt_yr": -200.0, "trend_sigma_gt_yr": 5.0, "sea_level_mm_yr": 0.6,
         "sea_level_sigma_mm_yr": 0.1, "reason": None}
    )  # fmt: skip
    lakes = pd.DataFrame(columns=[*LAKES_COLUMNS, "status", "x_m", "y_m"])
    names = {"regime": [0, 1], "regime_name": ["a", "b"], "level": "mascons", "rate_m_yr": [-1, 0]}
    return {
        "product": product,
        "fusion": rates,
        "mascons": mascons,
        "regimes": pd.DataFrame({"mascon_id": ids, "regime": ids % 2, "reason": None}),
        "centroids": pd.DataFrame(names),
        "scores": pd.DataFrame(scores),
        "explained": explained.assign(mascon_id=ids, scope="mascon", target="change", reason=None),
        "coupling": pd.concat(coupling).assign(best=True, lag_months=0, reason=None),
        "case_study": pd.concat(seasons),
        "totals": totals,
        "sea_level": sea_level,
        "lakes": lakes,
    }


def write_page(path: str, pieces: int) -> dict[str, Any]:
    """Write a page; return its mascons and months, its size (MB) and what it took (s)."""
    import yaml

    from cryofuse.config import RegionSettings
    from cryofuse.products.dashboard.data import build_data
    from cryofuse.products.dashboard.page import render_page
    from cryofuse.products.style import base_map, cut_mascons

    region = yaml.safe_load((ROOT / "config" / "regions" / "greenland.yaml").read_text())
    region |= {name: str(ROOT / region[name]) for name in ("outline", "coast")}
    base = base_map(RegionSettings.model_validate(region))
    tables = _world(pieces)
    began = time.process_time()
    data = build_data(
        title=base.title, months=MONTHS, fdr=0.05, coverage=0.9, unit="mascon", **tables
    )
    page = render_page(
        data,
        base=base,
        shapes=cut_mascons(tables["mascons"], base),
        lakes=tables["lakes"],
        sea_level=tables["sea_level"],
        answer="A sentence.",
        verdict="A sentence.",
        synthetic=False,
        provenance={},
    )
    took = time.process_time() - began
    Path(path).write_text(page)
    size_mb = Path(path).stat().st_size / 1e6
    return {
        "mascons": len(data["mascons"]),
        "months": len(data["months"]),
        "size_mb": size_mb,
        "write_s": took,
    }


def paint(path: str) -> dict[str, Any]:
    """Return when the page is first painted, and when its script is through (s, medians)."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {"reason": "playwright is not installed: make .venv/engines.done"}
    chromium = shutil.which("chromium")
    if chromium is None:
        return {"reason": "no chromium: apt-get install chromium"}
    first, whole, slid = [], [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium)
        for _ in range(REPEATS):
            context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.goto(Path(path).as_uri())
            painted = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            page.wait_for_function(painted)
            first.append(page.evaluate(painted) / 1e3)
            done = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
            whole.append(page.evaluate(done) / 1e3)
            page.select_option("#layer", "3")
            slide = """() => { const began = performance.now(); const month = document
                .getElementById('month'); month.value = 5; month.dispatchEvent(new Event('input'));
                document.body.getBoundingClientRect(); return performance.now() - began; }"""
            slid.append(page.evaluate(slide) / 1e3)
            context.close()
        browser.close()
    found = {"first_paint_s": first, "ready_s": whole, "slide_s": slid}
    return {name: statistics.median(values) for name, values in found.items()}


def run(folder: str, scale: int) -> dict[str, Any]:
    """Return size, time to write and first paint of Greenland's page and of one ten times larger.

    Parameters
    ----------
    folder
        For the pages.
    scale
        A quick run leaves the larger page away.
    """
    pages = []
    for pieces in (1,) if scale > 1 else (1, PIECES):
        path = f"{folder}/dashboard-{pieces}.html"
        written = run_alone("dashboard:write_page", path=path, pieces=pieces)
        pages.append(written | run_alone("dashboard:paint", cores=2, path=path))
    return {"pages": pages}
