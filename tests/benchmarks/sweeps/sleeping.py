"""A trial that only sleeps: what a sweep of it takes beyond the sleep is the sweep's own."""

import json
import time
from pathlib import Path

from trainables.sweeps.trial import SweepTrial


class Sleeping(SweepTrial):
    """Parameters: step_s (sleep of one step), x (means nothing)."""

    def build(self) -> None:
        """Nothing to build."""

    def advance(self) -> dict[str, float]:
        """Sleep one step."""
        time.sleep(self.training.parameters["step_s"])
        self.progress += 1
        return {"objective": self.training.parameters["x"]}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """How far it is, and a policy folder for the best."""
        (Path(checkpoint_dir) / "state.json").write_text(json.dumps(self.progress))
        (Path(checkpoint_dir) / "policy").mkdir()

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on there."""
        self.progress = json.loads((Path(checkpoint_dir) / "state.json").read_text())

    def close(self) -> None:
        """Nothing is held."""
