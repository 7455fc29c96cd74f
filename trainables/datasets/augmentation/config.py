"""What copies are made of every episode: variants, each one or several steps in order.

```yaml
seed: 0
variants:
  - {name: mirror, steps: [{kind: mirror}]}
  - {name: noisy_mirror, copies: 2, steps: [{kind: mirror}, {kind: observation_noise, absolute: {joint_position_rad: 0.01}}]}
```

``keeps_physics`` of a step says whether a robot sent the copy's actions would be seen to do what the copy shows.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from cluster.config import Config

__all__ = [
    "AugmentationConfig",
    "CropStep",
    "LatencyStep",
    "MirrorStep",
    "NoiseStep",
    "RelabelStep",
    "ScaleSpeedStep",
    "Step",
    "TimeWarpStep",
    "Variant",
]


class MirrorStep(Config):
    """Left and right exchanged. Physics is kept: a robot with a plane of symmetry cannot tell the two worlds apart."""

    keeps_physics: ClassVar[bool] = True
    kind: Literal["mirror"] = "mirror"
    pairs: tuple[tuple[str, str], ...] = Field((), description="components that change places, by name")
    negate: tuple[str, ...] = Field((), description="components that change sign, by name; one of a pair: both do")
    keep: tuple[str, ...] = Field((), description="components that stay as they are, where a robot's own map does not know them")
    centres: dict[str, float] = Field({}, description="value of a negated component in the mirror plane, where that is not 0")
    phase_shift: Literal["derive", 0, 0.5] = Field(
        "derive", description="cycles by which a gait's phase moves; derive: from the actions over the phase"
    )
    max_asymmetry: float | None = Field(
        None, gt=0, description="refuse an episode whose mirrored actions differ by more from its own, in their unit; None: record it only"
    )


class TimeWarpStep(Config):
    """Locally faster and slower. Physics is not kept: forces grow with the square of the speed, contacts and falls do not follow."""

    keeps_physics: ClassVar[bool] = False
    kind: Literal["time_warp"] = "time_warp"
    strength: float = Field(0.2, gt=0, le=0.9, description="largest share by which the speed goes up; it goes down by the same factor")
    period_s: float = Field(1.0, gt=0, description="time between the knots of the speed, which is smooth between them")


class ScaleSpeedStep(Config):
    """Faster or slower as a whole. Physics is not kept, for the reason that ``TimeWarpStep`` gives."""

    keeps_physics: ClassVar[bool] = False
    kind: Literal["scale_speed"] = "scale_speed"
    factor: tuple[float, float] = Field((0.8, 1.2), description="range from which each copy's speed is drawn; 2: twice as fast")

    @model_validator(mode="after")
    def _range(self) -> ScaleSpeedStep:
        if not 0 < self.factor[0] <= self.factor[1]:
            raise ValueError(f"factor: give a range 0 < low <= high, given {self.factor[0]} {self.factor[1]}")
        return self


class NoiseStep(Config):
    """White noise on the sensors. What the robot did is unchanged; what was seen of it is less exact by the noise."""

    keeps_physics: ClassVar[bool] = True
    kind: Literal["observation_noise"] = "observation_noise"
    absolute: dict[str, float] = Field({}, description="standard deviation in the component's unit, by component, field or * pattern")
    relative: dict[str, float] = Field({}, description="the same as a share of the component's own deviation within the episode")
    limits: dict[str, tuple[float, float]] = Field({}, description="what a sensor can read at all, by component, field or * pattern")

    @model_validator(mode="after")
    def _some(self) -> NoiseStep:
        if not self.absolute and not self.relative:
            raise ValueError("give absolute or relative standard deviations")
        for name, deviation in {**self.absolute, **self.relative}.items():
            if deviation < 0:
                raise ValueError(f"the standard deviation of {name} is {deviation}; it must be at least 0")
        return self


class LatencyStep(Config):
    """Late sensors or late actuators. Physics is kept: the same motion, as a robot with that delay would record it."""

    keeps_physics: ClassVar[bool] = True
    kind: Literal["latency"] = "latency"
    target: Literal["observations", "actions"] = Field(
        "observations",
        description="observations: sensors show what was k steps ago, command and previous action are of now; "
        "actions: what moved the robot had to be sent k steps before",
    )
    steps: tuple[int, int] = Field((0, 2), description="range of control steps from which each copy's delay is drawn, both ends included")

    @model_validator(mode="after")
    def _range(self) -> LatencyStep:
        if not 0 <= self.steps[0] <= self.steps[1]:
            raise ValueError(f"steps: give a range 0 <= low <= high, given {self.steps[0]} {self.steps[1]}")
        return self


class RelabelStep(Config):
    """Hindsight: the commanded forward velocity becomes the achieved one. Physics is kept, a recorded reward is that of the old command."""

    keeps_physics: ClassVar[bool] = True
    kind: Literal["relabel_command"] = "relabel_command"
    component: str = Field("command.forward_velocity_m_s", description="component that holds the command")
    velocity_component: str | None = Field(
        None, description="recorded component that is the forward velocity; None: leg odometry, which needs a legged robot's joints"
    )
    window_s: float | None = Field(None, gt=0, description="the command is the mean over this long a window; None: over the episode")


class CropStep(Config):
    """A part of the episode. Physics is kept within it."""

    keeps_physics: ClassVar[bool] = True
    kind: Literal["crop"] = "crop"
    share: tuple[float, float] = Field((0.5, 1.0), description="range from which the part's share of the episode is drawn")
    min_frames: int = Field(2, ge=1, description="an episode is never cut shorter than this")

    @model_validator(mode="after")
    def _range(self) -> CropStep:
        if not 0 < self.share[0] <= self.share[1] <= 1:
            raise ValueError(f"share: give a range 0 < low <= high <= 1, given {self.share[0]} {self.share[1]}")
        return self


Step = Annotated[MirrorStep | TimeWarpStep | ScaleSpeedStep | NoiseStep | LatencyStep | RelabelStep | CropStep, Field(discriminator="kind")]


class Variant(Config):
    """One kind of copy."""

    name: str = Field(description="goes into the key of the copies", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    copies: int = Field(1, ge=1, le=1000, description="copies of each episode, each with draws of its own")
    steps: tuple[Step, ...] = Field(min_length=1, description="what is done, in this order")

    @property
    def keeps_physics(self) -> bool:
        """Whether all steps do."""
        return all(step.keeps_physics for step in self.steps)


class AugmentationConfig(Config):
    """Which copies are made of each episode. The same seed, key and copy number give the same copy, wherever it is made."""

    variants: tuple[Variant, ...] = Field(min_length=1, description="kinds of copies")
    keep_original: bool = Field(True, description="the recorded episode goes into the result as well")
    drop_images: bool = Field(False, description="leave images and videos out of every episode, the originals included")
    names: dict[str, tuple[str, ...]] = Field({}, description="names of a feature's components, where the dataset has none")
    seed: int = Field(0, ge=0, description="of every random draw")

    @model_validator(mode="after")
    def _different(self) -> AugmentationConfig:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise ValueError(f"variants must have different names, given {', '.join(names)}")
        if "original" in names:
            raise ValueError("a variant cannot be called original: that is what the recorded episodes are")
        return self
