"""Whole updates: against a plain PPO, against stale samples, in parts, in bfloat16, with scaled rewards and values."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from reference_ppo import ReferencePPO

from trainables.ppo.schedules import adapted_learning_rate, linear

UNEVEN: dict[str, Any] = {"task": "own_tasks:Uneven", "num_envs": 6, "batch_size": 180, "minibatch_size": 50}
MakeRoom = Callable[..., Any]


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "tanh"},
        {"activation": "relu", "value_clip": 0.5, "entropy_coefficient": 0.01, "final_learning_rate": 1e-4},
        {"activation": "elu", "task": "gymnasium:CartPole-v1", "entropy_coefficient": 0.02, "max_gradient_norm": 1e3},
    ],
    ids=["gaussian", "value clip, entropy, learning rate schedule", "categorical"],
)
def test_updates_equal_those_of_a_plain_ppo(make_room: MakeRoom, changes: dict[str, Any]) -> None:
    settings = UNEVEN | {"return_scaling": "none", "learning_rate": 1e-3, "num_epochs": 3, "total_env_steps": 1000} | changes
    room = make_room(**settings)
    reference = ReferencePPO(room.module, room.settings)
    for _ in range(3):
        fragment = room.sample()
        assert not fragment.valid.all()
        room.learn(fragment)
        # The schedule starts at the first batch, which is not trained on yet.
        done = (room.env_steps - room.settings.batch_size) / room.settings.total_env_steps
        reference.learn(fragment, linear(1e-3, room.settings.final_learning_rate, done))
    state = room.state()
    for prefix, network in (("actor.network.", reference.actor), ("critic.", reference.critic)):
        for name, value in network.state_dict().items():
            torch.testing.assert_close(
                state[prefix + name], value, atol=2e-5, rtol=1e-4, msg=lambda text, name=prefix + name: f"{name}: {text}"
            )
    if not reference.discrete:
        torch.testing.assert_close(state["distribution.log_std"], reference.log_std.detach(), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(state["actor.normalizer.mean"], reference.mean)


def test_the_ratio_starts_at_one_and_stale_samples_say_how_far_the_policy_went(make_room: MakeRoom) -> None:
    room = make_room(**UNEVEN | {"minibatch_size": 180}, num_epochs=1, learning_rate=1e-2)
    first, stale = room.sample(), room.sample()
    figures = room.learn(first)
    assert figures["kl"] == pytest.approx(0, abs=1e-6)
    assert figures["clip_fraction"] == 0
    room.iterate(2)
    state = room.state()
    policy = ReferencePPO(room.module, room.settings)
    observations = ((torch.from_numpy(stale.observations[:-1]) - policy.mean) / policy.std).clamp(-10, 10)
    with torch.no_grad():
        log_ratio = (policy.distribution(observations).log_prob(torch.from_numpy(stale.actions)) - torch.from_numpy(stale.log_probs))[
            stale.valid
        ]
    ratio = log_ratio.exp()
    assert (ratio - 1).abs().max() > 0.05
    figures = room.learn(stale)  # its figures are of before its only gradient step
    assert figures["kl"] == pytest.approx((ratio - 1 - log_ratio).mean().item(), rel=1e-3)
    assert figures["clip_fraction"] == pytest.approx(((ratio - 1).abs() > 0.2).float().mean().item(), abs=0.01)
    assert not torch.equal(state["actor.network.0.weight"], room.state()["actor.network.0.weight"])


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_gradients_of_parts_add_up_to_those_of_the_minibatch(make_room: MakeRoom, network: str) -> None:
    settings = UNEVEN | {"batch_size": 192, "minibatch_size": 96, "network": network, "sequence_length": 4, "entropy_coefficient": 0.01}
    whole, parts = make_room(**settings), make_room(**settings, micro_batch_size=20)
    for _ in range(2):
        fragment = whole.sample()
        whole.learn(fragment)
        parts.learn(fragment)
    for name, value in whole.state().items():
        torch.testing.assert_close(parts.state()[name], value, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    for name in ("policy_loss", "value_loss", "kl", "entropy", "clip_fraction"):
        assert parts.figures[name] == pytest.approx(whole.figures[name], abs=1e-4, rel=1e-3), name
    assert parts.figures["micro_batch_size"] == 20
    assert "micro_batch_size" not in whole.figures


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_bfloat16_is_near_float32(make_room: MakeRoom, network: str) -> None:
    settings = UNEVEN | {"batch_size": 192, "minibatch_size": 192, "network": network, "num_epochs": 1}
    exact, rough = make_room(**settings), make_room(**settings, precision="bfloat16")
    fragment = exact.sample()
    exact.learn(fragment)
    rough.learn(fragment)
    assert rough.figures["value_loss"] == pytest.approx(exact.figures["value_loss"], rel=0.03)  # bfloat16 has 8 bits of mantissa
    assert rough.figures["entropy"] == pytest.approx(exact.figures["entropy"], rel=1e-3)
    assert rough.figures["gradient_norm"] == pytest.approx(exact.figures["gradient_norm"], rel=0.1)
    assert rough.figures["value_loss"] != exact.figures["value_loss"]
    assert {value.dtype for name, value in rough.state().items() if "weight" in name} == {torch.float32}


def test_rewards_are_divided_by_the_running_deviation_of_the_return(make_room: MakeRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the rule of Stable-Baselines3's VecNormalize: R <- gamma R + r at every step, 0 at every end; r / std(R), clipped."""
    room = make_room(**UNEVEN, return_scaling="rewards", gamma=0.9, reward_clip=0.8)
    seen, running = [], np.zeros(6)
    scaled = []
    original = room.learner._scaled_rewards
    monkeypatch.setattr(room.learner, "_scaled_rewards", lambda fragment: scaled.append(original(fragment)) or scaled[-1])
    for _ in range(3):
        fragment = room.sample()
        for step in range(len(fragment.rewards)):
            for env in np.flatnonzero(fragment.valid[step]):
                running[env] = 0.9 * running[env] + fragment.rewards[step, env]
                seen.append(running[env])
                if fragment.terminated[step, env] or fragment.truncated[step, env]:
                    running[env] = 0.0
        room.learn(fragment)
        expected = np.clip(fragment.rewards / np.sqrt(np.var(seen) + 1e-8), -0.8, 0.8)
        np.testing.assert_allclose(scaled[-1].numpy()[fragment.valid], expected[fragment.valid], rtol=1e-4)
    assert np.abs(expected).max() == pytest.approx(0.8)
    assert room.state()["reward_scale.var"].item() == pytest.approx(np.var(seen), rel=1e-4)


