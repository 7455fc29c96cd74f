"""Where one parameter of a search space is drawn from."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from cluster.config import Config

__all__ = ["Domain"]


class Domain(Config):
    """Exactly one of the forms."""

    uniform: tuple[float, float] | None = Field(None, description="evenly between low and high")
    loguniform: tuple[float, float] | None = Field(None, description="evenly between low and high on a logarithmic scale")
    choice: tuple[Any, ...] | None = Field(None, min_length=1, description="one of these values")
    randint: tuple[int, int] | None = Field(None, description="a whole number from low up to, not including, high")

    @model_validator(mode="after")
    def _one_form(self) -> Domain:
        given = {name: value for name, value in self if value is not None}
        if len(given) != 1:
            raise ValueError(f"give exactly one of uniform, loguniform, choice, randint (given: {', '.join(given) or 'none'})")
        name, value = next(iter(given.items()))
        if name != "choice" and not value[0] < value[1]:
            raise ValueError(f"{name} needs low < high, given {list(value)}")
        if name == "loguniform" and value[0] <= 0:
            raise ValueError(f"loguniform needs low > 0, given {list(value)}")
        return self

    @property
    def form(self) -> tuple[str, Any]:
        """Which form, and its value."""
        return next((name, value) for name, value in self if value is not None)

    @property
    def example(self) -> Any:
        """A value in the domain, to check that the parameter exists and takes it."""
        return self.form[1][0]

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the domain."""
        name, limits = self.form
        if name == "choice":
            return value in limits
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        return limits[0] <= value <= limits[1] - (name == "randint")

    def nearest(self, value: Any) -> Any:
        """The value in the domain next to ``value``; a choice that is not one of the values stays as it is."""
        name, limits = self.form
        if name == "choice" or self.holds(value):
            return value
        bounded = min(max(value, limits[0]), limits[1] - (name == "randint"))
        return int(bounded) if name == "randint" else float(bounded)

    def for_tune(self) -> Any:
        """As Ray Tune's own."""
        from ray import tune

        name, value = self.form
        return tune.choice(list(value)) if name == "choice" else getattr(tune, name)(*value)
