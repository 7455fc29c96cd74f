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
    effects: tuple[PlannedEffect, ...] = Field(description="a few effects")
    smallest_effect: float | None = Field(
        description="least effect that is found within the budget, in the metric's units; None: not even the largest possible one is"
    )


class Plan(Config):
    """Figures by simulating the very test that is run: its split, its alpha, its number of arms; the most disadvantaged challenger."""

    power: float = Field(description="probability with which an effect is to be found")
    budget: int = Field(description="episodes in all that smallest_effect is for")
    horizon: int = Field(description="episodes in all after which the simulation ends")
    repetitions: int = Field(description="simulated comparisons behind each figure")
    scenarios: tuple[Scenario, ...] = Field(description="one with past outcomes, or two that bracket what is usual")
    note: str = Field("", description="what the figures leave out")

    def lines(self, metric: str) -> list[str]:
        """The plan for a terminal."""
        said = []
        for scenario in self.scenarios:
            said.append(f"expected at {100 * self.power:g} % power, {scenario.outcomes} (mean {scenario.champion_mean:.4g}):")
            for item in scenario.effects:
                arms = ", ".join(f"{name} {count:,}" for name, count in item.episodes_per_arm.items())
                takes = f"more than {self.horizon:,} episodes" if item.episodes is None else f"{item.episodes:,} episodes ({arms})"
                said.append(f"  {item.effect:+.4g} in {metric}: {takes}")
            least = "no effect at all" if scenario.smallest_effect is None else f"{scenario.smallest_effect:+.3g}"
            said.append(
                f"  found within {self.budget:,} episodes: {least} or more"
                if scenario.smallest_effect is not None
                else f"  found within {self.budget:,} episodes: {least}"
            )
        return [*said, self.note] if self.note else said
