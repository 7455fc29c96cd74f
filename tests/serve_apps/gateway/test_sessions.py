"""Sessions over a real WebSocket: what is answered, in which form, what is recorded, and what survives a reconnect."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cluster.store.comparisons import get_episode
from cluster.store.tables import episodes, outcomes
from cluster.store.tokens import create_token, revoke_token
from cluster.wire.frames import ACTION, OBSERVATION, STATE, pack, read_compact, unpack, write_compact

pytestmark = pytest.mark.anyio

FLAT = np.array([0.5, -0.25, 1.0, 0.1, 0.2, 0.75], np.float32)
FIELDS = {"gravity": FLAT[:3], "joint_position_rad": FLAT[3:5], "range_m": FLAT[5:]}


async def open_session(site: Any, url: str, query: str = "", **headers: str) -> tuple[ClientConnection, dict[str, Any]]:
    socket = await connect(f"ws://{url}/v1/policies/pidog-run/session{query}", additional_headers=headers or site.header("robot"))
    return socket, unpack(await socket.recv())


async def ask(socket: ClientConnection, message: dict[str, Any] | bytes) -> Any:
    """The reply: a dict for msgpack, bytes for a compact frame, text for a refusal."""
    await socket.send(message if isinstance(message, bytes) else pack(message))
    reply = await asyncio.wait_for(socket.recv(), 10)
    return reply if isinstance(reply, str) or reply[0] < 0x80 else unpack(reply)


def count(site: Any, table: Any) -> int:
    with site.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


async def test_the_first_frame_says_what_the_session_is(site: Any, url: str) -> None:
    socket, metadata = await open_session(site, url, "?episode_id=e1&robot_id=r1")
    async with socket:
        assert (metadata["protocol"], metadata["policy"], metadata["robot"]) == ("gaitway-session-1", "pidog-run", "pidog")
        assert (metadata["episode_id"], metadata["control_dt_s"]) == ("e1", 0.02)
        assert [metadata[f"{name}_size"] for name in ("observation", "action", "state")] == [6, 2, 0]
        assert [field["name"] for field in metadata["contract"]["observation"]] == list(FIELDS)
        assert count(site, episodes) == 0  # who only connects has begun nothing
        reply = await ask(socket, {"observation": FLAT, "sequence": 3})
        assert (reply["version"], reply["arm"]) == (metadata["version"], metadata["arm"])
    stored = get_episode(site.database, "pidog-run", "e1")
    assert stored is not None
    assert (stored.arm, stored.robot_id) == (metadata["arm"], "r1")


async def test_every_form_gets_the_same_action_in_its_own_form(site: Any, url: str) -> None:
    socket, metadata = await open_session(site, url)
    gain = float(metadata["version"])
    async with socket:
        frame = await ask(socket, write_compact(OBSERVATION, 41, FLAT))
        sequence, action, state = read_compact(frame, ACTION, 2)
        assert (sequence, state) == (41, None)
        np.testing.assert_array_equal(action, FLAT[:2] * gain)
        for message in (
            {"observation": FLAT},
            {"observation": FIELDS},
            FIELDS,
            {**FIELDS, "prompt": "run"},
            {"observation": FLAT.tolist()},
        ):
            reply = await ask(socket, message | {"sequence": 7})
            np.testing.assert_array_equal(reply["action"]["joint_position_target_rad"], action)
            assert reply["actions"].shape == (1, 2)
            assert reply["server_timing"]["infer_ms"] > 0
            assert reply["sequence"] == 7
        await socket.send(json.dumps({"observation": FLAT.tolist(), "sequence": 8}))
        reply = json.loads(await socket.recv())
        assert (reply["action"]["joint_position_target_rad"], reply["sequence"]) == (action.tolist(), 8)
    assert count(site, episodes) == 1


async def test_reset_begins_an_episode_and_outcome_ends_it(site: Any, url: str) -> None:
    socket, metadata = await open_session(site, url)
    async with socket:
        first = await ask(socket, {"type": "reset"})
        assert first == {"type": "reset", **{key: metadata[key] for key in ("episode_id", "version", "arm")}}
        assert get_episode(site.database, "pidog-run", first["episode_id"]) is not None
        await ask(socket, write_compact(OBSERVATION, 0, FLAT))
        ended = await ask(socket, {"type": "outcome", "value": 0.25, "fell": True, "steps": 1})
        assert (ended["episode_id"], ended["stored"], ended["repeated"]) == (first["episode_id"], True, False)
        assert count(site, outcomes) == 1
        again = await ask(socket, {"type": "outcome", "value": 0.25, "fell": True, "steps": 1, "episode_id": first["episode_id"]})
        assert again["repeated"]
        refused = json.loads(await ask(socket, {"type": "outcome", "value": 0.25}))
        assert (refused["status"], refused["field"]) == (422, "episode_id")
        second = await ask(socket, {"observation": FLAT})  # without a reset: an episode of its own
        assert second["episode_id"] != first["episode_id"]
        third = await ask(socket, {"endpoint": "reset", "episode_id": "mine"})
        assert third["episode_id"] == "mine"
    assert count(site, episodes) == 3


async def test_recurrent_state_is_held_reset_and_handed_to_another_replica(empty_site: Any, url: str) -> None:
    await empty_site.serve("3", default="3")
    socket, metadata = await open_session(empty_site, url, "?episode_id=long")
    assert metadata["state_size"] == 1
    async with socket:
        for step in range(3):
            _, action, state = read_compact(await ask(socket, write_compact(OBSERVATION, step, FLAT)), ACTION, 2, 1)
            np.testing.assert_allclose(action, FLAT[:2] + step)
            assert state is not None
            assert state.tolist() == [step + 1]
        reply = await ask(socket, {"observation": FLAT})
        assert reply["state"]["count"].tolist() == [4.0]
        await ask(socket, {"type": "reset"})
        assert (await ask(socket, {"observation": FLAT}))["state"]["count"].tolist() == [1.0]
    empty_site.gateway.live.episodes._episodes.clear()  # another replica
    socket, metadata = await open_session(empty_site, url, "?episode_id=long")
    async with socket:
        refused = json.loads(await ask(socket, write_compact(OBSERVATION, 4, FLAT)))
        assert (refused["status"], refused["type"], refused["sequence"]) == (409, "urn:gaitway:problem:state-required", 4)
        frame = await ask(socket, write_compact(OBSERVATION, 5, FLAT, np.array([4.0], np.float32), flags=STATE))
        _, action, state = read_compact(frame, ACTION, 2, 1)
        np.testing.assert_allclose(action, FLAT[:2] + 4)
        assert state is not None
        assert state.tolist() == [5.0]


async def test_what_is_refused_is_named_and_the_session_goes_on(site: Any, url: str) -> None:
    socket, _ = await open_session(site, url)
    bad = FLAT.copy()
    bad[4] = np.nan
    async with socket:
        for message, status, says in (
            (write_compact(OBSERVATION, 9, bad), 422, "observation.joint_position_rad"),
            (write_compact(OBSERVATION, 9, FLAT[:5]), 400, "8 and 6 float32 make 32"),
            (write_compact(ACTION, 9, FLAT), 400, "of kind 2"),
            (b"\x01", 400, "has 1 bytes"),
            (b"\xc1", 400, "not a msgpack frame"),
            (pack({"type": "dance"}), 422, "observation, reset or outcome"),
            (pack({"type": 3}), 422, "type: must be text"),
            (pack({"observation": {**FIELDS, "gravitas": FLAT}}), 422, "unknown field"),
            (pack({"observation": FLAT.reshape(2, 3)[:1]}), 422, "has 3 numbers"),
            (pack({"observation": FIELDS, "sequence": "x"}), 422, "sequence: must be a whole number"),
            (pack({"type": "reset", "episode_id": ""}), 422, "episode_id: must be text"),
            (pack({"type": "outcome", "value": float("nan"), "episode_id": "e"}), 422, "value"),
            (pack({"type": "outcome", "value": 0.1, "episode_id": "nobody"}), 404, "no episode"),
        ):
            refused = json.loads(await ask(socket, message))
            assert refused["status"] == status, refused
            assert says in refused["detail"]
        await socket.send("[1]")
        assert json.loads(await socket.recv())["status"] == 400
        assert count(site, episodes) == 0
        assert read_compact(await ask(socket, write_compact(OBSERVATION, 1, FLAT)), ACTION, 2)[0] == 1
        await socket.send(b"\x80" * 70_000)
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 10)
        assert socket.close_code == 1009


async def test_who_may_not_is_refused_at_the_door(site: Any, url: str) -> None:
    address = f"ws://{url}/v1/policies/pidog-run/session"
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer gw_nobody"}, 401),
        (site.header("viewer"), 403),
        (site.header("robot", policies=["other"]), 403),
    ):
        with pytest.raises(InvalidStatus) as refused:
            await connect(address, additional_headers=headers)
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)["status"] == status
    with pytest.raises(InvalidStatus) as refused:
        await connect(address.replace("pidog-run", "nobody"), additional_headers=site.header("robot"))
    assert refused.value.response.status_code == 404
    key = site.header("robot")["Authorization"].replace("Bearer", "Api-Key")  # as openpi's client sends it
    socket, _ = await open_session(site, url, Authorization=key)
    await socket.close()


async def test_a_revoked_token_ends_its_open_session(site: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_apps.gateway.auth.FRESH_S", 0.05)
    token, text = create_token(site.database, "lost", "robot", actor="test")
    socket, _ = await open_session(site, url, Authorization=f"Bearer {text}")
    await ask(socket, {"observation": FLAT})
    revoke_token(site.database, token.id, actor="test")

    async def go_on() -> None:
        for _ in range(200):
            await ask(socket, {"observation": FLAT})
            await asyncio.sleep(0.01)

    with pytest.raises(ConnectionClosed):
        await go_on()
    assert socket.close_code == 1008


async def test_a_limit_is_told_and_the_session_goes_on(site: Any, url: str) -> None:
    _, text = create_token(site.database, "slow", "robot", actor="test", requests_per_s=20.0)
    socket, _ = await open_session(site, url, Authorization=f"Bearer {text}")
    async with socket:
        replies = [await ask(socket, write_compact(OBSERVATION, k, FLAT)) for k in range(60)]
        refused = [json.loads(reply) for reply in replies if isinstance(reply, str)]
        assert 20 <= 60 - len(refused) < 40
        assert {problem["status"] for problem in refused} == {429}
        await asyncio.sleep(refused[-1]["retry_after_s"] + 0.05)
        assert isinstance(await ask(socket, write_compact(OBSERVATION, 60, FLAT)), bytes)


async def test_steps_of_many_sessions_run_together(site: Any, url: str) -> None:
    sessions = [await open_session(site, url, f"?episode_id=e{k}") for k in range(16)]
    for socket, _ in sessions:
        await ask(socket, {"type": "reset"})
    batcher = site.gateway.live._batcher
    for turn in range(20):
        await asyncio.gather(*(socket.send(write_compact(OBSERVATION, turn, FLAT * (k + 1))) for k, (socket, _) in enumerate(sessions)))
        for k, (socket, metadata) in enumerate(sessions):
            sequence, action, _ = read_compact(await socket.recv(), ACTION, 2)
            assert sequence == turn
            np.testing.assert_allclose(action, FLAT[:2] * (k + 1) * float(metadata["version"]), rtol=1e-6)
    assert batcher.steps == 320
    assert batcher.batches < 320
    for socket, _ in sessions:
        await socket.close()
