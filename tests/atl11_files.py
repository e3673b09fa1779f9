"""Small ATL11 files in both layouts, written with h5py alone."""

from pathlib import Path

import h5py
import numpy as np

#: Type and fill of the released datasets (ATL11 data dictionary), by group below the pair.
LAYOUT = {
    "cycle_number": ("i1", 127),
    "latitude": ("f8", 1.7976931348623157e308),
    "longitude": ("f8", 1.7976931348623157e308),
    "ref_pt": ("i4", 2147483647),
    "delta_time": ("f8", 1.7976931348623157e308),
    "h_corr": ("f4", 3.4028235e38),
    "h_corr_sigma": ("f4", 3.4028235e38),
    "h_corr_sigma_systematic": ("f4", 3.4028235e38),
    "quality_summary": ("i1", 127),
    "ref_surf/at_slope": ("f4", 3.4028235e38),
    "ref_surf/dem_h": ("f4", 3.4028235e38),
    "cycle_stats/min_snr_significance": ("f4", 3.4028235e38),
    "cycle_stats/sigma_geo_h": ("f4", 3.4028235e38),
    "cycle_stats/cloud_flg_asr": ("i1", 127),
    "cycle_stats/bsnow_conf": ("i1", 127),
    "cycle_stats/r_eff": ("f4", 3.4028235e38),
    "crossing_track_data/h_corr": ("f4", 3.4028235e38),
}
NAME = "ATL11_012303_0304_006_02.h5"
#: Passes of track 123 in cycles 3 and 4, seconds since 2018-01-01: 6 April and 6 July 2019.
PASSES = np.array([39_800_000.25, 47_650_000.5])


def make_pair(points=5, passes=PASSES, first_cycle=3, **change):
    """Return good points on the ice at 72°N with fill as NaN; datasets changed, or dropped (None).

    Double underscores in a name stand for the slash of a group.
    """
    index, cycles = np.arange(points), np.arange(len(passes))
    both = (points, len(passes))
    pair = {
        "cycle_number": first_cycle + cycles,
        "latitude": 72.0 + index * 5.4e-4,
        "longitude": -40.0 - index * 3e-5,
        "ref_pt": 600_000 + 3 * index,
        "delta_time": np.asarray(passes) + index[:, np.newaxis] * 0.0084,
        "h_corr": 2000 + 0.25 * index[:, np.newaxis] - 0.5 * cycles,
        "h_corr_sigma": np.full(both, 0.03),
        "h_corr_sigma_systematic": np.full(both, 0.04),
        "quality_summary": np.zeros(both),
        "ref_surf/at_slope": 0.001 * index,
        "ref_surf/dem_h": np.full(points, 2001.0),
        "cycle_stats/min_snr_significance": np.full(both, 0.005),
        "cycle_stats/sigma_geo_h": np.full(both, 0.1),
        "cycle_stats/cloud_flg_asr": np.full(both, 2.0),
        "cycle_stats/bsnow_conf": np.full(both, 1.0),
        "cycle_stats/r_eff": np.full(both, 0.75),
        "crossing_track_data/h_corr": np.full(7, 1500.0),
    }
    for name, values in change.items():
        place = name.replace("__", "/")
        if values is None:
            del pair[place]
        else:
            pair[place] = np.asarray(values, float)
    return pair


def write_atl11(folder, pairs, name=NAME, prototype=False, rgt=None):
    """Write a file: pair name to datasets, None for an empty group. NaN becomes fill.

    The prototype's heights stand in a group of their own, all as f8 with NaN for fill.
    """
    path = Path(folder) / name
    with h5py.File(path, "w") as file:
        for pair_name, datasets in pairs.items():
            group = file.create_group(pair_name)
            if rgt is not None:
                group.attrs["ReferenceGroundTrack"] = float(rgt) if prototype else rgt
            for place, values in (datasets or {}).items():
                values = np.asarray(values, float)
                if prototype:
                    inside = place if "/" in place else f"corrected_h/{place}"
                    group[inside] = values.astype(int) if place == "cycle_number" else values
                    continue
                kind, fill = LAYOUT[place]
                filled = np.where(np.isnan(values), fill, values).astype(kind)
                data = group.create_dataset(place, data=filled, compression=6)
                data.attrs["_FillValue"] = np.array([fill], kind)
    return path
