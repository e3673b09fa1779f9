"""Rows of one-dimensional HDF5 datasets, their chunks inflated outside HDF5's lock.

HDF5 hands out the chunks of a dataset as they are stored; libdeflate inflates them in half the
time of HDF5's own filter, and without holding a lock. What is stored in another way than ATL06
is (other filters, types that need conversion, contiguous data, chunks never written), and what
does not inflate, HDF5 reads itself: values, and errors for damaged chunks, are HDF5's either way.
One thing is told apart: a chunk that inflates to too few bytes is an error here.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from functools import cache

import deflate
import numpy as np
from h5py import h5d, h5s, h5t, h5z

#: Bytes that hold the start of a deflate stream: the code tables (less than 300 bytes, RFC 1951)
#: and a value.
_HEAD_BYTES = 512


class _UnusualError(Exception):
    """A chunk that is better left to HDF5."""


@dataclass(slots=True)
class Column:
    """A dataset whose rows can be read.

    Parameters
    ----------
    dataset
        As h5py's low-level interface opens it.
    kind
        Type in memory.
    shape
        Rows come first.
    chunk_rows
        Rows of a chunk; 0 where HDF5 reads this dataset.
    filters
        HDF5's codes of the filters that made the chunks, in order.
    """

    dataset: h5d.DatasetID
    kind: np.dtype
    shape: tuple[int, ...]
    chunk_rows: int
    filters: tuple[int, ...]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return values at rows; only the chunks that hold them are read.

        Parameters
        ----------
        rows
            Positions in ascending order, none of them twice.

        Raises
        ------
        OSError
            If a chunk is damaged or the file cannot be read.
        """
        if rows.size == 0:
            return np.empty((0, *self.shape[1:]), self.kind)
        if self.chunk_rows:
            try:
                return self._read_chunks(rows)
            except _UnusualError:
                pass
        return self._read_plain(rows)

    def firsts(self, descriptor: int) -> np.ndarray | None:
        """Return the first value of each chunk, at the cost of the start of its bytes.

        Only chunks without filter and plain deflate streams show their first value so cheaply;
        it is NaN for others, and None is returned for a dataset that HDF5 reads. Nothing says
        whether these bytes are damaged.

        Parameters
        ----------
        descriptor
            Descriptor of the open file; it starts with HDF5's signature (no user block).
        """
        if not self.chunk_rows or self.kind.kind != "f":
            return None
        chunks: list[h5d.StoreInfo] = []
        self.dataset.chunk_iter(chunks.append)
        firsts = {
            chunk.chunk_offset[0]: self._first(
                descriptor, chunk.byte_offset, chunk.size, self._filters(chunk.filter_mask)
            )
            for chunk in chunks
        }
        return np.array(
            [firsts.get(row, np.nan) for row in range(0, self.shape[0], self.chunk_rows)]
        )

    def _first(self, descriptor: int, offset: int, size: int, filters: tuple[int, ...]) -> float:
        """Return the first value of a chunk, NaN where its first bytes don't tell."""
        if filters not in ((), (h5z.FILTER_DEFLATE,)):
            return np.nan
        width = self.kind.itemsize
        try:
            head = os.pread(descriptor, min(size, _HEAD_BYTES), offset)
            if filters:
                head = zlib.decompressobj().decompress(head, width)
        # A damaged index holds any address.
        except (OSError, OverflowError, zlib.error):
            return np.nan
        return float(np.frombuffer(head, self.kind, 1)[0]) if len(head) >= width else np.nan

    def _filters(self, mask: int) -> tuple[int, ...]:
        """Return the filters that made a chunk: a bit of its mask is set for each left out."""
        if not mask:
            return self.filters
        return tuple(code for bit, code in enumerate(self.filters) if not mask >> bit & 1)

    def _read_plain(self, rows: np.ndarray) -> np.ndarray:
        start, stop = int(rows[0]), int(rows[-1]) + 1
        shape = (stop - start, *self.shape[1:])
        values: np.ndarray = np.empty(shape, self.kind)
        space = self.dataset.get_space()
        space.select_hyperslab((start,) + (0,) * (len(shape) - 1), shape)
        self.dataset.read(h5s.create_simple(shape), space, values, memory_type(self.kind))
        return values if rows.size == len(values) else values[rows - start]

    def _read_chunks(self, rows: np.ndarray) -> np.ndarray:
        values: np.ndarray = np.empty(rows.size, self.kind)
        step = self.chunk_rows
        start, last = 0, rows.size - 1
        while start <= last:
            edge = int(rows[start]) // step * step
            stop = rows.size if rows[last] < edge + step else int(rows.searchsorted(edge + step))
            chunk = self._inflate(edge)
            low, high = int(rows[start]) - edge, int(rows[stop - 1]) - edge + 1
            if high - low == stop - start:
                values[start:stop] = chunk[low:high]
            else:
                values[start:stop] = chunk[rows[start:stop] - edge]
            start = stop
        return values

    def _inflate(self, first: int) -> np.ndarray:
        """Return all values of the chunk with a first row, also those beyond the last row."""
        content: bytes | bytearray | np.ndarray
        try:
            mask, content = self.dataset.read_direct_chunk((first,))
        except (OSError, RuntimeError):
            raise _UnusualError from None
        size = self.chunk_rows * self.kind.itemsize
        for code in reversed(self._filters(mask)):
            if code == h5z.FILTER_DEFLATE:
                try:
                    content = deflate.zlib_decompress(content, size)
                except deflate.DeflateError:
                    raise _UnusualError from None
                # HDF5 would make up the rest.
                if len(content) < size:
                    raise OSError(f"a chunk holds {len(content)} bytes, expected {size}")
            elif len(content) == size and self.kind.itemsize > 1:
                content = _unshuffle(content, self.kind.itemsize)
        if len(content) != size:
            raise _UnusualError
        return np.frombuffer(content, self.kind)


def _unshuffle(content: bytes | bytearray | np.ndarray, width: int) -> np.ndarray:
    """Return values whose bytes were stored as all first bytes, all second bytes and so on."""
    planes = np.frombuffer(content, np.uint8).reshape(width, -1)
    values = np.empty(planes.shape[::-1], np.uint8)
    for number, plane in enumerate(planes):
        values[:, number] = plane
    return values.reshape(-1)


@cache
def memory_type(kind: np.dtype) -> h5t.TypeID:
    """Return HDF5's name of a NumPy type (h5py makes it anew for every call)."""
    return h5t.py_create(kind)


def open_column(dataset: h5d.DatasetID, kind: np.dtype) -> Column:
    """Return a dataset as a column.

    Parameters
    ----------
    dataset
        Of one dimension or more.
    kind
        Type wanted in memory; HDF5 converts where the file's differs.
    """
    shape = dataset.shape
    left_to_hdf5 = Column(dataset, kind, shape, 0, ())
    if not shape or len(shape) > 1 or dataset.get_type() != memory_type(kind):
        return left_to_hdf5
    plan = dataset.get_create_plist()
    if plan.get_layout() != h5d.CHUNKED:
        return left_to_hdf5
    filters = []
    for number in range(plan.get_nfilters()):
        code, _, options, _ = plan.get_filter(number)
        if code == h5z.FILTER_SHUFFLE and options != (kind.itemsize,):
            return left_to_hdf5
        if code not in (h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE):
            return left_to_hdf5
        filters.append(code)
    return Column(dataset, kind, shape, plan.get_chunk()[0], tuple(filters))
