"""A trainable that costs nothing: it climbs to ``1 - (x - 0.7)^2`` in ``budget`` steps."""

import json
import time
from pathlib import Path

from cluster.errors import GaitwayError
from trainables.sweeps.trial import SweepTrial


class Climb(SweepTrial):
    """Parameters: x, sleep_s (a step), fail (raise at step 2), touch (folder where each start of a process leaves a file)."""

    def build(self) -> None:
        self.settings = {"x": 0.5, "sleep_s": 0.0, "fail": False} | self.training.parameters

    def advance(self) -> dict[str, float]:
        time.sleep(self.settings["sleep_s"])
        self.progress += 1
        if self.settings["fail"] and self.progress >= 2:
            raise GaitwayError(f"x = {self.settings['x']} always fails")
        share = self.progress / self.training.budget
        return {"objective": share * (1 - (self.settings["x"] - 0.7) ** 2) + 1e-3 * self.training.seed, "climb/share": share}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "state.json").write_text(json.dumps(self.progress))
        policy = Path(checkpoint_dir) / "policy"
        policy.mkdir()
        (policy / "policy.json").write_text(json.dumps(self.settings))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.progress = json.loads((Path(checkpoint_dir) / "state.json").read_text())

    def close(self) -> None:
        pass
