"""What can be chosen about a fit: networks with memory and plans, precision, accumulation, averaging, batch sizes, streams."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.trainables.imitation.cycle import FIELDS, TRAIN, VALIDATION
from trainables.imitation.batch_size import find_batch_size
from trainables.imitation.config import ChunkConfig, ImitationConfig, MlpConfig, ObservingLstmConfig
from trainables.imitation.fits import make_fit
from trainables.imitation.fitting import Fit

CONFIG = ImitationConfig(
    mlp=MlpConfig(epochs=30, batch_size=64, hidden=(32, 32), learning_rate=5e-3),
    lstm=ObservingLstmConfig(epochs=30, batch_size=4, window=10, hidden_size=24, head_size=16, learning_rate=1e-2),
    chunk=ChunkConfig(epochs=30, batch_size=64, chunk_size=5, history=2, hidden=(48, 48), learning_rate=5e-3, loss="mse"),
    patience=40,
)
KINDS = ["mlp", "lstm", "chunk"]


def changed(name: str, **options: object) -> ImitationConfig:
    return CONFIG.model_copy(update={name: getattr(CONFIG, name).model_copy(update=options)})


def start(name: str, config: ImitationConfig = CONFIG) -> Fit:
    fit = make_fit(name, config, 10, 3, FIELDS, rank=0, device=torch.device("cpu")).attach(TRAIN, VALIDATION)
    fit.prepare()
    return fit


def epochs(fit: Fit, count: int) -> Fit:
    for _ in range(count):
        fit.run_epoch()
    return fit


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", KINDS)
def test_every_network_learns_the_expert(name):
    fit = start(name)
    while not fit.finished:
        fit.run_epoch()
    assert fit.best_loss < min(0.01, fit.history[0]["validation_loss"] / 2)


@pytest.mark.parametrize("name", KINDS)
def test_a_resumed_fit_goes_on_as_if_nothing_had_happened(name):
    options = {"ema_decay": 0.9, "weight_decay": 1e-3, "warmup_updates": 20}
    config = changed(name, **options)
    whole = epochs(start(name, config), 3)
    saved = copy.deepcopy(whole.state_dict())
    resumed = make_fit(name, config, 10, 3, FIELDS, rank=0, device=torch.device("cpu")).attach(TRAIN, VALIDATION)
    resumed.load_state_dict(saved)
    epochs(whole, 3)
    epochs(resumed, 3)
    assert whole.history == resumed.history
    for key, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, resumed.policy.state_dict()[key])


@pytest.mark.parametrize("name", KINDS)
def test_accumulated_gradients_are_those_of_the_whole_batch(name):
    whole, parts = epochs(start(name), 2), epochs(start(name, changed(name, gradient_accumulation=3)), 2)
    for first, second in zip(whole.history, parts.history, strict=True):
        assert first["validation_loss"] == pytest.approx(second["validation_loss"], rel=1e-3)
    assert whole.updates == parts.updates


@pytest.mark.parametrize("name", KINDS)
def test_bfloat16_learns_as_well_and_its_weights_stay_float32(name):
    exact, rough = epochs(start(name), 15), epochs(start(name, changed(name, precision="bfloat16")), 15)
    assert rough.best_loss < 2 * exact.best_loss + 0.003
    assert rough.history != exact.history
    assert {tensor.dtype for tensor in rough.policy.parameters()} == {torch.float32}


def test_the_average_of_the_weights_is_what_is_validated_and_kept():
    fit = epochs(start("mlp", changed("mlp", ema_decay=0.95)), 4)
    fit.policy.load_state_dict(fit.best)
    with torch.no_grad():
        error = (fit.policy(torch.from_numpy(VALIDATION.observation)) - torch.from_numpy(VALIDATION.target)).square().mean()
    assert float(error) == pytest.approx(fit.best_loss, rel=1e-5)
    assert fit.history != epochs(start("mlp"), 4).history


def test_the_step_size_rises_first():
    fit = start("mlp", changed("mlp", warmup_updates=1000))
    epochs(fit, 1)
    assert fit.optimizer.param_groups[0]["lr"] == pytest.approx(5e-3 * fit.updates / 1000)


def test_a_chunk_ends_where_its_episode_ends():
    """The last frames of an episode are not taught the next episode's first actions."""
    fit = start("chunk")
    pool = next(iter(fit._validation_pools()))
    errors, valid = fit._of_rows(pool, torch.arange(60))
    assert valid.sum(dim=1).tolist() == [5] * 56 + [4, 3, 2, 1]
    wanted = torch.from_numpy(VALIDATION.target)
    with torch.no_grad():
        predicted = fit.policy(pool.x[torch.tensor([[9, 10]])])
    torch.testing.assert_close(errors[10].detach(), (predicted[0] - wanted[10:15]).square())


def test_the_batch_size_is_doubled_while_rows_get_cheaper():
    assert find_batch_size(lambda batch: 1.0 / min(batch, 256), 10**6) == 256
    assert find_batch_size(lambda batch: 1.0 / batch, 2000) == 128  # eight updates are left
    assert find_batch_size(lambda batch: 1.0, 10**6) == 16

    def runs_out(batch):
        if batch > 64:
            raise MemoryError
        return 1.0 / batch

    assert find_batch_size(runs_out, 10**6) == 64
    fit = start("mlp", changed("mlp", batch_size="auto"))
    assert 16 <= fit.batch_size <= len(TRAIN) // 8
    untouched = start("mlp")
    for first, second in zip(fit.policy.parameters(), untouched.policy.parameters(), strict=True):
        assert torch.equal(first, second)
    assert len(epochs(fit, 1).history) == 1


@pytest.mark.parametrize("name", KINDS)
def test_streamed_buffers_teach_what_memory_does(name):
    def buffers(part, size):
        episodes = np.unique(part.episode)
        return (part.of_episodes(episodes[first : first + size].tolist()) for first in range(0, len(episodes), size))

    wide = TRAIN.observation.astype(np.float64)
    moments = wide.mean(0), wide.var(0), len(wide)
    fit = make_fit(name, CONFIG, 10, 3, FIELDS, rank=0, device=torch.device("cpu"))
    fit.attach_stream(lambda epoch: buffers(TRAIN, 5), lambda: buffers(VALIDATION, 3), moments)
    fit.prepare()
    held = start(name)
    for key, tensor in held.policy.normalizer.state_dict().items():
        torch.testing.assert_close(tensor, fit.policy.normalizer.state_dict()[key], rtol=1e-4, atol=1e-5)
    epochs(fit, 20)
    assert fit.best_loss < 2 * epochs(held, 20).best_loss + 0.005
