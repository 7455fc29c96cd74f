"""PolicyContract: what goes into a policy and what comes out, field by field, with names, shapes and units.

It travels as ``contract.json`` beside ``policy.onnx``. The ONNX graph of every bundle has

- the input ``observation`` of shape ``(batch, observation_size)``: the observation fields, flattened and concatenated in order;
- the output ``action`` of shape ``(batch, action_size)``: physical units (normalisation and scaling are inside the graph);
- for each recurrent state field ``s`` the input ``s`` and the output ``s_next``, both ``(batch, *shape)``, all zeros at reset.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from cluster.config import Config, write_text_atomic
from cluster.errors import BundleError

__all__ = ["ACTION_OUTPUT", "OBSERVATION_INPUT", "PolicyContract", "Provenance", "TensorField", "component_names"]

OBSERVATION_INPUT = "observation"
ACTION_OUTPUT = "action"


def _name(value: str) -> str:
    if not value.replace("_", "").replace("-", "").isalnum():
        raise ValueError("use letters, digits, - and _ only")
    return value


Name = Annotated[str, AfterValidator(_name)]


class TensorField(Config):
    """One named group of numbers."""

    name: Name = Field(description="key in a request, with its unit as suffix where it has one")
    shape: tuple[int, ...] = Field(description="shape without the batch axis")
    unit: str = Field("", description="SI unit of each component; empty: dimensionless")
    components: tuple[str, ...] = Field((), description="name of each component in flat order; empty: unnamed")
    low: tuple[float, ...] = Field((), description="lower limit of each component in flat order; empty: unlimited")
    high: tuple[float, ...] = Field((), description="upper limit of each component in flat order; empty: unlimited")

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)

    @model_validator(mode="after")
    def _lengths(self) -> TensorField:
        if any(length < 1 for length in self.shape):
            raise ValueError(f"field {self.name}: every axis of shape {self.shape} must be at least 1")
        for label in ("components", "low", "high"):
            length = len(getattr(self, label))
            if length not in (0, self.size):
                raise ValueError(f"field {self.name}: {label} has {length} entries, its shape wants {self.size}")
        return self


def component_names(fields: Iterable[TensorField]) -> tuple[str, ...]:
    """Name of every scalar of some fields, in flat order: ``field.component``, or ``field`` where it is one number."""
    return tuple(
        f"{field.name}.{component}" if field.size > 1 else field.name
        for field in fields
        for component in (field.components or tuple(str(index) for index in range(field.size)))
    )


class Provenance(Config):
    """Where a bundle comes from; enough to make it again."""

    created_at: str = Field("", description="UTC time, ISO 8601")
    git_commit: str = Field("", description="commit of the code, with -dirty when the tree was changed")
    config_sha256: str = Field("", description="SHA-256 of the resolved configuration")
    dataset_digest: str = Field("", description="digest of the dataset that the policy learned from")
    run_id: str = Field("", description="MLflow run")
    source: str = Field("", description="imitation | ppo, and the checkpoint")
    versions: dict[str, str] = Field(default_factory=dict, description="versions of the libraries that made it")


class PolicyContract(Config):
    """The typed interface of one policy version. ``observation`` order is the order inside the flat vector."""

    schema_version: int = Field(1, ge=1, le=1, description="layout of this file")
    policy: Name = Field(description="policy name, such as pidog-run")
    robot: Name = Field(description="robot that the policy drives")
    task: str = Field(description="task that it was trained on")
    control_dt_s: float = Field(gt=0, description="control period, seconds")
    observation: tuple[TensorField, ...] = Field(min_length=1, description="inputs, in flat order")
    action: tuple[TensorField, ...] = Field(min_length=1, description="outputs, in flat order")
    state: tuple[TensorField, ...] = Field((), description="recurrent state, zeros at reset; empty: stateless")
    provenance: Provenance = Field(default_factory=Provenance, description="where it comes from")

    @property
    def observation_size(self) -> int:
        """Length of the flat observation vector."""
        return sum(field.size for field in self.observation)

    @property
    def action_size(self) -> int:
        """Length of the flat action vector."""
        return sum(field.size for field in self.action)

    @model_validator(mode="after")
    def _unique(self) -> PolicyContract:
        for label in ("observation", "action", "state"):
            names = [field.name for field in getattr(self, label)]
            if len(set(names)) != len(names):
                raise ValueError(f"{label} fields must have different names, given {names}")
        return self

    def interface(self) -> dict[str, Any]:
        """What a client depends on: equal for two versions exactly when one can replace the other behind the endpoint."""
        return self.model_dump(mode="json", exclude={"provenance"})

    def save(self, path: Path) -> None:
        """Write the contract as JSON, atomically."""
        write_text_atomic(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> PolicyContract:
        """Read a contract. Raises ``BundleError`` when it is missing or malformed."""
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BundleError(f"{path}: no contract here; a bundle holds policy.onnx, contract.json and manifest.json") from None
        except (ValidationError, UnicodeDecodeError) as error:
            raise BundleError(f"{path}: not a valid contract: {' '.join(str(error).split())[:200]}") from None
