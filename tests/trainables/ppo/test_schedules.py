import pytest

from trainables.ppo.schedules import adapted_learning_rate, linear


def test_linear_goes_from_start_to_end_and_stays() -> None:
    assert [linear(1.0, 0.0, done) for done in (-0.1, 0.0, 0.25, 1.0, 3.0)] == [1.0, 1.0, 0.75, 0.0, 0.0]
    assert linear(0.3, None, 0.9) == 0.3


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.021, 1e-3 / 1.5), (0.02, 1e-3), (0.01, 1e-3), (0.005, 1e-3), (0.004, 1.5e-3), (0.0, 1.5e-3), (-0.001, 1e-3)]
)
def test_the_step_size_answers_to_the_divergence(kl: float, expected: float) -> None:
    assert adapted_learning_rate(1e-3, kl, kl_target=0.01) == pytest.approx(expected)


def test_the_step_size_stays_within_its_bounds() -> None:
    rate = 1e-3
    for _ in range(40):
        rate = adapted_learning_rate(rate, 1.0, kl_target=0.01)
    assert rate == 1e-6
    for _ in range(60):
        rate = adapted_learning_rate(rate, 0.0, kl_target=0.01)
    assert rate == 1e-2
