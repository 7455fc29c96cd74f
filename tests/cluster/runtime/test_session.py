"""A private Ray for the length of a stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, os
from cluster.runtime.session import is_ray_up, ray_session
from cluster.settings import Settings
settings = Settings.from_environment({"GAITWAY_HOME": os.environ["OWN_HOME"]})
up = [is_ray_up(settings)]
with ray_session(settings):
    import ray
    up.append(is_ray_up(settings))
    seen = ray.get(ray.remote(lambda: (os.environ["GAITWAY_HOME"], os.environ["GAITWAY_EXPERIMENTS_PATH"])).remote())
    with ray_session(settings):
        pass
    up.append(ray.is_initialized())
up.append(is_ray_up(settings))
print(json.dumps({"up": up, "seen": seen, "mine": [os.environ.get("GAITWAY_HOME"), os.environ.get("GAITWAY_EXPERIMENTS_PATH")]}))
"""


def test_tasks_of_a_private_ray_have_the_settings_and_this_process_keeps_its_own(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS" and not name.startswith("GAITWAY_")}
    environment = {**kept, "OWN_HOME": str(tmp_path / "home"), "GAITWAY_HOME": str(tmp_path / "elsewhere")}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["up"] == [False, True, True, False]
    assert found["seen"][0] == str(tmp_path / "home")
    assert found["seen"][1]
    assert found["mine"] == [str(tmp_path / "elsewhere"), None]