def test_popart_learns_the_same_from_a_thousand_times_the_reward(make_room: MakeRoom) -> None:
    rooms = [make_room(**UNEVEN, return_scaling="popart", learning_rate=1e-3) for _ in range(2)]
    for room in rooms:  # the first batch is predicted before any scale is known: predict 0
        torch.nn.init.zeros_(room.module.critic[-1].weight)
    for _ in range(3):
        fragment = rooms[0].sample()
        rooms[0].learn(fragment)
        rooms[1].learn(replace(fragment, rewards=fragment.rewards * np.float32(1000)))
    observations = torch.from_numpy(fragment.observations[0])
    with torch.no_grad():
        values, thousandfold = (room.module.compute_values({"obs": observations}) for room in rooms)
    torch.testing.assert_close(thousandfold / 1000, values, rtol=1e-3, atol=1e-2)
    for name, value in rooms[0].state().items():
        if name.startswith("actor"):
            torch.testing.assert_close(rooms[1].state()[name], value, rtol=1e-3, atol=1e-4)


def test_advantages_anew_every_epoch_use_the_critic_of_then(make_room: MakeRoom) -> None:
    settings = UNEVEN | {"return_scaling": "none", "num_epochs": 2}
    once, anew = make_room(**settings), make_room(**settings, recompute_advantages=True)
    fragment = once.sample()
    states = {}
    for name, room in (("once", once), ("anew", anew)):
        room.learn(fragment)
        states[name] = room.state()
    assert not torch.equal(states["once"]["critic.0.weight"], states["anew"]["critic.0.weight"])


def test_only_the_critic_moves_while_it_warms_up(make_room: MakeRoom) -> None:
    room = make_room(**UNEVEN, critic_warmup_iterations=2)
    before = room.state()
    room.iterate()
    after = room.state()
    for name, value in after.items():
        moved = not torch.equal(value, before[name])
        assert moved == name.startswith(("critic.", "value_scale.", "actor.normalizer.")), name
    room.iterate(2)
    assert not torch.equal(room.state()["actor.network.0.weight"], before["actor.network.0.weight"])


def test_the_step_size_follows_the_divergence(make_room: MakeRoom) -> None:
    room = make_room(**UNEVEN, adaptive_learning_rate=True, kl_target=1e-4, learning_rate=1e-2, num_epochs=4)
    rate = 1e-2
    for _ in range(4):
        figures = room.iterate()
        rate = adapted_learning_rate(rate, figures["kl"], 1e-4)
        assert figures["learning_rate"] == pytest.approx(rate)
    assert rate < 1e-2
    still = make_room(**UNEVEN, adaptive_learning_rate=True, kl_target=1.0, learning_rate=1e-4)
    assert still.iterate(2)["learning_rate"] == pytest.approx(1e-4 * 1.5**2)


def test_schedules_run_from_start_to_end(make_room: MakeRoom) -> None:
    room = make_room(
        **UNEVEN, total_env_steps=540, learning_rate=1e-3, final_learning_rate=0.0, entropy_coefficient=0.03, final_entropy_coefficient=0.0
    )
    figures = [room.iterate() for _ in range(4)]
    done = [figure["learning_rate"] / 1e-3 for figure in figures]
    assert done[0] == pytest.approx(1.0, abs=0.1)  # batches hold a few steps less than 180: those that only reset
    assert all(first > second for first, second in itertools.pairwise(done))
    assert figures[-1]["entropy_coefficient"] == pytest.approx(0.0, abs=1e-3)
