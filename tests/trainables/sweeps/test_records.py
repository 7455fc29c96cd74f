import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UsageError
from cluster.settings import Settings
from cluster.storage import open_storage
from trainables.sweeps.place import SweepPlace, fetch_sweep
from trainables.sweeps.records import (
    INFO_FILE,
    LINEAGE_FILE,
    REPORTS_FILE,
    TRIALS_FILE,
    Clone,
    SweepLog,
    SweepRecord,
    is_driven,
    load_sweep,
    read_lines,
)


def add(log: SweepLog, trial: str, progress: int, value: float | None) -> None:
    log.add_report(trial, progress, value, 0.0 if value is None else value, progress, progress / 10, {"train/return": 2.0})


def rows(record: SweepRecord) -> list[tuple[str, float, float]]:
    return list(record.reports[["trial", "progress", "value"]].itertuples(index=False, name=None))


def test_what_is_written_is_read(make_sweep) -> None:
    clone = Clone("2026-03-01T10:00:30+00:00", "b", "a", 100, 120, {"learning_rate": (1e-3, 8e-4)})
    record = make_sweep({"a": [(0, 0.1), (100, 0.5)], "b": [(0, 0.2)]}, {"b": {"status": "failed", "error": "ValueError: no"}}, [clone])
    assert rows(record) == [("a", 0, 0.1), ("a", 100, 0.5), ("b", 0, 0.2)]
    assert record.lineage == (clone,)
    assert record.info.rungs == (100, 300)
    assert [(trial.number, trial.status, trial.error) for trial in record.trials] == [
        (1, "finished", None),
        (2, "failed", "ValueError: no"),
    ]
    assert record.status == "finished"


def test_a_line_cut_short_is_left_out_and_the_next_one_is_not_glued_to_it(make_sweep) -> None:
    record = make_sweep({"a": [(0, 0.1)]})
    path = record.folder / REPORTS_FILE
    with path.open("ab") as file:
        file.write(b'{"trial":"a","progress":100,"val')
    assert rows(load_sweep(record.folder)) == [("a", 0, 0.1)]
    add(SweepLog(record.folder), "a", 100, 0.7)
    assert rows(load_sweep(record.folder)) == [("a", 0, 0.1), ("a", 100, 0.7)]


def test_of_repeated_reports_the_later_one_counts(make_sweep) -> None:
    record = make_sweep({"a": [(0, 0.1), (100, 0.5), (200, 0.6)]})
    log = SweepLog(record.folder)
    add(log, "a", 100, 0.4)
    add(log, "b", 100, 0.9)
    assert rows(load_sweep(record.folder)) == [("a", 0, 0.1), ("a", 200, 0.6), ("a", 100, 0.4), ("b", 100, 0.9)]


def test_a_sweep_that_has_only_just_begun(make_sweep) -> None:
    record = make_sweep({"a": [(0, 0.1)]}, clones=[Clone("now", "a", "a", 1, 1, {})])
    for name in (TRIALS_FILE, REPORTS_FILE, LINEAGE_FILE):
        (record.folder / name).unlink()
    fresh = load_sweep(record.folder)
    assert (fresh.status, fresh.trials, fresh.lineage, len(fresh.reports)) == ("running", (), (), 0)
    assert fresh.updated_at == fresh.info.created_at


def test_a_value_that_is_not_finite_is_read_as_nan(make_sweep) -> None:
    record = make_sweep({"a": [(0, math.nan), (100, math.inf), (200, 0.5)]})
    assert [math.isnan(value) for value in record.reports["value"]] == [True, True, False]


def test_a_run_folder_leads_to_its_sweep(make_sweep, tmp_path: Path) -> None:
    record = make_sweep({"a": [(0, 0.1)]})
    run = tmp_path / "run"
    run.mkdir()
    record.folder.rename(run / "rl_model")
    assert load_sweep(run).info.name == "tiny_asha"


