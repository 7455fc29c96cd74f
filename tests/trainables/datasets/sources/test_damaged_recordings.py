"""MCAP files and ROS bags that are damaged, or made to do harm: one line that names the file, and no memory spent on them."""

from __future__ import annotations

import bz2
import json
import resource
import sqlite3

import lz4.frame
import numpy as np
import pytest
import zstandard
from mcap.data_stream import RecordBuilder
from mcap.records import Channel, Chunk, ChunkIndex, Footer, Header, Schema
from mcap.writer import MCAP0_MAGIC
from rosbags.rosbag1 import Reader, Writer

from cluster.config import parse_config
from cluster.lerobot.errors import DatasetError
from tests.trainables.datasets.sources import recordings as made
from trainables.datasets.exports.registry import export_dataset
from trainables.datasets.lerobot import DatasetSpec, Episode, Feature, write_dataset
from trainables.datasets.sources.detect import detect_format, open_source
from trainables.datasets.sources.mapping import Mapping
from trainables.datasets.sources.recordings import open_mcap, open_rosbag

MIB = 2**20
MAPPING = parse_config(
    {"fps": 50, "features": {"observation.state": {"topic": "/joint_states", "field": "position", "align": "nearest"}}},
    Mapping,
    source="test",
)
KINDS = ("mcap zstd", "mcap lz4", "ros 1", "ros 1 bz2", "ros 2 sqlite", "ros 2 mcap", "ros 2 compressed messages", "ros 2 compressed files")


def written(tmp_path, kind):
    """The recording, and the file in it that holds the messages."""
    name, version, write = made.WRITERS[kind]
    path = write(tmp_path / name, made.arm(1.0, version=version))
    return path, path if path.is_file() else next(file for file in path.iterdir() if file.suffix in (".db3", ".mcap", ".zstd"))


def read(path):
    source = (open_mcap if detect_format(path) == "mcap" else open_rosbag)(path, MAPPING)
    return [episode for piece in source.pieces() for episode in source.read(piece)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.97])
def test_truncated_files_are_named(tmp_path, kind, share):
    path, file = written(tmp_path, kind)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DatasetError, match=r"is empty; a file in the format|not readable (MCAP|ROS|zstd)|is no MCAP file") as error:
        read(path)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_changed_at_random_are_read_or_refused(tmp_path, kind):
    path, file = written(tmp_path, kind)
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    refused = []
    for _ in range(60):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 8):
            damaged[place] = random.integers(0, 256)
        file.write_bytes(damaged)
        try:
            read(path)
        except DatasetError as error:
            refused.append(str(error))
    assert refused
    assert all(str(file) in line and "\n" not in line for line in refused)


def bomb_mcap(path, compression, data, declared, index_declares=None):
    """One chunk that is said to have ``declared`` bytes, and an index that says ``index_declares``."""
    out = bytearray(MCAP0_MAGIC)

    def put(record):
        builder = RecordBuilder()
        record.write(builder)
        place = len(out)
        out.extend(builder.end())
        return place, len(out) - place

    put(Header(profile="", library="test"))
    place, length = put(
        Chunk(compression=compression, data=data, message_end_time=10, message_start_time=0, uncompressed_crc=0, uncompressed_size=declared)
    )
    summary, _ = put(Schema(data=b"", encoding="jsonschema", id=1, name="x"))
    put(Channel(id=1, topic="/joint_states", message_encoding="json", metadata={}, schema_id=0))
    put(
        ChunkIndex(
            chunk_length=length, chunk_start_offset=place, compression=compression, compressed_size=len(data), message_end_time=10,
            message_index_length=0, message_index_offsets={1: 0}, message_start_time=0,
            uncompressed_size=declared if index_declares is None else index_declares,
        )
    )  # fmt: skip
    put(Footer(summary_start=summary, summary_offset_start=0, summary_crc=0))
    path.write_bytes(bytes(out) + MCAP0_MAGIC)
    return path


