import os
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryofuse.atl06.chunks import open_column

#: How datasets are stored: what h5py makes them with, and whether HDF5 must read them.
PIPELINES = {
    "contiguous": ({}, True),
    "plain chunks": ({"chunks": True}, False),
    "deflate": ({"chunks": True, "compression": 6}, False),
    "fast deflate": ({"chunks": True, "compression": 1}, False),
    "stored": ({"chunks": True, "compression": 0}, False),
    "shuffle": ({"chunks": True, "shuffle": True}, False),
    "shuffle, deflate": ({"chunks": True, "shuffle": True, "compression": 6}, False),
    "lzf": ({"chunks": True, "compression": "lzf"}, True),
    "shuffle, lzf": ({"chunks": True, "shuffle": True, "compression": "lzf"}, True),
    "deflate, sum": ({"chunks": True, "compression": 6, "fletcher32": True}, True),
}
KINDS = ("f8", "f4", "i4", "i2", "i1")


def make(name, values, how, chunk=10, **more):
    """Return an open file in memory with one dataset, and whether HDF5 must read it."""
    file = h5py.File(name, "w", driver="core", backing_store=False)
    options, plain = PIPELINES[how]
    if "chunks" in options:
        options = options | {"chunks": (chunk,), "maxshape": (None,)}
    file.create_dataset("a", data=values, **options, **more)
    return file, plain


def plain_read(file, kind):
    values = np.empty(file["a"].shape, kind)
    file["a"].read_direct(values)
    return values


