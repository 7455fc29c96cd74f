"""What a comparison can be expected to find, as it is kept with the comparison and told."""

from __future__ import annotations

from pydantic import Field

from cluster.config import Config

__all__ = ["Plan", "PlannedEffect", "Scenario"]


class PlannedEffect(Config):
    """How long it takes to find a challenger that is better by so much."""

    effect: float = Field(description="challenger's mean minus champion's, in the metric's units")
    episodes: int | None = Field(description="episodes in all, of all arms, within which the test finds it; None: more than the horizon")
    episodes_per_arm: dict[str, int] = Field(description="how many of these each arm gets; empty where there is no figure")


class Scenario(Config):
    """What is assumed of the outcomes, and what follows."""

    outcomes: str = Field(description="what the champion's outcomes are taken to be")
    champion_mean: float = Field(description="their mean, in the metric's units")
    effects: tuple[PlannedEffect, ...] = Field(description="a few effects, the largest first")
    smallest_effect: float | None = Field(
        description="least effect that is found within the budget, in the metric's units; None: not even the largest possible one is"
    )


class Plan(Config):
    """Figures by simulating the very test that is run: its split, alpha and arms; for the challenger with the least share."""

    power: float = Field(description="probability with which an effect is to be found")
    budget: int = Field(
        description="episodes in all that smallest_effect is for: the comparison's, or 1,000 where it has none; 2,000 at most"
    )
    horizon: int = Field(description="episodes in all after which the simulation ends")
    repetitions: int = Field(description="simulated comparisons behind each figure")
    episodes_per_robot: int | None = Field(None, description="robots are assigned: episodes that make one observation; None: each is one")
    scenarios: tuple[Scenario, ...] = Field(description="one with past outcomes, or two that bracket what is usual")

    def lines(self, metric: str) -> list[str]:
        """The plan for a terminal."""
        said = []
        for scenario in self.scenarios:
            said.append(f"expected with {100 * self.power:g} % power {scenario.outcomes}, mean {scenario.champion_mean:.4g}:")
            said += [f"  {item.effect:+.4g} in {metric}: {self._takes(item)}" for item in scenario.effects]
            least = "nothing" if scenario.smallest_effect is None else f"{scenario.smallest_effect:+.3g} and more"
            said.append(f"  within {self.budget:,} episodes: {least}")
        if self.episodes_per_robot is not None:
            said.append(f"  {self.episodes_per_robot} episodes a robot; robots whose episodes resemble each other less need fewer")
        return said

    def _takes(self, item: PlannedEffect) -> str:
        if item.episodes is None:
            return f"more than {self.horizon:,} episodes"
        arms = ", ".join(f"{name} {_about(count):,}" for name, count in item.episodes_per_arm.items())
        return f"about {_about(item.episodes):,} episodes ({arms})"


def _about(count: int) -> int:
    """Two digits: the simulation knows no more."""
    return int(float(f"{count:.2g}"))
