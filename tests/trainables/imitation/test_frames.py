import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.envs.robot_task import ActionScaling
from trainables.imitation.frames import Frames, Sequences, gather_frames

SCALING = ActionScaling(np.array([0.1, -0.2]), np.array([0.5, 0.25]), np.array([-1.0, -1.0]), np.array([1.0, 1.0]))


def rows(lengths: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    return {
        "observation.state": rng.normal(size=(total, 3)).astype(np.float32),
        "action": rng.uniform(-0.9, 0.9, size=(total, 2)).astype(np.float32),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "frame_index": np.concatenate([np.arange(length) for length in lengths]),
    }


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), seed=st.integers(0, 99), parts=st.integers(1, 5))
def test_frames_come_out_in_order_however_the_blocks_arrive(lengths: list[int], seed: int, parts: int) -> None:
    whole = rows(lengths)
    order = np.random.default_rng(seed).permutation(sum(lengths))
    blocks = [{name: column[part] for name, column in whole.items()} for part in np.array_split(order, parts)]
    frames = gather_frames(blocks, SCALING)
    np.testing.assert_array_equal(frames.observation, whole["observation.state"])
    np.testing.assert_array_equal(frames.episode, whole["episode_index"])
    np.testing.assert_allclose(frames.target, np.clip((whole["action"] - SCALING.offset) / SCALING.scale, -1, 1), rtol=1e-6)
    assert frames.observation.dtype == frames.target.dtype == np.float32


def test_lists_of_arrays_are_read_as_well_as_tensors() -> None:
    whole = rows([4])
    ragged = dict(whole)
    for name in ("observation.state", "action"):
        column = np.empty(4, dtype=object)
        column[:] = list(whole[name])
        ragged[name] = column
    np.testing.assert_array_equal(gather_frames([ragged], SCALING).observation, gather_frames([whole], SCALING).observation)


def test_episodes_are_chosen_whole_and_a_cut_keeps_each_episodes_beginning() -> None:
    frames = gather_frames([rows([10, 5, 20])], SCALING)
    assert set(frames.of_episodes([0, 2]).episode) == {0, 2}
    early, late = frames.cut(0.2)
    assert np.bincount(early.episode).tolist() == [8, 4, 16]
    assert np.bincount(late.episode).tolist() == [2, 1, 4]
    assert late.index[late.episode == 2].tolist() == [16, 17, 18, 19]


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), holes=st.sets(st.integers(0, 30), max_size=4))
def test_sequences_hold_every_frame_once_and_never_bridge_a_gap(lengths: list[int], holes: set[int]) -> None:
    whole = gather_frames([rows(lengths)], SCALING)
    kept = np.array([index not in holes for index in range(len(whole))])
    frames = Frames(whole.observation[kept], whole.target[kept], whole.episode[kept], whole.index[kept])
    sequences = Sequences.of(frames)
    valid = sequences.valid.astype(bool)
    np.testing.assert_array_equal(sequences.observation[valid], frames.observation)
    np.testing.assert_array_equal(sequences.target[valid], frames.target)
    assert (sequences.observation[~valid] == 0).all()
    # Within a row, frames follow each other inside one episode; padding stands only at the end.
    assert (np.diff(sequences.valid, axis=1) <= 0).all()
    position = iter(zip(frames.episode.tolist(), frames.index.tolist(), strict=True))
    for row in valid:
        members = [next(position) for _ in range(int(row.sum()))]
        assert all(b == (a[0], a[1] + 1) for a, b in itertools.pairwise(members))
