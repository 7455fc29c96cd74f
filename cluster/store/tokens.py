"""Who may do what at the endpoint: bearer tokens, and the trail of who changed what.

A token reads ``gw_<id>_<secret>``. Its secret is 256 random bits, shown once and kept as its SHA-256 only: of a random secret of that
length a plain digest cannot be guessed back, and needs none of the slow hashes that passwords do (NIST SP 800-63B, 5.1.2.2).

| role | may |
|---|---|
| ``robot`` | act, open sessions, report outcomes and read what is served, for the policies named in its token |
| ``viewer`` | read everything but tokens |
| ``operator`` | that, and start, change and end comparisons |
| ``admin`` | everything |
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import Connection, insert, or_, select, update

from cluster.config import Config, write_bytes_atomic
from cluster.errors import StoreError, UsageError
from cluster.settings import Settings
from cluster.store.database import Database, open_database
from cluster.store.tables import audit, tokens

__all__ = [
    "Role",
    "Token",
    "create_token",
    "ensure_own_token",
    "find_token",
    "list_audit",
    "list_tokens",
    "local_actor",
    "own_token",
    "record_audit",
    "revoke_token",
    "token_id",
]

Role = Literal["robot", "viewer", "operator", "admin"]

_FORM = re.compile(r"gw_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_OWN_VARIABLE = "GAITWAY_TOKEN"


class Token(Config):
    """One token as stored, without its secret."""

    id: str = Field(description="its key, the first part of the text")
    name: str = Field(min_length=1, max_length=128, description="what it is for")
    role: Role = Field(description="robot, viewer, operator or admin")
    policies: tuple[str, ...] = Field((), description="policies that a robot's token is good for; empty: all")
    requests_per_s: float | None = Field(None, gt=0, description="steps and requests a second; None: the endpoint's own limit")
    created_at: datetime = Field(description="UTC")
    expires_at: datetime | None = Field(None, description="UTC; None: never")
    revoked_at: datetime | None = Field(None, description="UTC; None: it is good")

    def is_good(self, at: datetime | None = None) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or (at or datetime.now(UTC)) < self.expires_at)


def create_token(
    db: Database,
    name: str,
    role: Role,
    *,
    actor: str,
    policies: Sequence[str] = (),
    requests_per_s: float | None = None,
    expires_in_s: float | None = None,
) -> tuple[Token, str]:
    """Make a token.

    Args:
        db: the database.
        name: what it is for.
        role: see the module.
        actor: who makes it, for the trail.
        policies: what a robot's token is good for; empty: every policy.
        requests_per_s: its own limit; None: the endpoint's.
        expires_in_s: seconds until it stops working; None: never.

    Returns:
        What is stored, and the text, which cannot be had again.
    """
    if policies and role != "robot":
        raise UsageError(f"policies {', '.join(policies)}: only a robot's token is bound to policies, this is a {role}'s")
    if expires_in_s is not None and expires_in_s <= 0:
        raise UsageError(f"expires_in_s {expires_in_s:g}: must be above 0")
    now = datetime.now(UTC)
    token = Token(
        id=secrets.token_hex(6),
        name=name,
        role=role,
        policies=tuple(policies),
        requests_per_s=requests_per_s,
        created_at=now,
        expires_at=None if expires_in_s is None else now + timedelta(seconds=expires_in_s),
    )
    secret = secrets.token_urlsafe(32)
    with db.write() as connection:
        connection.execute(insert(tokens).values(**token.model_dump() | {"policies": list(policies)}, secret_sha256=_digest(secret)))
        record_audit(connection, actor, "token.create", token.id, {"name": name, "role": role, "policies": list(policies)})
    return token, f"gw_{token.id}_{secret}"


def find_token(db: Database, text: str) -> Token | None:
    """The good token with this text, or None: unknown, wrong, expired and revoked are one to the caller."""
    form = _FORM.fullmatch(text)
    if form is None:
        return None
    with db.read() as connection:
        row = connection.execute(select(tokens).where(tokens.c.id == form[1])).one_or_none()
    if row is None or not hmac.compare_digest(row.secret_sha256, _digest(form[2])):
        return None
    token = _token(row)
    return token if token.is_good() else None


def token_id(text: str) -> str | None:
    """The part of a token's text that is no secret; None when it is no token of ours."""
    form = _FORM.fullmatch(text)
    return form[1] if form else None


def list_tokens(db: Database) -> list[Token]:
    """All tokens, the newest first."""
    with db.read() as connection:
        return [_token(row) for row in connection.execute(select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.id))]


def revoke_token(db: Database, name_or_id: str, *, actor: str) -> Token:
    """End a token at once; revoking it again changes nothing. Raises ``UsageError`` when none, or more than one, is meant."""
    with db.write() as connection:
        meant = select(tokens).where(or_(tokens.c.id == name_or_id, tokens.c.name == name_or_id))
        rows = connection.execute(meant).all()
        good = [row for row in rows if row.revoked_at is None] or rows[:1]
        if not good:
            raise UsageError(f"no token {name_or_id!r}; `gaitway token ls` lists them")
        if len(good) > 1:
            raise UsageError(f"{len(good)} tokens are named {name_or_id!r}; give the id: {', '.join(row.id for row in good)}")
        (row,) = good
        if row.revoked_at is None:
            connection.execute(update(tokens).where(tokens.c.id == row.id).values(revoked_at=datetime.now(UTC)))
            record_audit(connection, actor, "token.revoke", row.id, {"name": row.name})
        return _token(connection.execute(select(tokens).where(tokens.c.id == row.id)).one())


def record_audit(connection: Connection, actor: str, action: str, target: str, detail: Mapping[str, Any] | None = None) -> None:
    """Write down, in the transaction of the change itself, who changed what."""
    row = {"at": datetime.now(UTC), "actor": actor[:160], "action": action, "target": target[:160], "detail": dict(detail or {})}
    connection.execute(insert(audit).values(row))


def list_audit(db: Database, limit: int = 100) -> list[dict[str, Any]]:
    """The latest changes, the newest first: ``at``, ``actor``, ``action``, ``target``, ``detail``."""
    columns = (audit.c.at, audit.c.actor, audit.c.action, audit.c.target, audit.c.detail)
    with db.read() as connection:
        return [dict(row._mapping) for row in connection.execute(select(*columns).order_by(audit.c.id.desc()).limit(limit))]


def local_actor() -> str:
    """Who changes something from this machine's command line, for the trail."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"cli:{os.getuid()}"


def own_token(settings: Settings) -> str | None:
    """The token that this home's commands use: ``GAITWAY_TOKEN``, or the file that ``gaitway serve up`` wrote."""
    given = os.environ.get(_OWN_VARIABLE)
    if given:
        return given.strip()
    path = settings.token_path
    return path.read_text(encoding="ascii").strip() if path.is_file() else None


def ensure_own_token(settings: Settings) -> Path:
    """See to it that this home has an admin token that works, in a file that only its owner reads; the file."""
    path = settings.token_path
    with closing(open_database(settings)) as db:
        if path.is_file():
            found = find_token(db, path.read_text(encoding="ascii").strip())
            if found is not None and found.role == "admin":
                return path
        _, text = create_token(db, "this machine's commands", "admin", actor=local_actor())
    try:
        write_bytes_atomic(path, f"{text}\n".encode("ascii"), mode=0o600)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def _token(row: Any) -> Token:
    values = {name: value for name, value in row._mapping.items() if name != "secret_sha256"}
    return Token.model_validate(values | {"policies": tuple(values["policies"])})
