"""HDF5 files from anybody, read safely: no link is followed, no other file is touched, nothing larger than it can be is read.

HDF5 can point at other files in four ways (external links, soft links through them, virtual datasets, external storage) and at its
own groups in circles; all of these are refused. What a dataset declares is compared with what it stores before it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cluster.lerobot.errors import DatasetError
from cluster.lerobot.features import Feature
from trainables.datasets.sources.images import encode_png, image_format, image_shape, is_pixels
from trainables.datasets.sources.limits import (
    MAX_CHUNK_BYTES,
    MAX_EPISODE_BYTES,
    MAX_EXPANSION,
    MIB,
    SMALL_BYTES,
    check_expansion,
    check_not_empty,
    unreadable,
)

__all__ = ["Array", "child", "equal_lengths", "leaves", "open_hdf5"]

MAX_DEPTH = 16
IMAGES_AT_A_TIME = 64


@contextmanager
def open_hdf5(file: Path, what: str) -> Iterator[h5py.File]:
    """Open for reading; whatever HDF5 reports on the way becomes a ``DatasetError``. ``what``: name of the format."""
    check_not_empty(file, what)
    with unreadable(file, "HDF5", KeyError, RuntimeError, ValueError, TypeError), h5py.File(file, "r") as opened:
        yield opened


def child(group: h5py.Group, name: str, file: Path) -> h5py.Group | h5py.Dataset | None:
    """What hangs in a group under ``name``; None: nothing. Raises ``DatasetError`` for a link."""
    if name not in group.keys():  # noqa: SIM118  (``in group`` would follow the link)
        return None
    where = f"{file}: {group.name.rstrip('/')}/{name}"
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise DatasetError(f"{where} is a link to another file ({link.filename!r}); only what is in the file itself is read")
    if isinstance(link, h5py.SoftLink):
        raise DatasetError(f"{where} is a soft link to {link.path!r}; only what is in the file itself, without links, is read")
    return group[name]


def leaves(group: h5py.Group, file: Path, _above: tuple[Any, ...] = ()) -> Iterator[tuple[str, Array]]:
    """Every dataset below a group with its path from there, in the order of the names.

    Raises:
        DatasetError: a link, a circle, or a dataset that must not be read (see ``Array``).
    """
    address = h5py.h5o.get_info(group.id).addr
    if address in _above:
        raise DatasetError(f"{file}: {group.name} holds itself: its links go in a circle")
    if len(_above) >= MAX_DEPTH:
        raise DatasetError(f"{file}: {group.name} is more than {MAX_DEPTH} groups deep")
    for name in sorted(group.keys()):
        found = child(group, name, file)
        if isinstance(found, h5py.Dataset):
            yield name, Array.of(found, file)
        elif isinstance(found, h5py.Group):
            for path, array in leaves(found, file, (*_above, address)):
                yield f"{name}/{path}", array


@dataclass(frozen=True)
class Array:
    """A dataset that may be read: its frames are the first axis."""

    dataset: h5py.Dataset
    file: Path

    @classmethod
    def of(cls, dataset: h5py.Dataset, file: Path) -> Array:
        """Checked. Raises ``DatasetError`` where it would be read from another file, or declares more than it can hold."""
        where = f"{file}: {dataset.name}"
        if dataset.is_virtual or dataset.external:
            raise DatasetError(f"{where} keeps its values in other files; only what is in the file itself is read")
        if dataset.shape is None:
            raise DatasetError(f"{where} has no values")
        declared = dataset.size * max(1, dataset.dtype.itemsize)
        check_expansion(where, declared, dataset.id.get_storage_size())
        chunk = int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize if dataset.chunks else 0
        if chunk > MAX_CHUNK_BYTES:
            raise DatasetError(f"{where} has chunks of {chunk / MIB:.0f} MiB; up to {MAX_CHUNK_BYTES // MIB} MiB are read")
        return cls(dataset, file)

    @property
    def where(self) -> str:
        """File and place in it."""
        return f"{self.file}: {self.dataset.name}"

    @property
    def length(self) -> int:
        """Frames; a single value has one."""
        return self.dataset.shape[0] if self.dataset.shape else 1

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame, as LeRobot has it: ``(1,)`` for a scalar."""
        return self.dataset.shape[1:] or (1,)

    @property
    def is_images(self) -> bool:
        """Whether each frame is a picture, as pixels or as an encoded file."""
        return self._is_encoded or is_pixels(self.dataset.dtype, self.dataset.shape[1:])

    @property
    def is_text(self) -> bool:
        """Whether its values are strings."""
        return h5py.check_string_dtype(self.dataset.dtype) is not None

    @property
    def _is_encoded(self) -> bool:
        if h5py.check_vlen_dtype(self.dataset.dtype) == np.uint8:
            return True
        # Encoded files of equal length, as Minari stores them, look like vectors of bytes.
        is_bytes = self.dataset.dtype == np.uint8 and len(self.dataset.shape) == 2 and self.length > 0 and self.frame_shape[0] > 64
        return bool(is_bytes and image_format(self.dataset[0, :16].tobytes()))

    def feature(self, name: str) -> Feature:
        """As a feature of a dataset. Raises ``DatasetError`` for what is neither numbers nor pictures."""
        if self.is_images:
            shape = image_shape(bytes(self.dataset[0]), self.where) if self._is_encoded else self.dataset.shape[1:]
            return Feature(name, "image", shape, ("height", "width", "channels"))
        if self.dataset.dtype.kind not in "biuf" or self.dataset.dtype.itemsize > 8:
            raise DatasetError(
                f"{self.where} holds {self.dataset.dtype}; numbers (bool, int, uint, float up to 64 bit) and pictures are read"
            )
        return Feature(name, self.dataset.dtype.newbyteorder("=").name, self.frame_shape)

    def read(self, frames: int | None = None) -> np.ndarray:
        """Its first ``frames`` frames, or all, as an episode has them: images as encoded files.

        Raises:
            DatasetError: there are fewer, or they are more than one process should hold.
        """
        wanted = self.length if frames is None else frames
        if self.length < wanted:
            raise DatasetError(f"{self.where} has {self.length} frames, {wanted} are wanted")
        if self._is_encoded:
            return self._encoded(wanted)
        size = wanted * int(np.prod(self.dataset.shape[1:], dtype=object)) * self.dataset.dtype.itemsize
        if size > MAX_EPISODE_BYTES:
            raise DatasetError(f"{self.where} has an episode of {size / MIB:.0f} MiB; up to {MAX_EPISODE_BYTES // MIB} MiB are read")
        if self.is_images:
            images = np.empty(wanted, dtype=object)
            for frame in range(wanted):
                images[frame] = encode_png(self.dataset[frame])
            return images
        values = self.dataset[:wanted]
        if self.dataset.shape[1:] == (1,):
            values = values[:, 0]
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _encoded(self, wanted: int) -> np.ndarray:
        # Many references to one stored picture would be a bomb that no declared size shows.
        limit = min(MAX_EPISODE_BYTES, max(SMALL_BYTES, MAX_EXPANSION * self.file.stat().st_size))
        images, total = np.empty(wanted, dtype=object), 0
        for start in range(0, wanted, IMAGES_AT_A_TIME):
            for offset, image in enumerate(self.dataset[start : min(start + IMAGES_AT_A_TIME, wanted)]):
                images[start + offset] = image.tobytes()
                total += len(images[start + offset])
            if total > limit:
                raise DatasetError(f"{self.where} has more than {limit // MIB} MiB of images in one episode; no more is read")
        return images


def equal_lengths(arrays: Sequence[tuple[str, Array]], where: str) -> int:
    """Frames of an episode whose parts must be equally long. Raises ``DatasetError`` that begins with ``where``."""
    lengths = {path: array.length for path, array in arrays}
    if len(set(lengths.values())) > 1:
        raise DatasetError(f"{where}: its parts differ in length: {', '.join(f'{path} {length}' for path, length in lengths.items())}")
    return next(iter(lengths.values()))
