"""Physical constants and unit conversions, each with its source.

Signs: elevation change is positive for thickening, mass change for gain.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

#: Density of pure ice (kg/m³); Cuffey and Paterson 2010, The Physics of Glaciers, table 2.1.
ICE_DENSITY_KG_M3 = 917.0
#: Mean density of the column that loses mass, used by altimetry studies (kg/m³); Huss 2013.
FIRN_MIX_DENSITY_KG_M3 = 850.0
#: Fresh water (kg/m³): one centimetre of water equivalent weighs 10 kg/m².
WATER_DENSITY_KG_M3 = 1000.0
#: Mass that raises global mean sea level by one millimetre (Gt/mm); IPCC AR6, ocean of 361.8e6 km².
GT_PER_MM_SEA_LEVEL = 361.8
#: One centimetre of water over one square kilometre (Gt).
GT_PER_CM_KM2 = 1e-5
#: Mean tropical year (days), the period of the annual cycle.
DAYS_PER_YEAR = 365.2425

T = TypeVar("T", float, np.ndarray)


def lwe_to_mass(lwe_cm: T, area_km2: T) -> T:
    """Convert liquid water equivalent (cm) over an area (km²) to mass (Gt)."""
    return lwe_cm * area_km2 * GT_PER_CM_KM2


def mass_to_lwe(mass_gt: T, area_km2: T) -> T:
    """Convert mass (Gt) over an area (km²) to liquid water equivalent (cm)."""
    return mass_gt / (area_km2 * GT_PER_CM_KM2)


def thickness_to_mass(dh_m: T, area_km2: T, density_kg_m3: T) -> T:
    """Convert elevation change (m) over an area (km²) at a density (kg/m³) to mass (Gt)."""
    return dh_m * area_km2 * density_kg_m3 * 1e-6


def mass_to_sea_level(mass_gt: T) -> T:
    """Convert ice mass change (Gt, gain positive) to global mean sea level (mm, rise positive)."""
    return -mass_gt / GT_PER_MM_SEA_LEVEL
