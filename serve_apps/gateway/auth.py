"""Who is asking, and may he: bearer tokens at the door, read from the database once and then from memory.

A step takes tens of microseconds and a database read a millisecond, so a token that was good is taken as good for ``FRESH_S``, then read
again behind the caller's back. A revoked one stops working within that time, in open sessions too. While the database does not answer,
tokens that were good stay good for ``STALE_S``: robots in motion do not fall over because a disk is slow.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from cluster.store.tokens import Role, Token, find_token, token_id
from serve_apps.gateway.problems import RequestProblemError

__all__ = ["Caller", "Gate", "Permission"]

Permission = Literal["act", "describe", "read", "compare", "tokens"]

FRESH_S = 2.0
STALE_S = 300.0
_BURST_S = 1.0
_REMEMBERED = 4096
_MAY: dict[Role, frozenset[Permission]] = {
    "robot": frozenset({"act", "describe"}),
    "viewer": frozenset({"describe", "read"}),
    "operator": frozenset({"describe", "read", "compare"}),
    "admin": frozenset({"act", "describe", "read", "compare", "tokens"}),
}

Read = Callable[..., Coroutine[Any, Any, Token | None]]


class Caller:
    """One token as this replica knows it."""

    __slots__ = ("_credit", "_credited_s", "read_s", "text", "token")

    def __init__(self, text: str, token: Token | None) -> None:
        self.text, self.token = text, token
        self.read_s = time.monotonic()
        self._credit, self._credited_s = 1.0, self.read_s

    @property
    def name(self) -> str:
        """For the trail of changes."""
        return f"token:{self.token.id}:{self.token.name}" if self.token else "nobody"

    def require(self, permission: Permission, policy: str | None = None) -> None:
        """Raise 403 unless the token's role, and its policies, allow it; 401 when it has stopped working."""
        token = self.token
        if token is None:
            raise unauthorized("this token is not valid (any more)")
        if permission not in _MAY[token.role]:
            able = ", ".join(role for role, may in _MAY.items() if permission in may)
            raise RequestProblemError(403, "forbidden", f"a token of role {token.role} may not do this; roles that may: {able}")
        if token.policies and policy is not None and policy not in token.policies:
            raise RequestProblemError(403, "forbidden", f"this token is for {', '.join(token.policies)} only", "policy")

    def spend(self, limit_per_s: float) -> None:
        """Count one request or step; raise 429 beyond the token's own limit, or the endpoint's (a token bucket of one second's worth)."""
        rate = (self.token.requests_per_s if self.token else None) or limit_per_s
        now_s = time.monotonic()
        self._credit = min(1.0, self._credit + (now_s - self._credited_s) / _BURST_S)
        self._credited_s = now_s
        cost = 1.0 / max(1.0, rate * _BURST_S)
        if self._credit < cost:
            wait_s = (cost - self._credit) * _BURST_S
            raise RequestProblemError(429, "too-many-requests", f"more than {rate:g} requests a second", retry_after_s=wait_s)
        self._credit -= cost


class Gate:
    """All callers of one replica.

    Args:
        read: runs ``find_token(database, text)`` in a thread; raises ``RequestProblemError`` 503 while the database does not answer.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._callers: OrderedDict[bytes, Caller] = OrderedDict()
        self._refreshing: dict[Caller, asyncio.Task[RequestProblemError | None]] = {}

    async def admit(self, authorization: str | None) -> Caller:
        """The caller behind an ``Authorization`` header. Raises 401, or 503 when that cannot be known now."""
        text = _bearer(authorization)
        # By digest: looking a secret up in a dict compares it byte by byte.
        key = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        caller = self._callers.get(key)
        if caller is None:
            if token_id(text) is None:
                raise unauthorized("this is no token of this endpoint; `gaitway token create` makes one")
            caller = Caller(text, await self._read(find_token, text))
            self._callers[key] = caller
            if len(self._callers) > _REMEMBERED:
                self._callers.popitem(last=False)
        elif time.monotonic() - caller.read_s > STALE_S and (problem := await self._refresh(caller)) is not None:
            raise problem
        self._callers.move_to_end(key)  # who calls is remembered; made-up tokens push each other out
        self.recheck(caller)
        if caller.token is None:
            raise unauthorized("this token is not known, expired or revoked")
        return caller

    def recheck(self, caller: Caller) -> None:
        """Have a token that was read some time ago read again, without waiting for it."""
        if time.monotonic() - caller.read_s > FRESH_S and caller not in self._refreshing:
            task = asyncio.get_running_loop().create_task(self._refresh(caller))
            self._refreshing[caller] = task
            task.add_done_callback(lambda _: self._refreshing.pop(caller, None))

    async def _refresh(self, caller: Caller) -> RequestProblemError | None:
        """Read the token again; what stands against it. While the database does not answer, what was known stays."""
        try:
            caller.token = await self._read(find_token, caller.text)
        except RequestProblemError as problem:
            return problem
        caller.read_s = time.monotonic()
        return None


def unauthorized(detail: str) -> RequestProblemError:
    """401."""
    return RequestProblemError(401, "unauthorized", detail)


def _bearer(authorization: str | None) -> str:
    scheme, _, text = (authorization or "").partition(" ")
    if scheme.lower() not in ("bearer", "api-key") or not text.strip():  # openpi's client says Api-Key
        raise unauthorized("send the header Authorization: Bearer TOKEN; `gaitway token create` makes one")
    return text.strip()