def zeros(compressor, mebibytes):
    return compressor(bytes(mebibytes * MIB))


def zstd_without_size(data):
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


BOMBS = {
    "the index says so": (
        "zstd",
        lambda: zeros(zstandard.compress, 512),
        512 * MIB,
        None,
        r"a chunk declares 512 MiB .*up to 256 MiB are read",
    ),
    "the chunk says so": (
        "zstd",
        lambda: zeros(zstandard.compress, 512),
        512 * MIB,
        1,
        r"a chunk declares 512 MiB .*up to 256 MiB are read",
    ),
    "the data say so": ("zstd", lambda: zeros(zstandard.compress, 512), 100, 100, r"a chunk declares 512 MiB .*up to 256 MiB are read"),
    "nothing says so": ("zstd", lambda: zeros(zstd_without_size, 512), 100, 100, r"not readable MCAP .*decompress"),
    "lz4 says nothing": ("lz4", lambda: zeros(lz4.frame.compress, 512), 100, 100, r"a chunk says that it holds 100 bytes and holds more"),
    "the data are fewer": ("zstd", lambda: zstandard.compress(b"abc"), 100, 100, r"a chunk says that it holds 100 bytes and holds 3"),
    "another compression": ("xz", lambda: b"abc", 3, 3, r"a chunk is compressed with 'xz'; zstd and lz4 are read"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_chunk_that_is_a_bomb_is_not_decompressed(tmp_path, bomb):
    compression, make, declared, index_declares, words = BOMBS[bomb]
    path = bomb_mcap(tmp_path / "bomb.mcap", compression, make(), declared, index_declares)
    with pytest.raises(DatasetError, match=words) as error, limited_memory(400):
        read(path)
    assert str(error.value).startswith(str(path))


class limited_memory:  # noqa: N801  (reads as what it does)
    """No more address space than now and ``mebibytes``: what tries to take more fails instead of the machine."""

    def __init__(self, mebibytes):
        self._mebibytes = mebibytes

    def __enter__(self):
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + self._mebibytes * MIB, self._before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_AS, self._before)


@pytest.mark.parametrize(("name", "compress"), [("bz2", bz2.compress), ("lz4", lz4.frame.compress)])
def test_a_chunk_of_a_ros_1_bag_that_is_a_bomb_is_not_decompressed(tmp_path, name, compress):
    # A chunk with a picture that does not compress has room for the bomb.
    types = made.STORES[1].types
    picture = np.random.default_rng(0).integers(0, 256, 3 * MIB, dtype=np.uint8)
    camera = types[made.IMAGE](made.header(made.START, 1), "png", picture)
    messages = [*made.arm(0.1, version=1), ("/camera", made.IMAGE, made.START + made.S, camera)]
    path = made.write_bag1(tmp_path / "a.bag", messages, getattr(Writer.CompressionFormat, name.upper()))
    with Reader(path) as reader:
        chunk = next(iter(reader.chunks.values()))
    bomb = zeros(compress, 300)
    assert len(bomb) < chunk.datasize
    damaged = bytearray(path.read_bytes())
    damaged[chunk.datapos : chunk.datapos + len(bomb)] = bomb
    path.write_bytes(damaged)
    with pytest.raises(DatasetError, match=r"a.bag: a chunk is larger than 256 MiB after decompression; no more is read"):
        read(path)


def test_a_compressed_message_that_is_a_bomb_is_not_decompressed(tmp_path):
    path, file = written(tmp_path, "ros 2 compressed messages")
    for bomb in (zeros(zstandard.compress, 300), zeros(zstd_without_size, 300)):
        with sqlite3.connect(file) as database:
            database.execute("UPDATE messages SET data = ? WHERE topic_id = (SELECT id FROM topics WHERE name = '/joint_states')", (bomb,))
        database.close()
        with pytest.raises(DatasetError, match=r"bag.db3: a message (declares 300 MiB after|cannot be decompressed)"):
            read(path)


def test_a_compressed_file_that_is_a_bomb_is_not_decompressed(tmp_path):
    path, file = written(tmp_path, "ros 2 compressed files")
    for bomb in (zeros(zstandard.compress, 300), zeros(zstd_without_size, 300)):
        file.write_bytes(bomb)
        with pytest.raises(DatasetError, match=r"bag.db3.zstd: declares .* above 64 MiB no more than 200 times what is stored is read"):
            read(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((b"bag.db3", b"../../other.db3"), r"metadata.yaml: the path '../../other.db3' leads out of .*bag; only files inside it are read"),
        ((b"bag.db3", b"lost.db3"), r"metadata.yaml: the bag's file lost.db3 is missing"),
        ((b"storage_identifier: sqlite3", b"storage_identifier: tape"), r"the storage is 'tape'; sqlite3 and mcap are read"),
        ((b"compression_mode: ''", b"compression_mode: FILE"), r"metadata.yaml: files are compressed with ''; zstd is read"),
        ((b"rosbag2_bagfile_information", b"something"), r"metadata.yaml: not readable metadata of a ROS 2 bag"),
        ((b"rosbag2_bagfile_information:", b"a: ["), r"metadata.yaml: not readable metadata of a ROS 2 bag"),
    ],
)
def test_metadata_of_a_bag_that_cannot_be_used_are_named(tmp_path, change, words):
    path, _ = written(tmp_path, "ros 2 sqlite")
    metadata = path / "metadata.yaml"
    assert change[0] in metadata.read_bytes()
    metadata.write_bytes(metadata.read_bytes().replace(*change))
    with pytest.raises(DatasetError, match=words):
        read(path)


