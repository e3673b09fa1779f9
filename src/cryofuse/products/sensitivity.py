"""How much every mass figure depends on choices: the mascon rule, the density, rebound.

Each mascon rule is added up and fitted as the totals are, gravity over its whole record and, over
the months that gravity and altimetry share, every source at every density. Glacial isostatic
adjustment has been removed by the mascon product, with one model, and its file does not say what
another would give: a rate of mass that differs by x Gt/yr moves gravity's trend by x and no month's
change against another's. What rebound does to altimetry can be told: bedrock that rises by one
millimetre a year reads as thickening of all the ice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cryofuse.calendar import month_index
from cryofuse.config import SelectSettings
from cryofuse.mascons.footprints import select_mascons
from cryofuse.products.totals import sea_level_trends, sum_totals
from cryofuse.units import FIRN_MIX_DENSITY_KG_M3, mass_to_sea_level, thickness_to_mass

if TYPE_CHECKING:
    from cryofuse.config import ApplicationSettings

#: Rise of bedrock whose reading as thickening is told (m/yr).
UPLIFT_M_YR = 1e-3
CONFIGURED = "configured"
_COLUMNS = [
    "choice",
    "source",
    "density_kg_m3",
    "configured",
    "n_mascons",
    "land_area_km2",
    "ice_area_km2",
    "start",
    "end",
    "n",
    "trend_gt_yr",
    "trend_sigma_gt_yr",
    "difference_gt_yr",
    "change_gt",
    "change_sigma_gt",
    "sea_level_mm_yr",
    "sea_level_sigma_mm_yr",
    "reason",
]


def list_choices(
    mascons: pd.DataFrame, select: SelectSettings, settings: ApplicationSettings, sample: str
) -> dict[str, np.ndarray]:
    """Return the mascons that each rule chooses, the configured one first.

    Parameters
    ----------
    mascons
        Table ``gravimetry/mascons``.
    select
        The configured rule.
    settings
        Ice fractions of land.
    sample
        The product, or ``basin``: of basins only the configured choice.

    Returns
    -------
    dict
        Name of the rule → whether each mascon is chosen, shape (mascons,).
    """
    name = _name(select)
    choices = {name: mascons["selected"].to_numpy(dtype=bool)}
    if sample == "basin":
        return choices
    rules = [SelectSettings(min=least) for least in settings.ice_fractions]
    if mascons["in_product_set"].notna().any():
        rules.append(SelectSettings(rule="product_set"))
    for rule in rules:
        chosen = select_mascons(mascons, rule)["selected"].to_numpy(dtype=bool)
        choices.setdefault(_name(rule), chosen)
    return choices


def _name(select: SelectSettings) -> str:
    if select.rule == "ice_fraction_of_land":
        return f"ice_fraction_of_land >= {select.min:g}"
    return "product_set" if select.rule == "product_set" else "ids of the configuration"


def weigh_choices(
    fusion: pd.DataFrame,
    mass: pd.DataFrame,
    mascons: pd.DataFrame,
    select: SelectSettings,
    settings: ApplicationSettings,
    sample: str = "jpl",
) -> pd.DataFrame:
    """Return the trends of mass under every mascon rule and density, and what rebound does.

    Parameters
    ----------
    fusion
        Table ``fusion/mascon_months`` (retrospective), of all mascons.
    mass
        Table ``gravimetry/mass``.
    mascons
        Table ``gravimetry/mascons``.
    select
        The configured mascon rule.
    settings
        Densities, correlation of errors, ice fractions.
    sample
        Whose errors they are: the gravimetry product's, or ``basin``.

    Returns
    -------
    pandas.DataFrame
        Table ``applications/sensitivity``. ``difference_gt_yr`` is the trend less that of the same
        source and months under the configured rule.
    """
    rows: list[dict] = []
    usual: dict[tuple, float] = {}
    for number, (choice, chosen) in enumerate(
        list_choices(mascons, select, settings, sample).items()
    ):
        own = mascons.assign(selected=chosen)
        areas = own.loc[own["selected"], ["land_area_km2", "ice_area_km2"]].sum()
        trends = sea_level_trends(sum_totals(fusion, mass, own, settings, sample))
        for trend in trends.to_dict("records"):
            key = (trend["source"], trend["start"], trend["end"], trend["n"])
            if number == 0:
                usual[key] = trend["trend_gt_yr"]
            years = (month_index(trend["end"]) - month_index(trend["start"])) / 12
            rows.append(
                {
                    **trend,
                    "choice": choice,
                    "configured": number == 0,
                    "n_mascons": int(chosen.sum()),
                    "land_area_km2": areas["land_area_km2"],
                    "ice_area_km2": areas["ice_area_km2"],
                    "difference_gt_yr": trend["trend_gt_yr"] - usual.get(key, np.nan),
                    "change_gt": trend["trend_gt_yr"] * years,
                    "change_sigma_gt": trend["trend_sigma_gt_yr"] * years,
                }
            )
    rows += _rebound(rows)
    return pd.DataFrame(rows, columns=_COLUMNS)


def _rebound(rows: list[dict]) -> list[dict]:
    """Return what can be said of glacial isostatic adjustment, for gravity and for altimetry."""
    if not rows:
        return []
    whole = {name: rows[0][name] for name in ("n_mascons", "land_area_km2", "ice_area_km2")}
    read = thickness_to_mass(UPLIFT_M_YR, rows[0]["ice_area_km2"], FIRN_MIX_DENSITY_KG_M3)
    return [
        {
            **whole,
            "choice": "another model of glacial isostatic adjustment",
            "source": "gravity",
            "configured": False,
            "n": 0,
            "reason": "removed by the product with one model; what differs between models by "
            "x Gt/yr moves the trend by x",
        },
        {
            **whole,
            "choice": f"bedrock rises by {UPLIFT_M_YR * 1e3:g} mm/yr under all the ice",
            "source": "altimetry",
            "density_kg_m3": FIRN_MIX_DENSITY_KG_M3,
            "configured": False,
            "n": 0,
            "difference_gt_yr": read,
            "sea_level_mm_yr": float(mass_to_sea_level(read)),
            "reason": "read as thickening: to be taken off an altimetric trend",
        },
    ]
