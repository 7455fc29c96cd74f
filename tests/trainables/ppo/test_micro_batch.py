"""Minibatches in parts: everything is seen once, and ``auto`` backs off when torch's allocator really fails."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from trainables.ppo.micro_batch import MicroBatches, is_out_of_memory


def run(parts: MicroBatches, piece: list[torch.Tensor], most: int, steps_per_item: int = 1) -> list[int]:
    """Sizes of the parts that were gone through; more than ``most`` items at a time "run out of memory" half way."""
    seen: list[torch.Tensor] = []
    sizes: list[int] = []

    def one(part: list[torch.Tensor]) -> None:
        if len(part[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(part[0])
        sizes.append(len(part[0]))

    parts.accumulate(piece, steps_per_item, lambda: (seen.clear(), sizes.clear()), one)
    torch.testing.assert_close(torch.cat(seen), piece[0])
    return sizes


def test_auto_finds_a_size_and_keeps_it() -> None:
    piece = [torch.arange(100.0), torch.arange(100.0)]
    parts = MicroBatches("auto")
    assert run(parts, piece, most=200) == [100]
    assert parts.limit is None
    assert run(parts, piece, most=30) == [25, 25, 25, 25]
    assert parts.limit == 25
    assert run(parts, piece, most=200) == [25, 25, 25, 25]


def test_a_given_size_is_kept_to_and_sequences_count_their_steps() -> None:
    assert run(MicroBatches(40), [torch.arange(100.0)], most=100) == [40, 40, 20]
    assert run(MicroBatches(40), [torch.arange(10.0)], most=10, steps_per_item=16) == [2, 2, 2, 2, 2]
    assert run(MicroBatches(8), [torch.arange(3.0)], most=10, steps_per_item=16) == [1, 1, 1]
    assert run(MicroBatches(None), [torch.arange(10.0)], most=10) == [10]


def test_what_no_size_helps_against_is_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run(MicroBatches("auto"), [torch.arange(10.0)], most=0)
    with pytest.raises(torch.OutOfMemoryError):
        run(MicroBatches(5), [torch.arange(10.0)], most=3)
    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatches("auto").accumulate(
            [torch.zeros(4)], 1, lambda: None, lambda part: (_ for _ in ()).throw(RuntimeError("shapes differ"))
        )
    assert not is_out_of_memory(RuntimeError("shapes differ"))


LIMITED = """
    import json, resource, sys
    import numpy as np
    sys.path.insert(0, sys.argv[1])
    import torch
    torch.set_num_threads(1)
    from conftest import Room
    from trainables.ppo.config import PPOConfig

    rows = 80_000
    sizes = dict(batch_size=rows, minibatch_size=rows, hidden=(512,), critic_hidden=(512,), sequence_length=4, lstm_size=64)
    room = Room(PPOConfig(task="own_tasks:Uneven", num_envs=800, num_epochs=1, micro_batch_size="auto", network=sys.argv[2], **sizes))
    fragment = room.sample()
    small = room.learn(fragment)  # everything is loaded, no limit yet
    assert "micro_batch_size" not in small, small
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 250 * 2**20, resource.RLIM_INFINITY))
    figures = [room.learn(fragment) for _ in range(2)]
    print(json.dumps([figure["micro_batch_size"] for figure in figures] + [figures[-1]["value_loss"]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is enforced on Linux only")
@pytest.mark.parametrize("network", ["mlp", pytest.param("lstm", marks=pytest.mark.slow)])
def test_auto_finds_a_size_when_the_process_may_have_no_more_memory(network: str, request: pytest.FixtureRequest) -> None:
    folder = str(request.path.parent)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), folder, network],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    first, second, value_loss = json.loads(result.stdout.splitlines()[-1])
    assert 100 < first < 80_000
    assert second <= first
    assert value_loss > 0
