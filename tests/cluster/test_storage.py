"""Storage: the same behaviour on a folder, on ``file://`` and on a real S3 server on loopback."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import boto3
import pytest

from cluster.errors import UsageError
from cluster.settings import Settings
from cluster.storage import Storage, check_writable, join_url, open_storage, plain_url, shown_url
from cluster.store.registry import get_version, register_bundle
from cluster.store.tracking import start_run


@pytest.fixture(params=["path", "file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place of each kind."""
    if request.param == "s3":
        url: str = request.getfixturevalue("s3_url")
        return url
    return str(tmp_path / "a place") if request.param == "path" else (tmp_path / "a place").as_uri()


@pytest.fixture
def storage(place: str) -> Storage:
    return open_storage(place)


def test_files_are_written_whole_read_and_listed(storage: Storage) -> None:
    assert not storage.exists("run/state.json")
    assert (storage.list_files("run"), storage.list_folders()) == ([], [])
    with pytest.raises(FileNotFoundError, match=r"run/state\.json"):
        storage.read_bytes("run/state.json")
    storage.write_bytes("run/state.json", b"old")
    storage.write_bytes("run/state.json", b"new \x00 bytes")
    storage.write_bytes("run/trial 1/result.json", b"{}")
    assert storage.read_bytes("run/state.json") == b"new \x00 bytes"
    assert storage.exists("run/state.json")
    assert storage.exists("run")
    assert (storage.list_files("run"), storage.list_folders("run"), storage.list_folders()) == (["state.json"], ["trial 1"], ["run"])
    assert storage.below("run", "trial 1").read_bytes("result.json") == b"{}"
    storage.delete_file("run/state.json")
    storage.delete_file("run/state.json")
    storage.delete_folder("run/trial 1")
    storage.delete_folder("run/trial 1")
    assert not storage.exists("run/state.json")
    assert storage.list_folders("run") == []


def test_folders_travel_both_ways(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a.bin").write_bytes(bytes(range(256)) * 1000)
    (source / "deep" / "b.txt").write_text("b")
    storage.upload_folder(source, "checkpoints/7")
    storage.download_folder("checkpoints/7", tmp_path / "target")
    found = {path.relative_to(tmp_path / "target").as_posix(): path.read_bytes() for path in (tmp_path / "target").rglob("*.*")}
    assert found == {"a.bin": bytes(range(256)) * 1000, "deep/b.txt": b"b"}
    with pytest.raises(FileNotFoundError, match=r"checkpoints/8.*: nothing is there"):
        storage.download_folder("checkpoints/8", tmp_path / "nothing")


def test_a_place_is_checked_by_writing_and_reaches_another_process(place: str) -> None:
    storage = check_writable(place)
    assert storage.list_files() == []
    storage.write_bytes("x", b"1")
    assert pickle.loads(pickle.dumps(storage)).read_bytes("x") == b"1"


def test_what_cannot_be_written_is_one_line_in_time(s3_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    server = "endpoint_override=http://{}&region=us-east-1"
    for wrong, says in (
        (str(tmp_path / "file" / "storage"), r"cannot be written: (Not a directory|File exists)"),
        ("/proc/gaitway", "/proc/gaitway: cannot be written"),
        (s3_url.replace("s3://", "s3://no-such-"), r"NO_SUCH_BUCKET"),
        (f"s3://bucket/prefix?{server.format('127.0.0.1:1')}", r"NETWORK_CONNECTION"),
        # An address of the documentation's network: nobody answers, nothing is refused.
        (f"s3://bucket/prefix?{server.format('192.0.2.77:9000')}", r"NETWORK_CONNECTION|no answer within"),
    ):
        start_s = time.monotonic()
        with pytest.raises(UsageError, match=says) as caught:
            check_writable(wrong)
        assert time.monotonic() - start_s < 11.0
        assert "\n" not in str(caught.value)


def test_a_bucket_that_forbids_writing_is_named(s3_url: str, s3_server: str) -> None:
    bucket = s3_url.removeprefix("s3://").partition("/")[0]
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": f"arn:aws:s3:::{bucket}/*"}
    with closing(boto3.client("s3", endpoint_url=s3_server)) as client:
        client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    with pytest.raises(UsageError, match="ACCESS_DENIED"):
        check_writable(s3_url)


def test_a_url_that_makes_no_sense_is_refused() -> None:
    for wrong, says in (
        ("nope://bucket", "use a local path, s3://bucket/prefix"),
        ("s3:///prefix", "names no bucket"),
        ("s3://bucket?regoin=eu", "unknown key 'regoin'"),
    ):
        with pytest.raises(UsageError, match=says):
            open_storage(wrong)


def test_urls_are_joined_and_shown_without_secrets() -> None:
    url = "s3://key:secret@bucket/prefix?endpoint_override=http://who:pw@host:9000&region=eu&session_token=abc"
    assert join_url(url, "sweeps", "a").startswith("s3://key:secret@bucket/prefix/sweeps/a?endpoint_override=")
    assert shown_url(url) == "s3://bucket/prefix?endpoint_override=host:9000&region=eu"
    assert plain_url(url) == "s3://bucket/prefix"
    assert (join_url("/a", "b"), shown_url("/a"), plain_url("/a b")) == ("/a/b", "/a", "file:///a%20b")


def test_settings_take_a_folder_or_a_url(tmp_path: Path) -> None:
    folder = Settings.from_environment({"GAITWAY_STORAGE_PATH": (tmp_path / "a b").as_uri()})
    assert (folder.storage_url, folder.shared_path) == (str(tmp_path / "a b"), tmp_path / "a b")
    remote = Settings.from_environment({"GAITWAY_STORAGE_PATH": "s3://bucket/prefix?region=eu-central-1"})
    assert remote.storage_url == "s3://bucket/prefix?region=eu-central-1"
    assert remote.mlflow_artifact_url == "s3://bucket/prefix/mlflow-artifacts"
    assert Settings.from_environment(remote.as_environment()) == remote
    with pytest.raises(
        UsageError, match="needs a folder that all nodes share; GAITWAY_STORAGE_PATH is the object store s3://bucket/prefix"
    ):
        _ = remote.shared_path
    for secret in ("s3://key:hush@bucket/prefix", "s3://bucket/prefix?secret_key=hush"):
        with pytest.raises(UsageError, match=r"take .* out of the URL") as caught:
            Settings.from_environment({"GAITWAY_STORAGE_PATH": secret})
        assert "hush" not in str(caught.value)


def test_mlflow_and_the_registry_keep_everything_in_the_object_store(
    s3_url: str, migrated_home: Path, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    home = tmp_path / "home"
    shutil.copytree(migrated_home, home)
    settings = Settings.from_environment({"GAITWAY_HOME": str(home), "GAITWAY_STORAGE_PATH": s3_url})
    (tmp_path / "note.txt").write_text("kept")
    with start_run(settings, "object store", "run") as run:
        run.log_artifact(tmp_path / "note.txt")
    storage = open_storage(s3_url)
    assert storage.read_bytes(f"mlflow-artifacts/runs/{run.run_id}/artifacts/note.txt") == b"kept"

    bundle = make_bundle(tmp_path / "bundle")
    assert register_bundle(settings, "pidog-run", bundle) == 1
    assert register_bundle(settings, "pidog-run", bundle) == 1
    found = get_version(settings, "pidog-run", 1)
    # Another machine has no copy yet.
    shutil.rmtree(found.path)
    assert (found.load().digest, found.load().path) == (found.digest, found.path)
    assert not (home / "storage").exists()
