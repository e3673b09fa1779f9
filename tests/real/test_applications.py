"""Rapid melt and early warning on the real-signal file in JPL's layout, against plain NumPy."""

import numpy as np
import pandas as pd
import pytest

from cryofuse.config import EarlyWarningSettings, RapidMeltSettings, SelectSettings
from cryofuse.mascons import load_footprints, read_mascons, select_mascons
from cryofuse.products.early_warning import warn_early
from cryofuse.products.rapid_melt import detect_rapid_melt

pytestmark = pytest.mark.real

SURROGATES = 200


@pytest.fixture(scope="module")
def real(real_folder):
    path = real_folder / "grace" / "JPL_MSCN_layout_greenland_200204_202408.nc"
    facts = load_footprints("jpl_greenland").set_index("mascon_id")
    mascons, mass = read_mascons(str(path), "jpl", footprints=facts.reset_index())
    own = mascons["mascon_id"].to_numpy()
    mascons = pd.DataFrame(mascons.drop(columns="geometry")).assign(
        whole_ice_fraction=facts["whole_ice_fraction"].reindex(own).to_numpy(),
        in_product_set=facts["in_product_set"].reindex(own).to_numpy(),
        ice_fraction=np.nan,
        ice_area_km2=1.0,
    )
    mascons = select_mascons(mascons, SelectSettings())
    chosen = mascons.loc[mascons["selected"], "mascon_id"]
    inside = mass[mass["mascon_id"].isin(chosen)]
    total = inside.groupby("month")["mass_gt"].sum(min_count=len(chosen)).dropna()
    sheet = pd.DataFrame({"source": "gravity", "month": total.index, "mass_gt": total.to_numpy()})
    sheet = sheet.assign(volume_km3=np.nan, mass_sigma_gt=1.0, volume_sigma_km3=np.nan)
    months = pd.date_range("2002-04-01", "2024-08-01", freq="MS").as_unit("us")
    fusion = pd.MultiIndex.from_product([chosen, months], names=["mascon_id", "month"])
    fusion = fusion.to_frame(index=False).assign(dh_m=np.nan, dh_sigma_m=np.nan)
    fusion = fusion.merge(mass[["mascon_id", "month", "mass_gt"]], "left")
    return mascons, mass, sheet, fusion, total


def test_months_of_rapid_loss_are_those_that_numpy_finds(real):
    mascons, mass, sheet, fusion, total = real
    assert len(total) == 227
    predicted = pd.DataFrame(
        {
            "mascon_id": pd.Series(dtype="int32"),
            "month": pd.Series(dtype="datetime64[us]"),
            "predicted_change_gt": pd.Series(dtype=float),
            "followed": pd.Series(dtype=bool),
            "all_other_years": pd.Series(dtype=bool),
        }
    )
    settings = RapidMeltSettings(surrogates=SURROGATES)
    months, rates = detect_rapid_melt(fusion, mass, mascons, sheet, predicted, settings)
    own = months[(months["scope"] == "sheet") & (months["source"] == "gravimetry")]
    own = own.set_index("month")
    change = total.reindex(own.index).diff().dropna()
    t = (change.index - pd.Timestamp("2000-01-01")).days / 365.2425 + 0.04
    waves = [f(2 * np.pi * k * t) for k in (1, 2) for f in (np.cos, np.sin)]
    design = np.column_stack([np.ones(len(t)), t, *waves])
    left = change - design @ np.linalg.lstsq(design, change, rcond=None)[0]
    both = own["anomaly"].dropna()
    assert both.index.equals(left.index)
    np.testing.assert_allclose(both, left, atol=3.0)
    flagged = own.index[own["flagged"].fillna(False).astype(bool)]
    assert own["anomaly"].idxmin() == left.idxmin() and left.idxmin() in flagged
    # July of 2012 and of 2019 lose more than usual, but summers vary: neither is flagged.
    for july in pd.to_datetime(["2012-07-01", "2019-07-01"]):
        assert july not in left.index or (left[july] < 0 and own.loc[july, "anomaly"] < 0)
    assert 1 <= len(flagged) <= 0.06 * len(left)
    rate = rates[(rates["scope"] == "sheet") & (rates["source"] == "gravimetry")].iloc[0]
    assert rate["n"] == len(left) and 0.01 < rate["false_alarm_rate"] < 0.04


def test_early_warning_follows_grace_or_says_why_not(real):
    mascons, _, sheet, fusion, _ = real
    settings = EarlyWarningSettings(surrogates=SURROGATES)
    taus, windows = warn_early(fusion, mascons, sheet, settings)
    gravity = taus[taus["source"] == "gravimetry"]
    # 42 of 269 months have no solution: more than a tenth.
    assert len(gravity) == 2 * (1 + mascons["selected"].sum())
    assert gravity["reason"].str.contains("months have no value").all() and windows.empty
    later = fusion[fusion["month"] >= pd.Timestamp("2018-06-01")]
    taus, windows = warn_early(later, mascons, sheet, settings)
    known = taus[(taus["source"] == "gravimetry") & taus["p"].notna()]
    assert len(known) == len(gravity) and known["tau"].abs().max() <= 1
    assert np.isfinite(windows[["value", "lower", "upper"]].to_numpy(dtype=float)).all()
    assert known["p"].between(0, 1).all() and (known["p"] <= 0.05).mean() < 0.5
