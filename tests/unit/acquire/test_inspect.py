"""Whether a file is what its name says: by plain h5py files that are made wrong one by one."""

import os

import h5py
import numpy as np
import pytest

from cryofuse.acquire.inspect import inspect_granule, inspect_grid
from tests.atl06_files import granule_name, write_granule

NAME = granule_name(0)


def why(tmp_path, name=NAME, **inside):
    return inspect_granule(write_granule(tmp_path, 0, **inside), name)


def test_a_granule_is_what_it_says(tmp_path):
    assert why(tmp_path) is None
    assert why(tmp_path, f"processed_{NAME}") is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ATL06_20200102030405_01240603_007_01.h5", "track"),
        ("ATL06_20200102030405_01230703_007_01.h5", "cycle"),
        ("ATL06_20200102030405_01230604_007_01.h5", "orbit region"),
        ("ATL06_20200102030405_01230603_006_01.h5", "release"),
        ("ATL06_20200103030405_01230603_007_01.h5", "starts at 2020-01-02T03:04:35"),
        ("ATL06_20200102030500_01230603_007_01.h5", "starts at 2020-01-02T03:04:35"),
        ("ATL06_20200102024000_01230603_007_01.h5", "starts at 2020-01-02T03:04:35"),
        ("mascons.nc", "not an ATL06 name"),
    ],
)
def test_another_name_is_told(tmp_path, name, what):
    text = why(tmp_path, name)
    assert what in text and "\n" not in text


LACKING = {
    "orbit_info/rgt": None,
    "orbit_info/cycle_number": np.array([], "i1"),
    "ancillary_data/start_region": None,
    "ancillary_data/release": np.array([b" " * 80]),
    "ancillary_data/data_start_utc": h5py.Empty("S27"),
}


@pytest.mark.parametrize("beam", ["gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r"])
def test_what_a_subset_lacks_is_not_compared(tmp_path, beam):
    inside = LACKING | {f"{beam}/land_ice_segments/h_li": np.zeros(3, "f4")}
    assert why(tmp_path, "ATL06_20210505050505_00110203_005_01.h5", **inside) is None


@pytest.mark.parametrize("fact", LACKING)
def test_without_beams_one_fact_tells_a_granule(tmp_path, fact):
    rest = {place: value for place, value in LACKING.items() if place != fact}
    assert why(tmp_path, **rest) is None
    assert "its name says" in why(tmp_path, "ATL06_20210505050505_00110204_005_01.h5", **rest)


@pytest.mark.parametrize(
    "inside",
    [
        {},
        {"gt1l/segments/h": np.zeros(3)},
        {"gt4l/land_ice_segments/h_li": np.zeros(3)},
        {"gt1l": np.zeros(3)},
        {"profile_1/land_ice_segments/h_li": np.zeros(3)},
        {"ancillary_data/data_start_utc": "some time ago"},
    ],
)
def test_a_file_with_nothing_of_a_granule_is_none(tmp_path, inside):
    assert why(tmp_path, **(LACKING | inside)) == "it holds nothing of an ATL06 granule"


@pytest.mark.parametrize(
    "inside",
    [
        {"orbit_info/rgt": np.int16(123)},
        {"orbit_info/rgt": np.array([[123]])},
        {"ancillary_data/release": "007"},
        {"ancillary_data/release": np.array([b"007\0\0"])},
        {"ancillary_data/data_start_utc": "2020-01-02T03:04:05Z"},
        {"ancillary_data/data_start_utc": "2020-01-02T03:12:00.000000Z"},
        {"ancillary_data/data_start_utc": "some time ago"},
        {"ancillary_data/data_start_utc": "2020-01-02T03:04:05+01:00"},
        {"ancillary_data/data_start_utc": "now"},
        {"ancillary_data/data_start_utc": "2020-13-02T03:04:05Z"},
        {"ancillary_data/data_start_utc": np.array([b""])},
    ],
)
def test_values_come_in_several_forms(tmp_path, inside):
    assert why(tmp_path, **inside) is None


def test_a_huge_dataset_is_not_read(tmp_path):
    path = write_granule(tmp_path, 0, **{"orbit_info/rgt": None})
    with h5py.File(path, "a") as file:
        file["orbit_info"].create_dataset("rgt", (1 << 50,), "i2", chunks=(1024,), fillvalue=123)
    assert inspect_granule(path, NAME) is None


WRONG = [
    (b"", "it is empty"),
    (b"  \n<!DOCTYPE html><title>log in</title>", "HTML"),
    (b"<?xml version='1.0'?><Error/>", "HTML or XML"),
    (b'{"error": "x"}', "it is not HDF5"),
    (b"\x89HDF\r\n\x1a\nhalf", "does not open"),
]


@pytest.mark.parametrize(("content", "said"), WRONG)
@pytest.mark.parametrize(("inspect", "name"), [(inspect_granule, NAME), (inspect_grid, "m.nc")])
def test_what_is_no_hdf5(tmp_path, content, said, inspect, name):
    path = tmp_path / f".{name}.part"
    path.write_bytes(content)
    assert said in inspect(path, name)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file(tmp_path, share):
    path = write_granule(tmp_path)
    os.truncate(path, int(path.stat().st_size * share))
    assert "HDF5" in inspect_granule(path, NAME) and "HDF5" in inspect_grid(path, "m.nc")


def test_damaged_files_have_a_problem_or_none_but_no_traceback(tmp_path):
    path = write_granule(tmp_path, n_bytes=100)
    content = path.read_bytes()
    random = np.random.default_rng(5)
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(8, len(content), 20):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        text = inspect_granule(path, NAME)
        assert text is None or (isinstance(text, str) and "\n" not in text)


def test_grids(tmp_path):
    assert inspect_grid(write_granule(tmp_path), "any.nc") is None
    classic = tmp_path / "classic.nc"
    classic.write_bytes(b"CDF\x01" + bytes(100))
    assert inspect_grid(classic, "any.nc") is None
    assert inspect_granule(classic, NAME) == "it is not HDF5"