@given(
    how=st.sampled_from(list(PIPELINES)),
    stored=st.sampled_from([order + kind for kind in KINDS for order in "<>"]),
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 120),
    chunk=st.integers(1, 50),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_values_are_those_of_plain_h5py(how, stored, kind, rows, chunk, share, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 50, rows).astype(stored)
    if stored[1] == "f":
        values[rng.random(rows) < 0.1] = rng.choice([np.nan, np.inf, 3.4e38, -9999.0])
    wanted = np.flatnonzero(rng.random(rows) < share)
    file, plain = make("values", values, how, chunk)
    with file:
        column = open_column(file["a"].id, np.dtype(kind))
        expected = plain_read(file, kind)
        assert column.shape == (rows,)
        assert bool(column.chunk_rows) == (not plain and np.dtype(stored) == kind)
        for places in (wanted, np.arange(rows), np.arange(rows // 3, rows - rows // 3)):
            found = column.read(places)
            assert found.dtype == kind and found.tobytes() == expected[places].tobytes()


@given(
    shuffle=st.booleans(),
    masks=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    kind=st.sampled_from(KINDS),
)
def test_filters_left_out_of_a_chunk(shuffle, masks, kind):
    values = np.arange(30).astype(kind)
    file, _ = make("masks", np.zeros(30, kind), "shuffle, deflate" if shuffle else "deflate")
    with file:
        for first, mask in zip((0, 10, 20), masks, strict=True):
            content = values[first : first + 10]
            shuffled, deflated = (not mask & 1, not mask & 2) if shuffle else (False, not mask & 1)
            if shuffled:
                content = content.view(np.uint8).reshape(10, -1).T
            content = content.tobytes()
            file["a"].id.write_direct_chunk(
                (first,),
                zlib.compress(content) if deflated else content,
                mask if shuffle else mask & 1,
            )
        assert np.array_equal(plain_read(file, kind), values)
        column = open_column(file["a"].id, np.dtype(kind))
        assert column.chunk_rows == 10
        assert np.array_equal(column.read(np.arange(30)), values)


def test_chunks_never_written_are_fill():
    with h5py.File("holes", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset(
            "a", (35,), "f4", chunks=(10,), maxshape=(None,), compression=4, fillvalue=-7
        )
        data[12:18] = 5
        column = open_column(data.id, np.dtype("f4"))
        assert np.array_equal(column.read(np.arange(5, 35)), data[5:])
        assert np.array_equal(column.read(np.arange(12, 20)), [5] * 6 + [-7] * 2)


def test_more_dimensions_and_virtual_data_are_left_to_hdf5():
    with h5py.File("more", "w", driver="core", backing_store=False) as file:
        table = np.arange(60.0).reshape(20, 3)
        file.create_dataset("a", data=table, chunks=(5, 2), compression=4)
        column = open_column(file["a"].id, np.dtype("f8"))
        assert column.shape == (20, 3) and column.chunk_rows == 0
        places = np.array([3, 4, 11])
        assert np.array_equal(column.read(places), table[places])
        file["b"] = np.arange(8.0)
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(file["b"])[2:6]
        virtual = file.create_virtual_dataset("c", layout)
        column = open_column(virtual.id, np.dtype("f8"))
        assert column.chunk_rows == 0 and column.read(np.arange(1, 3)).tolist() == [3.0, 4.0]
        assert column.read(np.arange(0)).size == 0


@given(
    place=st.floats(0, 1, exclude_max=True),
    flip=st.integers(1, 255),
    shuffle=st.booleans(),
)
def test_a_damaged_chunk_is_an_error_and_costs_its_rows_alone(place, flip, shuffle):
    values = np.random.default_rng(3).normal(size=40)
    file, _ = make("damaged", values, "shuffle, deflate" if shuffle else "deflate")
    with file:
        data = file["a"].id
        _, content = data.read_direct_chunk((10,))
        broken = bytearray(content)
        broken[int(place * len(broken))] ^= flip
        data.write_direct_chunk((10,), bytes(broken))
        column = open_column(data, np.dtype("f8"))
        others = np.r_[0:10, 20:40]
        assert np.array_equal(column.read(others), values[others])
        # Bits that pad the stream to a byte hold nothing.
        try:
            found = column.read(np.arange(5, 15))
        except OSError:
            return
        assert np.array_equal(found, values[5:15])


def test_a_chunk_that_is_too_short_is_an_error():
    # HDF5 itself fills up with whatever lies in memory.
    file, _ = make("short", np.arange(40.0), "deflate")
    with file:
        file["a"].id.write_direct_chunk((10,), zlib.compress(np.arange(4.0).tobytes()))
        column = open_column(file["a"].id, np.dtype("f8"))
        with pytest.raises(OSError, match="32 bytes, expected 80"):
            column.read(np.arange(12, 14))


@pytest.mark.parametrize("kind", ["f8", "f4"])
@pytest.mark.parametrize("rows", [1, 10, 11, 4000])
@pytest.mark.parametrize("how", ["plain chunks", "deflate", "stored"])
def test_first_values_of_chunks(tmp_path, kind, rows, how):
    # Noise needs the longest code tables.
    values = np.random.default_rng(1).normal(size=rows).astype(kind)
    chunk = 10 if rows < 100 else 1000
    options = PIPELINES[how][0] | {"chunks": (chunk,), "maxshape": (None,)}
    path = tmp_path / "firsts.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=values, **options)
    with h5py.File(path) as file, open(path, "rb") as stream:
        column = open_column(file["a"].id, np.dtype(kind))
        assert np.array_equal(column.firsts(stream.fileno()), values[::chunk])


def test_first_values_that_are_not_cheap_or_not_there(tmp_path):
    path = tmp_path / "firsts.h5"
    with h5py.File(path, "w") as file:
        for name, how in (("shuffled", "shuffle, deflate"), ("lzf", "lzf"), ("damaged", "deflate")):
            options = PIPELINES[how][0] | {"chunks": (10,)}
            file.create_dataset(name, data=np.arange(30.0), **options)
        file.create_dataset("holes", (30,), "f8", chunks=(10,), fillvalue=3)[10:20] = 5
        file.create_dataset("whole numbers", data=np.arange(30), chunks=(10,))
        file["damaged"].id.write_direct_chunk((10,), b"\xff" * 40)
    with h5py.File(path) as file, open(path, "rb") as stream:

        def firsts(name, kind="f8"):
            return open_column(file[name].id, np.dtype(kind)).firsts(stream.fileno())

        assert np.isnan(firsts("shuffled")).all()
        assert np.array_equal(firsts("damaged"), [0, np.nan, 20], equal_nan=True)
        assert np.array_equal(firsts("holes"), [np.nan, 5, np.nan], equal_nan=True)
        assert firsts("lzf") is None and firsts("whole numbers", "i8") is None
        column = open_column(file["damaged"].id, np.dtype("f8"))
        closed = os.dup(stream.fileno())
        os.close(closed)
        assert np.isnan(column.firsts(closed)).all()
