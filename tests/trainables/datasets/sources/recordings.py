"""Recordings for the tests, written with the libraries that others write theirs with."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from mcap_ros2.writer import Writer as Ros2McapWriter
from rosbags.rosbag1 import Writer as Bag1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Bag2Writer
from rosbags.typesys import Stores, get_typestore

S = 10**9
START = 1_700_000_000 * S
JOINTS = ("shoulder", "elbow", "gripper")
STORES = {1: get_typestore(Stores.ROS1_NOETIC), 2: get_typestore(Stores.ROS2_HUMBLE)}
JOINT_STATE, IMU = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Imu"
BOOL, STRING, IMAGE = "std_msgs/msg/Bool", "std_msgs/msg/String", "sensor_msgs/msg/CompressedImage"


def position(time_s, joint):
    """What joint number ``joint`` does: a different slope each, so that a mix-up shows and a line between two is exact."""
    return (joint + 1) * np.asarray(time_s, float) + joint


def header(time_ns, version):
    types = STORES[version].types
    stamp = types["builtin_interfaces/msg/Time"](time_ns // S, time_ns % S)
    return types["std_msgs/msg/Header"](0, stamp, "base") if version == 1 else types["std_msgs/msg/Header"](stamp, "base")


def joint_state(time_ns, order=JOINTS, version=2, begin=START):
    values = np.array([position((time_ns - begin) / S, JOINTS.index(name)) for name in order])
    return STORES[version].types[JOINT_STATE](header(time_ns, version), list(order), values, values * 10, np.zeros(0))


def imu(time_ns, version=2, begin=START):
    types, time_s = STORES[version].types, (time_ns - begin) / S
    vector = types["geometry_msgs/msg/Vector3"]
    unknown = np.zeros(9)
    rotation = types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    return types[IMU](header(time_ns, version), rotation, unknown, vector(time_s, 0.0, -1.0), unknown, vector(0.0, 0.0, 9.81), unknown)


def arm(seconds=2.0, begin=START, version=2, shuffled=True):
    """(topic, type, log time, message) of an arm: joints at 100 Hz in changing order, commands at 20 Hz, an IMU at 73 Hz."""
    messages = []
    random = np.random.default_rng(0)
    for topic, kind, rate in (("/joint_states", JOINT_STATE, 100), ("/joint_commands", JOINT_STATE, 20), ("/imu/data", IMU, 73)):
        for number in range(int(seconds * rate) + 1):
            time_ns = begin + round(number * S / rate)
            order = tuple(random.permutation(JOINTS)) if shuffled else JOINTS
            message = imu(time_ns, version, begin) if kind == IMU else joint_state(time_ns, order, version, begin)
            # Logged a little after it was made.
            messages.append((topic, kind, time_ns + 3_000_000, message))
    return sorted(messages, key=lambda item: item[2])


def write_mcap(path: Path, messages, compression=CompressionType.ZSTD, chunk_size=2**14):
    """With mcap-ros2-support's own writer and encoder."""
    schemas = {}
    with path.open("wb") as file, Ros2McapWriter(file, chunk_size, compression) as writer:
        for topic, kind, time_ns, message in messages:
            if kind not in schemas:
                schemas[kind] = writer.register_msgdef(kind, STORES[2].generate_msgdef(kind, ros_version=2)[0])
            writer.write_message(topic, schemas[kind], plain(message), time_ns, time_ns)
    return path


def plain(message):
    """A message as that encoder takes it: objects of lists."""
    if isinstance(message, np.ndarray):
        return message.tolist()
    if not is_dataclass(message):
        return message
    return SimpleNamespace(**{item.name: plain(getattr(message, item.name)) for item in fields(message) if not item.name.startswith("_")})


def write_json_mcap(path: Path, messages, **options):
    """``messages``: (topic, time, object)."""
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start()
        channels = {topic: writer.register_channel(topic, "json", 0) for topic in dict.fromkeys(topic for topic, *_ in messages)}
        for topic, time_ns, message in messages:
            writer.add_message(channels[topic], time_ns, json.dumps(message).encode(), time_ns)
        writer.finish()
    return path


def write_plain_mcap(path: Path, messages):
    """Without chunks, indexes or a summary, as small recorders write them."""
    return write_json_mcap(
        path, messages, use_chunking=False, use_statistics=False, use_summary_offsets=False, repeat_channels=False,
        repeat_schemas=False, index_types=IndexType.NONE,
    )  # fmt: skip


def write_bag1(path: Path, messages, compression=None):
    writer = Bag1Writer(path)
    if compression:
        writer.set_compression(compression)
    with writer:
        connections = {}
        for topic, kind, time_ns, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORES[1])
            writer.write(connections[topic], time_ns, STORES[1].serialize_ros1(message, kind))
    return path


def write_bag2(path: Path, messages, storage=StoragePlugin.SQLITE3, compressed=None):
    writer = Bag2Writer(path, version=9, storage_plugin=storage)
    if compressed:
        writer.set_compression(compressed, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, kind, time_ns, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORES[2])
            writer.write(connections[topic], time_ns, STORES[2].serialize_cdr(message, kind))
    return path


WRITERS = {
    "mcap zstd": ("a.mcap", 2, write_mcap),
    "mcap lz4": ("a.mcap", 2, lambda path, messages: write_mcap(path, messages, CompressionType.LZ4)),
    "mcap plain chunks": ("a.mcap", 2, lambda path, messages: write_mcap(path, messages, CompressionType.NONE)),
    "ros 1": ("a.bag", 1, write_bag1),
    "ros 1 bz2": ("a.bag", 1, lambda path, messages: write_bag1(path, messages, Bag1Writer.CompressionFormat.BZ2)),
    "ros 1 lz4": ("a.bag", 1, lambda path, messages: write_bag1(path, messages, Bag1Writer.CompressionFormat.LZ4)),
    "ros 2 sqlite": ("bag", 2, write_bag2),
    "ros 2 mcap": ("bag", 2, lambda path, messages: write_bag2(path, messages, StoragePlugin.MCAP)),
    "ros 2 compressed messages": ("bag", 2, lambda path, messages: write_bag2(path, messages, compressed=CompressionMode.MESSAGE)),
    "ros 2 compressed files": ("bag", 2, lambda path, messages: write_bag2(path, messages, compressed=CompressionMode.FILE)),
    "ros 2 compressed mcap files": (
        "bag",
        2,
        lambda path, messages: write_bag2(path, messages, StoragePlugin.MCAP, compressed=CompressionMode.FILE),
    ),
}
