"""Tokens: shown once, hashed at rest, bound to a role, ended at once; every change leaves a trail."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from cluster.errors import UsageError
from cluster.settings import Settings
from cluster.store import tables
from cluster.store.database import Database, open_database
from cluster.store.tokens import create_token, ensure_own_token, find_token, list_audit, list_tokens, own_token, revoke_token


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    with closing(open_database(settings)) as database:
        yield database


def test_a_token_is_found_by_its_whole_text_only_and_its_secret_is_stored_nowhere(db: Database) -> None:
    token, text = create_token(db, "dog 7", "robot", actor="me", policies=["pidog-run"], requests_per_s=60.0)
    assert find_token(db, text) == token
    assert (token.policies, token.requests_per_s) == (("pidog-run",), 60.0)
    swapped = text[:-1] + ("A" if text[-1] != "A" else "B")
    for wrong in (swapped, text[:-1], text + "A", text.replace(token.id, "0" * 12), "", "gw_", "Bearer " + text, text.upper()):
        assert find_token(db, wrong) is None
    with db.read() as connection:
        everything = repr(connection.execute(select(tables.tokens)).all()) + repr(connection.execute(select(tables.audit)).all())
    assert text.rpartition("_")[2] not in everything
    assert text.split("_", 2)[2] not in everything


def test_expired_and_revoked_tokens_are_not_found(db: Database) -> None:
    token, text = create_token(db, "short", "viewer", actor="me", expires_in_s=60.0)
    assert find_token(db, text) is not None
    with db.write() as connection:
        connection.execute(update(tables.tokens).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert find_token(db, text) is None
    other, text = create_token(db, "other", "operator", actor="me")
    assert revoke_token(db, "other", actor="boss").id == other.id
    assert find_token(db, text) is None
    assert revoke_token(db, other.id, actor="boss").revoked_at is not None  # again: nothing changes
    assert [(entry["actor"], entry["action"], entry["target"]) for entry in list_audit(db)] == [
        ("boss", "token.revoke", other.id),
        ("me", "token.create", other.id),
        ("me", "token.create", token.id),
    ]


def test_what_cannot_be_meant_is_refused(db: Database) -> None:
    with pytest.raises(UsageError, match="only a robot's token is bound to policies, this is a viewer's"):
        create_token(db, "x", "viewer", actor="me", policies=["a"])
    with pytest.raises(UsageError, match="must be above 0"):
        create_token(db, "x", "viewer", actor="me", expires_in_s=0.0)
    with pytest.raises(UsageError, match="no token 'nobody'"):
        revoke_token(db, "nobody", actor="me")
    for _ in range(2):
        create_token(db, "twin", "viewer", actor="me")
    with pytest.raises(UsageError, match="2 tokens are named 'twin'; give the id"):
        revoke_token(db, "twin", actor="me")


def test_a_home_has_one_admin_token_that_only_its_owner_reads(settings: Settings, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAITWAY_TOKEN", raising=False)
    assert own_token(settings) is None
    path = ensure_own_token(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = own_token(settings)
    assert text is not None
    found = find_token(db, text)
    assert found is not None
    assert found.role == "admin"
    assert ensure_own_token(settings) == path
    assert own_token(settings) == text
    revoke_token(db, found.id, actor="me")
    ensure_own_token(settings)  # one that works takes its place
    assert own_token(settings) != text
    assert [token.id == found.id for token in list_tokens(db)] == [False, True]
    monkeypatch.setenv("GAITWAY_TOKEN", "gw_given")
    assert own_token(settings) == "gw_given"
