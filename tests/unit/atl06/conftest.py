"""Tiny ATL06 files, written with h5py alone."""

from pathlib import Path

import h5py
import numpy as np
import pytest

FLOAT_FILL = np.float32(3.4028235e38)
#: Layout of release 006: type and fill value of each dataset the reader asks for.
LAYOUT = {
    "latitude": ("f8", None),
    "longitude": ("f8", None),
    "delta_time": ("f8", None),
    "segment_id": ("i4", 2147483647),
    "h_li": ("f4", FLOAT_FILL),
    "h_li_sigma": ("f4", FLOAT_FILL),
    "sigma_geo_h": ("f4", FLOAT_FILL),
    "atl06_quality_summary": ("i1", None),
    "fit_statistics/dh_fit_dx": ("f4", FLOAT_FILL),
    "fit_statistics/h_robust_sprd": ("f4", FLOAT_FILL),
    "fit_statistics/snr_significance": ("f4", FLOAT_FILL),
    "fit_statistics/n_fit_photons": ("i4", 2147483647),
    "dem/dem_h": ("f4", FLOAT_FILL),
    "geophysical/msw_flag": ("i1", 127),
    "geophysical/cloud_flg_asr": ("i1", 127),
    "geophysical/bsnow_conf": ("i1", 127),
    "geophysical/r_eff": ("f4", FLOAT_FILL),
}
NAME = "ATL06_20200102030405_01230603_006_02.h5"


def make_beam(rows: int = 5, **change: object) -> dict[str, np.ndarray]:
    """Return good rows on the ice at 72°N; datasets are changed, or dropped with None."""
    index = np.arange(rows)
    beam = {name: np.zeros(rows, kind) for name, (kind, _) in LAYOUT.items()}
    beam["latitude"] = 72.0 + index * 1.8e-4
    beam["longitude"] = -40.0 - index * 1e-5
    beam["delta_time"] = 63_160_000.25 + index * 0.0028
    beam["segment_id"] = (600_000 + index).astype("i4")
    beam["h_li"] = (2000 + 0.1 * index).astype("f4")
    beam["h_li_sigma"] = np.full(rows, 0.02, "f4")
    beam["dem/dem_h"] = np.full(rows, 2001, "f4")
    beam["fit_statistics/n_fit_photons"] = np.full(rows, 200, "i4")
    for name, values in change.items():
        if values is None:
            del beam[name]
        else:
            beam[name] = np.asarray(values)
    return beam


@pytest.fixture
def beam():
    return make_beam


@pytest.fixture
def write_granule(tmp_path):
    """Write a granule: beam name to datasets, None for a group without land_ice_segments."""

    def write(beams, name=NAME, orbit=(123, 6), fill_shape=()):
        path = Path(tmp_path) / name
        with h5py.File(path, "w") as file:
            if orbit:
                file["orbit_info/rgt"] = np.array([orbit[0]], "i2")
                file["orbit_info/cycle_number"] = np.array([orbit[1]], "i1")
            for beam_name, datasets in beams.items():
                group = file.create_group(beam_name)
                group.attrs["atlas_beam_type"] = np.bytes_("strong")
                group.create_group("residual_histogram")
                if datasets is None:
                    continue
                for place, values in datasets.items():
                    kind, fill = LAYOUT[place]
                    data = group.create_dataset(
                        f"land_ice_segments/{place}",
                        data=np.asarray(values).astype(kind),
                        chunks=(10_000,),
                        maxshape=(None,),
                        compression=6,
                        shuffle=kind.startswith("i"),
                    )
                    if fill is not None:
                        data.attrs["_FillValue"] = np.full(fill_shape, fill, kind)
        return path

    return write
