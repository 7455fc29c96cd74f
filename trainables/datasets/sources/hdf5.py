"""HDF5 files that somebody else made, opened so that they can do no harm.

A file may point at other files (external links, external storage, virtual datasets), declare terabytes in a few bytes (fill values,
compression), or hold links in a circle. None of that is followed: only hard links are, to a fixed depth, and an array is read when
its declared size is in proportion to what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from cluster.lerobot.errors import DatasetError

__all__ = ["VLEN_BYTES", "arrays_of", "group_in", "open_hdf5", "read_array"]

FREE_BYTES = 64 * 2**20
"""An array up to this size is read whatever it takes on disk."""
MOST_RATIO = 1000
"""Beyond that, an array whose declared size is more than this many times its stored one is refused: deflate reaches 1,032 at most, on
zeros, and recordings 2 to 10."""
MOST_BYTES = 8 * 2**30
"""No episode has an array beyond this."""
MOST_DEPTH = 8
VLEN_BYTES = h5py.vlen_dtype(np.uint8)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """The file, for reading. Raises ``DatasetError`` when it is none, or when reading it fails inside the block."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise DatasetError(f"{path}: not readable HDF5: {' '.join(str(error).split())[:140]}") from None
    except (KeyError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        # h5py says these of objects whose headers are damaged.
        raise DatasetError(f"{path}: damaged HDF5: {' '.join(str(error).split())[:140]}") from None


def group_in(parent: h5py.Group, name: str, path: Path) -> h5py.Group:
    """A group by its name. Raises ``DatasetError`` when it is missing, is no group, or is a link elsewhere."""
    found = _child(parent, name, path)
    if not isinstance(found, h5py.Group):
        raise DatasetError(f"{path}: {_place(parent, name)} is {'missing' if found is None else 'no group'}")
    return found


def arrays_of(group: h5py.Group, path: Path, depth: int = 0) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every array below a group with its path from there (``a/b``), in the order of the names."""
    if depth > MOST_DEPTH:
        raise DatasetError(f"{path}: {group.name}: groups are nested deeper than {MOST_DEPTH}; a link in a circle?")
    for name in sorted(group):
        child = _child(group, name, path)
        if isinstance(child, h5py.Dataset):
            yield name, child
        elif isinstance(child, h5py.Group):
            for rest, array in arrays_of(child, path, depth + 1):
                yield f"{name}/{rest}", array


def read_array(array: h5py.Dataset, path: Path, rows: slice | None = None) -> np.ndarray:
    """The array's numbers, or its encoded images as ``bytes``; only some rows where ``rows`` is given.

    Raises:
        DatasetError: its size is out of proportion, it is stored elsewhere, or it holds neither numbers nor bytes.
    """
    if array.is_virtual or array.external:
        raise DatasetError(f"{path}: {array.name} is stored in other files; only what is in the file is read")
    declared, stored = array.size * max(1, array.dtype.itemsize), array.id.get_storage_size()
    if declared > MOST_BYTES or (declared > FREE_BYTES and declared > MOST_RATIO * stored):
        raise DatasetError(
            f"{path}: {array.name} declares {declared:,} bytes and stores {stored:,}; refused: at most {MOST_RATIO} times as much, "
            f"and {MOST_BYTES:,}"
        )
    if h5py.check_vlen_dtype(array.dtype) == np.dtype(np.uint8):
        images = np.empty(array.shape[0], dtype=object)
        images[:] = [bytes(image) for image in array[:]]
        return images if rows is None else images[rows]
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{path}: {array.name} holds {array.dtype}; numbers are wanted")
    if array.ndim == 0:
        raise DatasetError(f"{path}: {array.name} is one number; an array with a row a frame is wanted")
    values: np.ndarray = array[rows] if rows is not None else array[:]
    return values


def _child(parent: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset | None:
    link = parent.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        target = getattr(link, "filename", None) or getattr(link, "path", "?")
        raise DatasetError(f"{path}: {_place(parent, name)} is a link to {target}; only what is in its own place in the file is read")
    return parent.get(name)


def _place(parent: h5py.Group, name: str) -> str:
    return f"{parent.name.rstrip('/')}/{name}"
