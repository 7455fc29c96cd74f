from __future__ import annotations

import io
import json

import pytest

from cluster.progress import Progress, format_duration


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (65, "1:05"), (7389, "2:03:09")])
def test_durations_read_as_people_say_them(seconds, text):
    assert format_duration(seconds) == text


def test_json_lines_tell_a_machine_everything():
    stream = io.StringIO()
    with Progress(stream, "json", interval_s=0).task("imitate", total=4, unit="epochs") as task:
        task.update(2, validation_loss=0.5)
    started, progress, done = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (started["event"], progress["event"], done["event"]) == ("started", "progress", "done")
    assert progress["completed"] == 2
    assert progress["total"] == 4
    assert progress["metrics"] == {"validation_loss": 0.5}


def test_plain_lines_are_rate_limited():
    stream = io.StringIO()
    with Progress(stream, "plain", interval_s=3600).task("sweep", total=100, unit="steps") as task:
        for step in range(100):
            task.update(step)
    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().startswith("✓ sweep")


def test_a_failure_is_marked_and_passes_on():
    stream = io.StringIO()
    with pytest.raises(RuntimeError, match="boom"), Progress(stream, "plain").task("export"):
        raise RuntimeError("boom")
    assert stream.getvalue().startswith("✗ export")


def test_quiet_prints_nothing(capfd):
    progress = Progress(mode="quiet", interval_s=0)
    with progress.task("serve") as task:
        task.update(1, message="x")
    progress.say("hello")
    assert capfd.readouterr() == ("", "")
