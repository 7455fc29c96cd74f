"""A bundle is one folder: ``policy.onnx · contract.json · card.md · manifest.json`` and whatever else its maker adds.

``manifest.json`` lists the SHA-256 of every other file. ``seal`` writes it last; ``verify`` refuses a folder with a file that
is missing, changed or not listed. The digest of the manifest itself is the bundle's identity.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from cluster.config import write_text_atomic
from cluster.contract import PolicyContract
from cluster.errors import BundleError

__all__ = ["CARD_FILE", "CONTRACT_FILE", "MANIFEST_FILE", "ONNX_FILE", "Bundle", "seal", "sha256_file", "verify"]

ONNX_FILE = "policy.onnx"
CONTRACT_FILE = "contract.json"
CARD_FILE = "card.md"
MANIFEST_FILE = "manifest.json"
REQUIRED_FILES = (ONNX_FILE, CONTRACT_FILE, CARD_FILE)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    path: Path
    contract: PolicyContract
    digest: str
    """SHA-256 of the manifest, hexadecimal."""

    @property
    def onnx_path(self) -> Path:
        """The ONNX file."""
        return self.path / ONNX_FILE

    @classmethod
    def load(cls, path: Path, expected_digest: str | None = None) -> Bundle:
        """Verify a folder and read its contract. Raises ``BundleError`` when anything does not match."""
        digest = verify(path)
        if expected_digest is not None and digest != expected_digest:
            raise BundleError(f"{path}: manifest digest {digest[:12]} is not the registered {expected_digest[:12]}; export it again")
        return cls(path=Path(path), contract=PolicyContract.load(Path(path) / CONTRACT_FILE), digest=digest)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def seal(path: Path) -> str:
    """Write ``manifest.json`` over every file in the folder and return its digest. Raises ``BundleError`` if a part is missing."""
    path = Path(path)
    missing = [name for name in REQUIRED_FILES if not (path / name).is_file()]
    if missing:
        raise BundleError(f"{path}: cannot seal a bundle without {', '.join(missing)}")
    files = {name: sha256_file(path / name) for name in _listing(path)}
    write_text_atomic(path / MANIFEST_FILE, json.dumps({"sha256": files}, indent=2, sort_keys=True) + "\n")
    return sha256_file(path / MANIFEST_FILE)


def verify(path: Path) -> str:
    """Check every file against the manifest; return the manifest's digest. Raises ``BundleError`` naming the file that differs."""
    path = Path(path)
    try:
        listed = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))["sha256"]
        expected = {str(name): str(value) for name, value in listed.items()}
    except FileNotFoundError:
        raise BundleError(f"{path}: no {MANIFEST_FILE} here; this is not an exported bundle") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BundleError(f"{path / MANIFEST_FILE}: not a valid manifest; export the bundle again") from None
    found = set(_listing(path))
    if missing := sorted((set(expected) | set(REQUIRED_FILES)) - found):
        raise BundleError(f"{path}: {missing[0]} is missing; export the bundle again")
    if unlisted := sorted(found - set(expected)):
        raise BundleError(f"{path}: {unlisted[0]} is not in the manifest; export the bundle again")
    for name, value in sorted(expected.items()):
        if sha256_file(path / name) != value:
            raise BundleError(f"{path}: {name} does not match its SHA-256 in the manifest; export the bundle again")
    return sha256_file(path / MANIFEST_FILE)


def _listing(path: Path) -> list[str]:
    files = (item for item in path.rglob("*") if item.is_file())
    return sorted(item.relative_to(path).as_posix() for item in files if item.name != MANIFEST_FILE)
