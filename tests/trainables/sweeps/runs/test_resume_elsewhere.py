"""A sweep whose trials write to an object store is stopped, and goes on from there in an empty folder, as on another machine."""

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from cluster.config import load_config, parse_config, save_config
from cluster.progress import Progress
from cluster.settings import Settings
from cluster.stage import StageContext
from trainables import sweep
from trainables.sweeps.config import SweepConfig
from trainables.sweeps.overview import find_sweep, request_stop
from trainables.sweeps.records import REPORTS_FILE, load_sweep, read_lines

BUDGET = 12
pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_where_only_its_storage_is_seen(
    context: StageContext, settings: Settings, s3_url: str, tmp_path: Path
) -> None:
    custom = {"trainable": "tests.trainables.sweeps.runs.climb:Climb", "budget": BUDGET, "parameters": {"sleep_s": 0.25}}
    data = {"custom": custom, "search_space": {"x": {"uniform": [0.0, 1.0]}}, "num_trials": 3, "scheduler": "fifo", "storage": s3_url}
    config = parse_config(data, SweepConfig)
    save_config(config, context.folder / "config.yaml")
    reports = context.folder / "rl_model" / REPORTS_FILE

    def stop_in_the_middle() -> None:
        while sum(line["progress"] >= 3 for line in read_lines(reports)) < 2:
            time.sleep(0.1)
        assert request_stop(settings, context.folder.name) == context.folder.name

    person = threading.Thread(target=stop_in_the_middle)
    person.start()
    with pytest.raises(KeyboardInterrupt):
        sweep.run(config, context)
    person.join()
    before = load_sweep(context.folder)
    assert before.status == "stopped"
    assert {trial.status for trial in before.trials} == {"unfinished"}
    reached = {trial.trial_id: trial.progress for trial in before.trials}
    assert max(reached.values()) >= 3

    elsewhere = settings.model_copy(update={"experiments_path": tmp_path / "elsewhere"})
    head, _, query = s3_url.partition("?")
    folder = find_sweep(elsewhere, f"{head}/{context.folder.name}?{query}")
    assert folder.parent == tmp_path / "elsewhere"
    again = StageContext(folder=folder, settings=elsewhere, progress=Progress(mode="quiet"), experiment="sweep-test")
    result = sweep.run(load_config(folder / "config.yaml", SweepConfig), again)
    after = load_sweep(folder)
    assert [trial.status for trial in after.trials] == ["finished"] * 3
    assert {trial.trial_id for trial in after.trials} == set(reached)
    # The trials' checkpoints were on the store: what was reported before is not reported again.
    written = Counter((line["trial"], line["progress"]) for line in read_lines(folder / "rl_model" / REPORTS_FILE))
    assert sum(written.values()) <= 3 * BUDGET + 2
    assert {progress for _, progress in written} == set(range(1, BUDGET + 1))
    assert (Path(result["checkpoint"]) / "policy.json").is_file()
    assert str(result["checkpoint"]).startswith(str(tmp_path / "elsewhere"))
