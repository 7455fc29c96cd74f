"""How well the five expert gaits are imitated: loss on held-out frames, and speed when the policy itself drives.

Records the expert once, trains each arm from ``configs/imitation/gaits.yaml``, and plays policy and expert, gait by gait, from the same
starts on the same physics. The expert is the gait's own targets. A run that is in the folder already is not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cluster.config import load_config, parse_config
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from tests.benchmarks.records import markdown

__all__ = ["ARMS", "EPISODES", "measure", "table"]

GAITS = ("walk_forward", "walk_backward", "trot_forward", "stand", "sit")
MOVING = GAITS[:3]
CONFIG = Path(__file__).resolve().parents[3] / "configs" / "imitation" / "gaits.yaml"
ARMS: dict[str, tuple[str, ...]] = {
    "mlp": (),
    "dagger": ("algorithm=dagger",),
    "lstm": ("models=[lstm]",),
}
"""What each arm sets beside the configuration."""
EPISODES = 64
SEED = 4_000_037


class _Expert:
    """Plays the gait's targets."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def reset(self, num_envs: int) -> None:
        """Nothing to forget."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        """The expert does not look."""
        return self.task.action_scaling.to_normalised(self.task.expert_targets_rad())

    def forget(self, ended: np.ndarray) -> None:
        """Nothing to forget."""


def measure(folder: Path, arms: list[str], episodes: int, physics: str, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train what is missing and play everything.

    Args:
        folder: for the dataset, the runs and the figures.
        arms: names in ``ARMS``.
        episodes: of each gait and policy.
        physics: preset of the playing.
        say: told of each arm.

    Returns:
        ``expert`` and each arm: validation loss, and for each gait mean forward velocity (m/s) and share of falls.
    """
    from cluster.runtime.session import ray_session
    from trainables import collect, imitate
    from trainables.networks.checkpoint import load_policy

    settings = Settings.from_environment({"GAITWAY_HOME": str(folder / "home"), "GAITWAY_EXPERIMENTS_PATH": str(folder / "experiments")})

    def context(name: str) -> StageContext:
        return StageContext(folder / name, settings, Progress(mode="quiet"), experiment="bench-imitation")

    found: dict[str, Any] = {"expert": {"gaits": play(None, episodes, physics)}}
    with ray_session(settings):
        if not (folder / "expert" / "data" / "meta" / "info.json").is_file():
            collect.run(parse_config({}, collect.Config), context("expert"))
        for arm in arms:
            kept = folder / arm / "result.json"
            if not kept.is_file():
                config = load_config(CONFIG, imitate.Config, [f"dataset={folder / 'expert' / 'data'}", *ARMS[arm]])
                result = imitate.run(config, context(arm))
                kept.write_text(json.dumps(result))
            result = json.loads(kept.read_text())
            policy, _ = load_policy(Path(result["checkpoint"]))
            found[arm] = {"validation_loss": result["validation_loss"], "gaits": play(policy, episodes, physics)}
            say(f"{arm}: validation loss {result['validation_loss']:.2g}")
    return found


def play(policy: Any, episodes: int, physics: str) -> dict[str, dict[str, float]]:
    """Mean forward velocity and falls of every gait; None: the expert's."""
    from trainables.envs.registry import make_robot_task
    from trainables.evaluation.controllers import TorchController
    from trainables.evaluation.rollout import run_episodes

    figures = {}
    for gait in GAITS:
        config = {"command": {"gaits": {gait: 1.0}}, "physics": {"preset": physics, "num_threads": 2}}
        task = make_robot_task("pidog_run", episodes, config, 0, reward_terms_in_info=False)
        try:
            played = run_episodes(task, _Expert(task) if policy is None else TorchController(policy), episodes, SEED)
        finally:
            task.close()
        figures[gait] = {
            "forward_velocity_m_s": float(played["forward_velocity_m_s"].mean()),
            "standard_error_m_s": float(played["forward_velocity_m_s"].std(ddof=1) / np.sqrt(episodes)),
            "fell": float(played["fell"].mean()),
        }
    return figures


def table(found: dict[str, Any]) -> str:
    """One row an arm and gait: both velocities and their difference."""
    expert = found["expert"]["gaits"]
    rows = []
    for arm in (name for name in found if name != "expert"):
        for gait, own in found[arm]["gaits"].items():
            theirs = expert[gait]["forward_velocity_m_s"]
            error = own["forward_velocity_m_s"] - theirs
            share = f"{error / theirs:+.1%}" if gait in MOVING else "–"
            cells = [arm, f"{found[arm]['validation_loss']:.2g}", gait, f"{theirs:+.4f} ± {expert[gait]['standard_error_m_s']:.4f}"]
            cells += [f"{own['forward_velocity_m_s']:+.4f} ± {own['standard_error_m_s']:.4f}", f"{error:+.4f}", share]
            rows.append([*cells, f"{expert[gait]['fell']:.0%} / {own['fell']:.0%}"])
    header = ["arm", "validation loss", "gait", "expert, m/s", "policy, m/s", "difference, m/s", "share", "falls, expert / policy"]
    return markdown(header, rows)