@pytest.mark.parametrize("content", ['{"name": "x"}', "{", "[]"])
def test_a_record_that_cannot_be_read_is_one_line(make_sweep, content: str) -> None:
    record = make_sweep({"a": [(0, 0.1)]})
    (record.folder / INFO_FILE).write_text(content)
    with pytest.raises(UsageError) as caught:
        load_sweep(record.folder)
    assert "\n" not in str(caught.value)
    assert str(record.folder) in str(caught.value)


def test_no_sweep_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no sweep is there .* `gaitway sweep ls`"):
        load_sweep(tmp_path)


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8), data=st.data())
def test_wherever_a_crash_cuts_the_file_the_whole_lines_before_it_are_read(values: list[float], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = SweepLog(Path(folder))
        for progress, value in enumerate(values):
            add(log, "a", progress, value)
        path = Path(folder) / REPORTS_FILE
        written = path.read_bytes()
        cut = data.draw(st.integers(0, len(written)))
        path.write_bytes(written[:cut])
        kept = [line["value"] for line in read_lines(path)]
        assert kept == values[: len(kept)]
        # A line without its newline is whole too.
        assert len(kept) - written[:cut].count(b"\n") in (0, 1)
        add(log, "a", 99, 1.5)
        assert [line["value"] for line in read_lines(path)] == [*kept, 1.5]


def test_lines_that_are_no_objects_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("\n".join(["1", json.dumps({"a": 1}), "null", "", "[]"]))
    assert list(read_lines(path)) == [{"a": 1}]


def test_a_driver_is_at_work_while_its_process_is_there_or_its_machine_was_heard_of(make_sweep) -> None:
    record = make_sweep({}, status="running")
    assert is_driven(record)  # this process
    assert not is_driven(replace(record, status="stopped"))
    (record.folder / TRIALS_FILE).unlink()
    assert not is_driven(load_sweep(record.folder))  # killed before it wrote a single time
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not is_driven(replace(record, pid=ended.pid))
    before_this_process = "2020-01-01T00:00:00+00:00"
    assert not is_driven(replace(record, updated_at=before_this_process))
    assert is_driven(replace(record, host="another", pid=ended.pid))
    assert not is_driven(replace(record, host="another", updated_at=before_this_process))


def test_a_second_driver_is_refused_and_a_fetched_copy_never_covers_a_newer_record(make_sweep, tmp_path: Path, settings: Settings) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        run_folder = settings.experiments_path / "one"
        place = SweepPlace(run_folder / "rl_model", open_storage(tmp_path / "shared" / "one"), run_folder)
        info = make_sweep({}, status="running", name="one").info
        for name in (INFO_FILE, TRIALS_FILE):
            shutil.copy(tmp_path / "sweep" / name, place.folder)
        (run_folder / "config.yaml").write_text("{}")
        place.push()
        trials = place.folder / "trials.json"
        trials.write_text(trials.read_text().replace(f'"pid":{os.getpid()}', f'"pid":{other.pid}'))
        with pytest.raises(UsageError, match=f"at work already, in process {other.pid} on "):
            place.claim(info)
        written = trials.read_text()
        assert fetch_sweep(str(tmp_path / "shared" / "one"), settings) == run_folder
        assert trials.read_text() == written
    finally:
        other.kill()
        other.wait()
    trials.write_text(re.sub(r'"updated_at":"[^"]*"', '"updated_at":"2020-01-01T00:00:00+00:00"', written))
    fetch_sweep(str(tmp_path / "shared" / "one"), settings)
    assert f'"pid":{os.getpid()}' in trials.read_text()  # what is newer counts

    # A request to stop, made where only the storage is seen, arrives with the next push.
    place.clear_stop_request()
    place.push()
    assert not place.stop_requested()
    open_storage(tmp_path / "shared" / "one").write_bytes("stop.request", b"")
    place.push()
    assert place.stop_requested()
    place.clear_stop_request()
    place.push()
    assert not place.stop_requested()
