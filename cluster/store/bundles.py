"""Bundles on the shared storage: ``mlflow-artifacts/bundles/<policy>/<digest>``, stored once, never written again.

On a folder that all nodes share, that folder is the bundle. From an object store a node fetches it once into its own home.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from cluster.bundle import Bundle
from cluster.errors import BundleError, StoreError
from cluster.settings import MLFLOW_ARTIFACTS, Settings
from cluster.storage import is_url, join_url, open_storage, plain_url, shown_url

__all__ = ["fetched_path", "load_bundle", "store_bundle", "stored_url"]


def stored_url(settings: Settings, policy: str, digest: str) -> str:
    """Where a bundle of that digest is stored: a path, or a URL that ``open_storage`` takes."""
    return join_url(settings.storage_url, MLFLOW_ARTIFACTS, "bundles", policy, digest)


def fetched_path(settings: Settings, digest: str) -> Path:
    """Where this machine keeps its copy of a bundle from an object store."""
    return settings.home / "bundles" / digest


def store_bundle(settings: Settings, policy: str, bundle: Bundle) -> str:
    """Copy the bundle to the shared storage and verify the copy; returns its URI. Raises ``StoreError`` when that cannot be written."""
    url = stored_url(settings, policy, bundle.digest)
    if is_url(url):
        open_storage(url).upload_folder(bundle.path, "")
        # What is registered is the copy: it may differ if the original changed while it was read.
        copy = fetched_path(settings, bundle.digest)
        shutil.rmtree(copy, ignore_errors=True)
        load_bundle(copy, bundle.digest, url)
        return plain_url(url)
    return _store_in_folder(bundle, Path(url)).as_uri()


def load_bundle(path: Path, digest: str, fetch_url: str | None = None) -> Bundle:
    """Verify and read the bundle at ``path``; one that is not there is fetched first, where ``fetch_url`` says from where.

    Raises ``BundleError`` when a byte differs from what was registered, or the object store does not give it.
    """
    if fetch_url is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".incoming-"))
        try:
            copy = temporary / "bundle"
            open_storage(fetch_url).download_folder("", copy)
            Bundle.load(copy, expected_digest=digest)
            if not path.exists():  # another process was faster: its copy has the same bytes
                os.replace(copy, path)
        except FileNotFoundError:
            raise BundleError(f"{shown_url(fetch_url)}: the registered bundle is no longer there; register it again") from None
        except StoreError as error:
            raise BundleError(str(error)) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Bundle.load(path, expected_digest=digest)


def _store_in_folder(bundle: Bundle, target: Path) -> Path:
    """Copy the bundle to ``target`` so that the name only ever appears complete; returns that path."""
    folder = target.parent
    if target.exists():
        try:
            Bundle.load(target, expected_digest=bundle.digest)
        except BundleError:
            # Damaged after it was stored; the one in hand is whole and has the same digest.
            shutil.rmtree(target)
        else:
            return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".incoming-"))
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror}; set GAITWAY_STORAGE_PATH to a writable folder") from None
    try:
        copy = temporary / "bundle"
        shutil.copytree(bundle.path, copy)
        # What is registered is the copy: it may differ if the original changed while it was read.
        Bundle.load(copy, expected_digest=bundle.digest)
        for path in [*copy.rglob("*"), copy]:
            _flush_to_disk(path)
        os.replace(copy, target)
        _flush_to_disk(folder)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
