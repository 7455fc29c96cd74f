"""Configuration of the imitation stage."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from cluster.config import Config

__all__ = ["ImitationConfig", "LstmConfig", "MlpConfig", "ModelName"]

ModelName = Literal["mlp", "simple_lstm"]


class MlpConfig(Config):
    """The policy over the whole observation; reinforcement learning continues from it."""

    epochs: int = Field(60, ge=1, description="most passes over the training split")
    batch_size: int = Field(256, ge=1, description="frames of one update, per worker")
    learning_rate: float = Field(4e-3, gt=0, description="Adam step size; falls to a twentieth along a cosine")
    hidden: tuple[int, ...] = Field((128, 128), min_length=1, description="width of each hidden layer")
    activation: Literal["tanh", "relu", "elu"] = Field("elu", description="between the layers")
    observation_noise: float = Field(
        1.0, ge=0, description="noise on every input but exact_fields while training, in standard deviations of that input"
    )
    exact_fields: tuple[str, ...] = Field(
        ("command",), description="observation fields that get no noise: what the robot is told, not what it senses"
    )


class LstmConfig(Config):
    """``simple_lstm``: phase and command -> LSTM -> joints, trained by truncated backpropagation along episodes."""

    epochs: int = Field(60, ge=1, description="most passes over the training split")
    batch_size: int = Field(16, ge=1, description="episodes side by side in one update, per worker")
    window: int = Field(25, ge=1, description="steps between truncations of the gradient; the state is carried on")
    learning_rate: float = Field(1e-2, gt=0, description="Adam step size; falls to a twentieth along a cosine")
    hidden_size: int = Field(64, ge=1, description="width of the LSTM")
    head_size: int = Field(32, ge=1, description="width of the layer after it")
    input_field: str = Field("command", description="observation field that it reads")


class ImitationConfig(Config):
    """Behaviour cloning of the expert's actions in a LeRobot folder."""

    dataset: Path | None = Field(None, description="LeRobot v3.0 folder; None: what the stage collect made")
    models: tuple[ModelName, ...] = Field(("mlp", "simple_lstm"), min_length=1, description="policies to train, in this order")
    mlp: MlpConfig = Field(default_factory=MlpConfig, description="the policy that reinforcement learning continues from")
    simple_lstm: LstmConfig = Field(default_factory=LstmConfig, description="the recurrent policy")
    patience: int = Field(25, ge=1, description="epochs without a better validation loss after which a model stops")
    minimum_improvement: float = Field(1e-3, ge=0, lt=1, description="share by which the validation loss must fall to count as better")
    std_floor: float = Field(0.05, gt=0, description="least standard deviation that an input is normalised by, in its own unit")
    num_workers: int = Field(1, ge=1, description="Ray Train workers; each takes a share of the frames")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs of one worker")
    use_gpu: bool = Field(False, description="one GPU per worker")
    checkpoint_interval: int = Field(5, ge=1, description="epochs between two checkpoints and reports; a finished model always makes one")
    max_failures: int = Field(2, ge=0, description="worker losses that are survived by resuming from the last checkpoint")
    seed: int = Field(0, ge=0, description="of initial weights, order and noise; one worker repeats exactly")

    @field_validator("models")
    @classmethod
    def _distinct(cls, value: tuple[ModelName, ...]) -> tuple[ModelName, ...]:
        if len(set(value)) != len(value):
            raise ValueError("name each model once")
        return value
