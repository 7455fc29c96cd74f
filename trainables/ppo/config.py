"""What one PPO run needs to know. Light: importing this brings neither torch nor Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.config import Config

__all__ = ["EvaluationConfig", "PPOConfig"]


class EvaluationConfig(Config):
    """Deterministic episodes by which checkpoints are compared; the same seeds every time (common random numbers)."""

    episodes: int = Field(16, ge=0, description="episodes per evaluation, one per parallel environment; 0: no evaluation")
    seed: int = Field(1_000_003, ge=0, description="seed of the evaluation environments")
    max_steps: int = Field(2_000, ge=1, description="give up on an episode after this many control steps")
    task_config: dict[str, Any] = Field(default_factory=dict, description="task settings of the evaluation; empty: those of training")


class PPOConfig(Config):
    """One PPO run (Schulman et al. 2017); defaults follow Andrychowicz et al. 2021 for continuous control."""

    task: str = Field("pidog_run", description="task name, gymnasium:ID, or package.module:Class of an environment of your own")
    task_config: dict[str, Any] = Field(default_factory=dict, description="settings of the task, checked by the task itself")
    warm_start: Path | None = Field(None, description="policy checkpoint folder whose weights and statistics the actor starts from")
    seed: int = Field(0, ge=0, description="seed of networks, sampling and environments")

    total_env_steps: int = Field(200_000, ge=1, description="environment (control) steps to train for")
    num_envs: int = Field(32, ge=1, description="parallel environments in each env runner")
    num_env_runners: int = Field(0, ge=0, description="remote env runners; 0: sample in the trial's own process")
    overlap: bool = Field(
        False, description="sample the next batch while learning from this one: off-policy by one batch, corrected by PPO's own ratio"
    )
    batch_size: int = Field(2_048, ge=2, description="environment steps per training iteration")
    minibatch_size: int = Field(256, ge=1, description="rows per gradient step, over all learners together")
    num_epochs: int = Field(4, ge=1, description="passes over each batch")
    report_every_env_steps: int = Field(16_384, ge=1, description="environment steps between evaluations, reports and checkpoints")
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="how checkpoints are compared")

    learning_rate: float = Field(3e-4, gt=0, le=1, description="Adam step size at the start")
    final_learning_rate: float | None = Field(None, ge=0, description="Adam step size at total_env_steps, linear between; None: constant")
    adaptive_learning_rate: bool = Field(
        False, description="steer the step size by kl_target instead: 1.5 times less above twice it, more below half"
    )
    kl_target: float = Field(0.01, gt=0, description="KL divergence per iteration that adaptive_learning_rate aims at, nats")
    gamma: float = Field(0.99, gt=0, le=1, description="discount per control step")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="lambda of generalised advantage estimation")
    clip: float = Field(0.2, gt=0, description="PPO ratio clip")
    value_clip: float | None = Field(None, gt=0, description="clip of the value change, in the critic's units; None: off")
    value_coefficient: float = Field(0.5, ge=0, description="weight of the value loss")
    entropy_coefficient: float = Field(0.0, ge=0, description="weight of the entropy bonus at the start")
    final_entropy_coefficient: float | None = Field(None, ge=0, description="weight at total_env_steps, linear between; None: constant")
    max_gradient_norm: float = Field(0.5, gt=0, description="clip of the global gradient norm")
    recompute_advantages: bool = Field(False, description="advantages anew before every epoch, with the critic as it is then")
    critic_warmup_iterations: int = Field(0, ge=0, description="iterations that train the critic alone before the actor may move")

    network: Literal["mlp", "lstm"] = Field("mlp", description="kind of the actor; a warm start must be of this kind")
    hidden: tuple[int, ...] = Field((128, 128), min_length=1, description="actor's hidden layers (mlp); a warm start brings its own")
    activation: Literal["tanh", "relu", "elu"] = Field(
        "elu", description="actor's and critic's activation; a warm start brings the actor's"
    )
    lstm_size: int = Field(64, ge=1, description="units of the recurrent layer (lstm)")
    sequence_length: int = Field(16, ge=1, description="control steps of backpropagation through time (lstm)")
    critic_hidden: tuple[int, ...] = Field((128, 128), min_length=1, description="critic's hidden layers")
    initial_action_std: float = Field(0.5, gt=0, description="exploration noise at the start, in normalised action units")
    normalize_observations: bool = Field(True, description="running mean and standard deviation of the observations, clipped at ±10")
    update_normalizer: bool = Field(True, description="keep updating the observation statistics; off: freeze those of the warm start")
    return_scaling: Literal["popart", "rewards", "none"] = Field(
        "popart", description="popart: the critic keeps the scale; rewards: divided by the running std of the return, clipped; none"
    )
    reward_clip: float = Field(10.0, gt=0, description="clip of a scaled reward (return_scaling: rewards)")

    num_learners: int = Field(0, ge=0, description="learner processes that share each gradient step (gloo or NCCL); 0: in this process")
    gpus_per_learner: float = Field(0.0, ge=0, description="GPUs of each learner")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: autocast in the learner's forward passes")
    micro_batch_size: int | Literal["auto"] | None = Field(
        None, description="rows per forward and backward pass, gradients accumulated to a minibatch; auto: halved while memory runs out"
    )
    compile: bool = Field(False, description="torch.compile of the loss; a minute at the start, for long runs on a GPU")
    torch_threads: int = Field(1, ge=1, description="torch threads in the trial's process")

    @model_validator(mode="after")
    def _sizes(self) -> PPOConfig:
        num_envs = self.num_envs * max(1, self.num_env_runners)
        if self.minibatch_size > self.batch_size:
            raise ValueError(f"minibatch_size {self.minibatch_size} must not be above batch_size {self.batch_size}")
        if self.batch_size < num_envs:
            raise ValueError(f"batch_size {self.batch_size} must give each of the {num_envs} environments a step")
        if self.overlap and self.num_env_runners == 0:
            raise ValueError("overlap: true samples in another process; set num_env_runners to 1 or more")
        if self.network == "lstm" and self.batch_steps_per_env % self.sequence_length:
            raise ValueError(
                f"sequence_length {self.sequence_length} must divide the {self.batch_steps_per_env} steps that each of the {num_envs} "
                f"environments gives a batch of {self.batch_size}"
            )
        if isinstance(self.micro_batch_size, int) and not 1 <= self.micro_batch_size <= self.minibatch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} must be 1 to minibatch_size {self.minibatch_size}")
        if self.num_learners > num_envs:
            raise ValueError(f"num_learners {self.num_learners}: the {num_envs} environments are divided among them; use at most as many")
        if self.adaptive_learning_rate and self.final_learning_rate is not None:
            raise ValueError("give final_learning_rate or adaptive_learning_rate, not both: each sets the step size")
        if not self.update_normalizer and self.warm_start is None:
            raise ValueError("update_normalizer: false needs a warm_start: there are no statistics to freeze")
        return self

    @property
    def batch_steps_per_env(self) -> int:
        """Control steps that every environment contributes to one batch."""
        return -(-self.batch_size // (self.num_envs * max(1, self.num_env_runners)))

    @property
    def critic_warmup_env_steps(self) -> int:
        """Environment steps during which only the critic learns."""
        return self.critic_warmup_iterations * self.batch_size

    def resource_bundles(self, cpus: float = 1.0) -> list[dict[str, float]]:
        """What Ray must reserve for one run: its own process first, then one bundle for each env runner and each learner."""
        gpus = {"GPU": self.gpus_per_learner} if self.gpus_per_learner else {}
        own = {"CPU": cpus, **(gpus if self.num_learners == 0 else {})}
        return [own, *({"CPU": 1.0} for _ in range(self.num_env_runners)), *({"CPU": 1.0, **gpus} for _ in range(self.num_learners))]
