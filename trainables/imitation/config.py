"""Configuration of the imitation stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Config
from cluster.contract import Name

__all__ = [
    "ChunkConfig",
    "DaggerConfig",
    "FitConfig",
    "ImitationConfig",
    "LstmConfig",
    "MlpConfig",
    "ModelName",
    "ObservingLstmConfig",
    "StreamingConfig",
]

ModelName = Literal["mlp", "simple_lstm", "lstm", "chunk"]
Batch = Annotated[int, Field(ge=1)] | Literal["auto"]


class FitConfig(Config):
    """What the training of every model has."""

    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay (AdamW) on matrices; biases are left alone")
    warmup_updates: int = Field(0, ge=0, description="updates over which the step size rises to its full size")
    gradient_accumulation: int = Field(
        1, ge=1, description="parts in which an update's batch goes through the network; same result, less memory"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of forward and backward passes; weights and an LSTM's memory stay float32"
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay of a moving average of the weights, which is then validated and kept; null: none"
    )


class SensingConfig(FitConfig):
    """Noise on inputs, for models that read what the robot senses."""

    observation_noise: float = Field(
        1.0, ge=0, description="noise on every input but exact_fields while training, in standard deviations of that input"
    )
    exact_fields: tuple[str, ...] | None = Field(
        None,
        description="observation fields that get no noise: what the robot is told, not what it senses; null: command where a task's "
        "expert replays a motion, all fields of a recording without a task",
    )


class MlpConfig(SensingConfig):
    """The policy over the whole observation; reinforcement learning continues from it."""

    epochs: int = Field(60, ge=1, description="most passes over the training split")
    batch_size: Batch = Field(256, description="frames of one update, over all workers; auto: found by timing")
    learning_rate: float = Field(4e-3, gt=0, description="Adam step size; falls to a twentieth along a cosine")
    hidden: tuple[int, ...] = Field((128, 128), min_length=1, description="width of each hidden layer")
    activation: Literal["tanh", "relu", "elu"] = Field("elu", description="between the layers")


class LstmConfig(FitConfig):
    """``simple_lstm``: phase and command -> LSTM -> joints, trained by truncated backpropagation along episodes."""

    epochs: int = Field(60, ge=1, description="most passes over the training split")
    batch_size: Batch = Field(16, description="episodes side by side in one update, over all workers; auto: found by timing")
    window: int = Field(25, ge=1, description="steps between truncations of the gradient; the state is carried on")
    learning_rate: float = Field(1e-2, gt=0, description="Adam step size; falls to a twentieth along a cosine")
    hidden_size: int = Field(64, ge=1, description="width of the LSTM")
    head_size: int = Field(32, ge=1, description="width of the layer after it")
    input_field: str = Field("command", description="observation field that it reads")


class ObservingLstmConfig(SensingConfig):
    """``lstm``: the whole observation -> LSTM -> joints; PPO with ``network: lstm`` continues from it."""

    epochs: int = Field(60, ge=1, description="most passes over the training split")
    batch_size: Batch = Field(16, description="episodes side by side in one update, over all workers; auto: found by timing")
    window: int = Field(25, ge=1, description="steps between truncations of the gradient; the state is carried on")
    learning_rate: float = Field(3e-3, gt=0, description="Adam step size; falls to a twentieth along a cosine")
    hidden_size: int = Field(64, ge=1, description="width of the LSTM")
    head_size: int = Field(64, ge=1, description="width of the layer after it")


class ChunkConfig(SensingConfig):
    """``chunk``: the last observations -> the next actions at once, as in ACT (Zhao et al. 2023) with an MLP for its transformer."""

    epochs: int = Field(60, ge=1, description="most passes over the training split")
    batch_size: Batch = Field(256, description="frames of one update, over all workers; auto: found by timing")
    learning_rate: float = Field(1e-3, gt=0, description="Adam step size; falls to a twentieth along a cosine")
    chunk_size: int = Field(16, ge=1, description="actions of one answer")
    history: int = Field(1, ge=1, description="observations that it reads, the present one included")
    history_stride: int = Field(1, ge=1, description="control steps between them; equal to the chunk_steps that the robot will use")
    relative: bool = Field(True, description="predict changes from the joints' present positions, where the recording observes them")
    loss: Literal["l1", "mse"] = Field("l1", description="error that is made small; ACT's is l1")
    hidden: tuple[int, ...] = Field((256, 256), min_length=1, description="width of each hidden layer")
    activation: Literal["tanh", "relu", "elu"] = Field("elu", description="between the layers")


class DaggerConfig(Config):
    """DAgger (Ross et al. 2011): the policy drives, the gait expert says what it would have done, all of it is learned from."""

    rounds: int = Field(3, ge=1, description="rounds after the first training, which is on the dataset alone")
    beta: float = Field(0.5, ge=0, lt=1, description="in round i every step is the expert's own with probability beta ** i")
    frames_per_round: int = Field(6000, ge=1, description="frames recorded in a round, divided over the dataset's gaits")
    episode_steps: int = Field(250, ge=2, description="control steps of an episode")
    robots_per_task: int = Field(8, ge=1, description="robots that one Ray task simulates together")
    physics: Literal["fast", "medium", "production"] = Field("fast", description="physics preset")


class StreamingConfig(Config):
    """Reading while training, for datasets larger than memory."""

    mode: Literal["auto", "always", "never"] = Field("auto", description="auto: when the numbers of a dataset exceed memory_gb")
    memory_gb: float = Field(4.0, gt=0, description="largest dataset that every worker holds in memory")
    shuffle_buffer_frames: int = Field(
        131072, ge=1, description="frames among which a worker draws its batches; one more such buffer is read ahead"
    )


class ImitationConfig(Config):
    """Imitation of the actions in a LeRobot folder."""

    dataset: Path | None = Field(None, description="LeRobot v3.0 folder, or a dataset's name; None: of the stage prepare or collect")
    models: tuple[ModelName, ...] = Field(("mlp", "simple_lstm"), min_length=1, description="policies to train, in this order")
    algorithm: Literal["bc", "dagger"] = Field(
        "bc", description="bc: behaviour cloning; dagger: of one model, on a task with a gait expert"
    )
    mlp: MlpConfig = Field(default_factory=MlpConfig, description="the policy that reinforcement learning continues from")
    simple_lstm: LstmConfig = Field(default_factory=LstmConfig, description="the recurrent policy over phase and command")
    lstm: ObservingLstmConfig = Field(default_factory=ObservingLstmConfig, description="the recurrent policy over the whole observation")
    chunk: ChunkConfig = Field(default_factory=ChunkConfig, description="the policy that plans several actions")
    dagger: DaggerConfig = Field(default_factory=DaggerConfig, description="of the algorithm dagger")
    observations: tuple[str, ...] = Field(
        ("observation.state",), min_length=1, description="features that are inputs, for a recording without a task"
    )
    actions: tuple[str, ...] = Field(("action",), min_length=1, description="features that are outputs, for a recording without a task")
    normalisation: Literal["min_max", "quantile", "mean_std"] = Field(
        "min_max", description="of a recording's actions: range, 1st to 99th percentile, or mean and deviation of the training split"
    )
    action_margin: float = Field(
        0.05, ge=0, description="share of a recorded action's range by which a policy may leave it, on either side"
    )
    robot: Name | None = Field(None, description="robot of a recording; None: what the dataset says. Our own robots' joints are checked")
    patience: int = Field(25, ge=1, description="epochs without a better validation loss after which a model stops")
    minimum_improvement: float = Field(1e-3, ge=0, lt=1, description="share by which the validation loss must fall to count as better")
    std_floor: float = Field(0.05, gt=0, description="least standard deviation that an input is normalised by, in its own unit")
    streaming: StreamingConfig = Field(default_factory=StreamingConfig, description="reading while training")
    ensemble_decay: float | None = Field(
        None, ge=0, description="temporal ensembling in the open-loop report: weight exp(-decay * i) of the i-th oldest plan; ACT's is 0.01"
    )
    open_loop_episodes: int = Field(16, ge=1, description="most held-out episodes that the open-loop error is measured on")
    num_workers: int = Field(1, ge=1, description="Ray Train workers; each takes its share of every batch")
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

    @model_validator(mode="after")
    def _consistent(self) -> ImitationConfig:
        if self.algorithm == "dagger" and len(self.models) != 1:
            raise ValueError("models: dagger trains one policy, whose own path is what it learns from; name one")
        for label in ("observations", "actions"):
            names = getattr(self, label)
            if len(set(names)) != len(names):
                raise ValueError(f"{label}: name each feature once")
        return self
