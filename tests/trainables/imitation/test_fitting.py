import copy

import numpy as np
import pytest
import torch

from tests.trainables.imitation.cycle import FIELDS, TRAIN, VALIDATION
from trainables.imitation.config import ImitationConfig, LstmConfig, MlpConfig
from trainables.imitation.fits import make_fit
from trainables.imitation.fitting import Fit

MLP = MlpConfig(epochs=40, batch_size=64, hidden=(32, 32), learning_rate=5e-3)
LSTM = LstmConfig(epochs=40, batch_size=4, window=10, hidden_size=24, head_size=16)
CONFIG = ImitationConfig(mlp=MLP, simple_lstm=LSTM, patience=40)


def start(name: str, config: ImitationConfig = CONFIG) -> Fit:
    fit = make_fit(name, config, 10, 3, FIELDS, rank=0, device=torch.device("cpu")).attach(TRAIN, VALIDATION)
    fit.prepare()
    return fit


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["mlp", "simple_lstm"])
def test_a_fit_learns_the_expert(name: str) -> None:
    fit = start(name)
    while not fit.finished:
        fit.run_epoch()
    assert fit.best_loss < min(0.005, fit.history[0]["validation_loss"] / 2)
    assert fit.best_loss == min(row["validation_loss"] for row in fit.history[: fit.best_epoch])
    assert [row["epoch"] for row in fit.history] == list(range(1, fit.epoch + 1))


def test_the_kept_weights_give_the_kept_loss() -> None:
    fit = start("mlp")
    for _ in range(5):
        fit.run_epoch()
    fit.policy.load_state_dict(fit.best)
    with torch.no_grad():
        error = (fit.policy(torch.from_numpy(VALIDATION.observation)) - torch.from_numpy(VALIDATION.target)).square().mean()
    assert float(error) == pytest.approx(fit.best_loss, rel=1e-5)


@pytest.mark.parametrize("name", ["mlp", "simple_lstm"])
def test_the_same_seed_repeats_bit_for_bit_and_another_does_not(name: str) -> None:
    first, again = start(name), start(name)
    other = start(name, CONFIG.model_copy(update={"seed": 1}))
    for fit in (first, again, other):
        for _ in range(3):
            fit.run_epoch()
    assert first.history == again.history
    assert first.history != other.history


@pytest.mark.parametrize("name", ["mlp", "simple_lstm"])
def test_a_resumed_fit_goes_on_as_if_nothing_had_happened(name: str) -> None:
    whole = start(name)
    for _ in range(3):
        whole.run_epoch()
    saved = copy.deepcopy(whole.state_dict())
    resumed = make_fit(name, CONFIG, 10, 3, FIELDS, rank=0, device=torch.device("cpu")).attach(TRAIN, VALIDATION)
    resumed.load_state_dict(saved)
    for fit in (whole, resumed):
        for _ in range(3):
            fit.run_epoch()
    assert whole.history == resumed.history
    for name_, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, resumed.policy.state_dict()[name_])


def test_training_stops_when_validation_stops_getting_better() -> None:
    fit = start("mlp", CONFIG.model_copy(update={"patience": 2, "minimum_improvement": 0.9}))
    while not fit.finished:
        fit.run_epoch()
    assert fit.epoch - fit.best_epoch == 2
    assert fit.epoch < MLP.epochs


def test_the_clone_follows_the_command_and_not_its_own_echo() -> None:
    fit = start("mlp")
    while not fit.finished:
        fit.run_epoch()
    observation = torch.from_numpy(VALIDATION.observation)
    misled = observation.clone()
    misled[:, :6] = misled[torch.randperm(len(misled), generator=torch.Generator().manual_seed(0)), :6]
    with torch.no_grad():
        change = (fit.policy(misled) - fit.policy(observation)).square().mean()
    # The echo alone explains the action almost perfectly; a clone that used it would err by about the action's variance, 0.18.
    assert change < 0.01


def test_statistics_are_those_of_the_training_split_with_a_floor() -> None:
    fit = start("mlp")
    normalizer = fit.policy.normalizer
    np.testing.assert_allclose(normalizer.mean.numpy(), TRAIN.observation.mean(0), atol=1e-5)
    expected = np.maximum(TRAIN.observation.std(0, dtype=np.float64), CONFIG.std_floor)
    np.testing.assert_allclose(normalizer.var.sqrt().numpy(), expected, rtol=1e-3)
    assert expected[8] == CONFIG.std_floor  # the commanded velocity never changes here
    assert normalizer.count.item() == len(TRAIN)