def exported(tmp_path, format, name):
    columns = {"action": np.arange(6, dtype=np.float32).reshape(3, 2)}
    info = write_dataset(tmp_path / "data", [Episode("0", "t", columns)], DatasetSpec(10, (Feature("action", "float32", (2,)),), "arm"))
    export_dataset(open_source(info.path), format, tmp_path / name)
    return tmp_path / name


def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path):
    bag = exported(tmp_path, "rosbag2", "bag")
    manifest = json.loads((bag / "gaitway.json").read_text())

    def with_change(change):
        changed = json.loads(json.dumps(manifest))
        change(changed)
        (bag / "gaitway.json").write_text(json.dumps(changed))
        return bag

    with pytest.raises(DatasetError, match=r"the path '/etc/passwd' leads out of"):
        open_source(with_change(lambda data: data["episodes"][0].update(videos={"x": ["/etc/passwd", 0, 1]})))
    with pytest.raises(DatasetError, match=r"the path '../../other.db3' leads out of"):
        open_source(with_change(lambda data: data["episodes"][0]["place"].update(file="../../other.db3"))).pieces()
    with pytest.raises(DatasetError, match=r"the path '../../x' leads out of"):
        open_source(with_change(lambda data: data["features"].update({"../../x": {"dtype": "video", "shape": [1]}})))
    with pytest.raises(DatasetError, match=r"gaitway.json: its manifest is damaged: KeyError 'fps'"):
        open_source(with_change(lambda data: data.pop("fps")))
    with pytest.raises(DatasetError, match=r"its manifest has format gaitway-dataset 2; gaitway-dataset 1 is read"):
        open_source(with_change(lambda data: data.update(schema_version=2)))
    (bag / "gaitway.json").write_text("{")
    with pytest.raises(DatasetError, match=r"gaitway.json: its manifest is damaged"):
        open_source(bag)


def test_an_export_that_lost_messages_is_refused(tmp_path):
    bag = exported(tmp_path, "rosbag2", "bag")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("DELETE FROM messages WHERE id = (SELECT max(id) FROM messages WHERE topic_id = 1)")
    database.close()
    source = open_source(bag)
    with pytest.raises(DatasetError, match=r"bag.db3: episode 0000000: /action has 2 messages for 3 frames"):
        list(source.read(source.pieces()[0]))
