"""Registered versions of policies: ``models:/pidog-run/7`` with aliases such as ``@champion``, in MLflow's model registry.

Registering verifies a bundle, copies it to the shared storage (``cluster.store.bundles``) and makes a model version whose source
is that copy. The copy's name is its digest: a bundle is stored once, never written again, and the same bundle registered twice
is the same version. Loading verifies it once more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from cluster.bundle import Bundle
from cluster.errors import BundleError, StoreError
from cluster.settings import Settings
from cluster.storage import is_url
from cluster.store.bundles import fetched_path, load_bundle, store_bundle, stored_url
from cluster.store.mlflow_access import mlflow_client, mlflow_errors, mlflow_lock

__all__ = [
    "RegisteredVersion",
    "UnknownVersionError",
    "delete_alias",
    "get_version",
    "list_policies",
    "list_versions",
    "register_bundle",
    "set_alias",
]

_DIGEST_TAG = "gaitway.bundle_digest"


class UnknownVersionError(StoreError):
    """The registry has no such policy, version or alias."""


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a policy in the registry."""

    policy: str
    version: int
    path: Path
    """The stored bundle; this machine's copy of it when the storage is an object store."""
    digest: str
    """SHA-256 of its manifest when it was registered."""
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str | None
    created_at: datetime
    fetch_url: str | None = None
    """Where ``path`` is fetched from when it is not there yet; None: the storage is a folder."""

    @property
    def uri(self) -> str:
        """What MLflow calls it."""
        return f"models:/{self.policy}/{self.version}"

    def load(self) -> Bundle:
        """Verify the stored bundle against what was registered, fetching it if need be. Raises ``BundleError`` when a byte differs."""
        return load_bundle(self.path, self.digest, self.fetch_url)


def register_bundle(
    settings: Settings, policy: str, bundle_path: str | os.PathLike[str], run_id: str | None = None, tags: Mapping[str, Any] | None = None
) -> int:
    """Verify a bundle, store it and register it as the policy's next version.

    Registering the same bundle again, also after a crash half-way, gives the version that it already has. Safe from several
    processes at once.

    Args:
        settings: where the registry and the shared storage are.
        policy: registered model; the bundle's contract must name the same.
        bundle_path: folder of a sealed bundle.
        run_id: MLflow run that it came from.
        tags: tags of the version.

    Returns:
        The version number.

    Raises:
        BundleError: the bundle is incomplete, changed since it was sealed, or made for another policy.
        StoreError: the registry or the storage refused.
    """
    bundle = Bundle.load(Path(bundle_path))
    if bundle.contract.policy != policy:
        raise BundleError(
            f"{bundle_path}: its contract is for the policy {bundle.contract.policy!r}, not {policy!r}; export it as {policy!r}"
        )
    client = mlflow_client(settings)
    with mlflow_lock(settings, "registry"), mlflow_errors(settings):
        stored = store_bundle(settings, policy, bundle)
        if not client.search_registered_models(f"name = '{policy}'"):
            client.create_registered_model(policy)
        for found in _model_versions(client, policy):
            if found.tags.get(_DIGEST_TAG) == bundle.digest:
                return int(found.version)
        made = client.create_model_version(
            policy,
            source=stored,
            run_id=run_id,
            tags={**{key: str(value) for key, value in (tags or {}).items()}, _DIGEST_TAG: bundle.digest},
        )
        return int(made.version)


def set_alias(settings: Settings, policy: str, alias: str, version: int | str) -> None:
    """Point ``@alias`` at a version, or at where another alias points. Raises ``StoreError`` when there is no such version."""
    found = get_version(settings, policy, version)
    with mlflow_errors(settings):
        mlflow_client(settings).set_registered_model_alias(policy, alias.removeprefix("@"), str(found.version))


def delete_alias(settings: Settings, policy: str, alias: str) -> None:
    """Remove ``@alias``; one that is not there is no error."""
    with mlflow_errors(settings):
        mlflow_client(settings).delete_registered_model_alias(policy, alias.removeprefix("@"))


def get_version(settings: Settings, policy: str, version_or_alias: int | str) -> RegisteredVersion:
    """One version by number (``3``, ``"3"``) or alias (``"champion"``, ``"@champion"``). Raises ``UnknownVersionError``."""
    wanted = str(version_or_alias).removeprefix("@")
    versions = list_versions(settings, policy)
    for found in versions:
        if wanted == str(found.version) or wanted in found.aliases:
            return found
    if not versions:
        known = ", ".join(list_policies(settings)) or "none yet"
        raise UnknownVersionError(f"no policy {policy!r} in the registry; it has: {known}")
    known = ", ".join([str(found.version) for found in versions] + [f"@{alias}" for found in versions for alias in found.aliases])
    raise UnknownVersionError(f"policy {policy} has no version or alias {version_or_alias!r}; it has {known}")


def list_policies(settings: Settings) -> list[str]:
    """Names of all registered policies, sorted."""
    client = mlflow_client(settings)
    names: list[str] = []
    token = None
    with mlflow_errors(settings):
        while True:
            page = client.search_registered_models(page_token=token)
            names += [model.name for model in page]
            token = page.token
            if not token:
                return sorted(names)


def list_versions(settings: Settings, policy: str) -> list[RegisteredVersion]:
    """All versions of a policy, the newest first; empty when there is no such policy."""
    client = mlflow_client(settings)
    with mlflow_errors(settings):
        models = client.search_registered_models(f"name = '{policy}'") if "'" not in policy else []
        if not models:
            return []
        # A search's versions do not carry aliases; the model's own table does.
        aliases: dict[str, list[str]] = {}
        for alias, version in client.get_registered_model(policy).aliases.items():
            aliases.setdefault(str(version), []).append(alias)
        found = [_registered(settings, item, aliases.get(str(item.version), [])) for item in _model_versions(client, policy)]
    return sorted(found, key=lambda item: item.version, reverse=True)


def _registered(settings: Settings, item: Any, aliases: list[str]) -> RegisteredVersion:
    tags = dict(item.tags)
    # A version that somebody registered by hand has no digest of ours: its load is refused, not trusted.
    digest = tags.pop(_DIGEST_TAG, "")
    remote = not item.source.startswith("file:") and is_url(item.source)
    return RegisteredVersion(
        policy=item.name,
        version=int(item.version),
        path=fetched_path(settings, digest) if remote else Path(unquote(urlparse(item.source).path)),
        digest=digest,
        aliases=tuple(sorted(aliases)),
        tags=tags,
        run_id=item.run_id or None,
        created_at=datetime.fromtimestamp(item.creation_timestamp / 1000, tz=UTC),
        fetch_url=stored_url(settings, item.name, digest) if remote and digest else None,
    )


def _model_versions(client: Any, policy: str) -> list[Any]:
    items: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{policy}'", page_token=token)
        items += page
        token = page.token
        if not token:
            return items
