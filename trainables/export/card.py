"""What goes into a bundle for people: the model card and a README that says how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.contract import PolicyContract, TensorField
from trainables.evaluation.report import metrics_table

__all__ = ["model_card", "readme"]

NOT_TRAINING = {"architecture", "task", "task_config", "config", "dataset_tasks"}
"""Metadata that the card shows elsewhere or in another form."""


def model_card(
    name: str,
    contract: PolicyContract,
    metadata: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    parity: Mapping[str, Any],
    latency: Sequence[Mapping[str, Any]],
) -> str:
    """The card. ``evaluation`` is this policy's summary in ``evaluation.json``, None when it was not evaluated."""
    provenance = contract.provenance
    architecture = dict(metadata["architecture"])
    closed = parity["closed_loop"]
    parts = [
        f"# {contract.policy}: {name}\n",
        f"Drives `{contract.robot}` on the task `{contract.task}` at {1 / contract.control_dt_s:g} Hz: "
        f"{contract.observation_size} numbers in, {contract.action_size} out.\n",
        "## How it was made\n",
        _pairs(
            {
                "network": f"{architecture.pop('kind')} {json.dumps(architecture)}",
                **{key: _plain(value) for key, value in metadata.items() if key not in NOT_TRAINING},
                "taught by": ", ".join(metadata.get("dataset_tasks", [])) or None,
                "training configuration": json.dumps(metadata.get("config")) if metadata.get("config") else None,
                "task configuration": json.dumps(metadata.get("task_config", {})),
                "code": provenance.git_commit or "unknown (no git)",
                "configuration SHA-256": provenance.config_sha256,
                "created": provenance.created_at,
                "libraries": ", ".join(f"{library} {version}" for library, version in provenance.versions.items()),
            }
        ),
        "## Evaluation\n",
        metrics_table({name: dict(evaluation)}) if evaluation else "Not evaluated in the run that exported it.\n",
        "## Checks at export\n",
        f"ONNX Runtime against torch over {parity['observations']} observations of rollouts: "
        f"{parity['max_abs_error_rad']:.2g} rad at most (allowed {parity['tolerance_rad']:g}). "
        f"One episode of {closed['steps']} steps driven by ONNX Runtime, torch beside it: {closed['max_abs_error_rad']:.2g} rad at most.\n",
        "| batch | median, ms | 99th percentile, ms |\n| --- | --- | --- |\n"
        + "".join(f"| {row['batch']} | {row['median_ms']:.3f} | {row['p99_ms']:.3f} |\n" for row in latency)
        + "\nOne ONNX Runtime thread, on the machine that exported it.\n",
        "## Limits\n",
        "Trained and evaluated in simulation only, with the task's obstacles and randomisation. Targets leave the graph within the "
        "servos' limits; nothing else is limited: not their speed, not the robot's tilt. "
        f"A {contract.robot} of other proportions, another control period or other units than the contract's are new to it.\n",
    ]
    return "\n".join(parts)


def readme(name: str, contract: PolicyContract, example: np.ndarray) -> str:
    """How to use the bundle: served, or straight through ONNX Runtime. ``example``: an observation, shape (observation_size,)."""
    ends = np.cumsum([field.size for field in contract.observation])
    parts = np.split(np.round(example.astype(np.float64), 3), ends[:-1])
    observation = {field.name: part.tolist() for field, part in zip(contract.observation, parts, strict=True)}
    request = json.dumps({"episode_id": "walk-1", "observation": observation})
    state_inputs = "".join(f', "{field.name}": np.zeros((1, {", ".join(map(str, field.shape))}), np.float32)' for field in contract.state)
    state_note = (
        f"\nIt is recurrent: feed each output `{contract.state[0].name}_next` back as `{contract.state[0].name}` at the next step, "
        f"all of {', '.join(f'`{field.name}`' for field in contract.state)}; zeros begin an episode.\n"
        if contract.state
        else ""
    )
    return f"""# {contract.policy}: {name}

A policy bundle for `{contract.robot}`, task `{contract.task}`, one step every {contract.control_dt_s * 1000:g} ms.

| file | what |
| --- | --- |
| `policy.onnx` | the graph; observation normalisation and action scaling are inside, the batch axis is dynamic |
| `contract.json` | every input and output: name, shape, unit, limits; where the policy comes from |
| `card.md` | how it was trained, how well it does, its limits |
| `parity.json`, `latency.json` | what was checked and measured at export |
| `manifest.json` | SHA-256 of every file; a changed file is refused at registration and at load |

## Observation, in flat order

{_field_table(contract.observation)}
## Action

{_field_table(contract.action)}
## Call the endpoint

`gaitway token create ROBOT` makes the token.

```
curl -s http://127.0.0.1:8000/v1/policies/{contract.policy}/act -H "Authorization: Bearer $TOKEN" \\
    -H 'Content-Type: application/json' -d '{request}'
```

From Python, keeping the episode's state and retrying over a lost connection:

```python
from cluster.wire.client import PolicyClient

with PolicyClient("http://127.0.0.1:8000", "{contract.policy}", token=token) as robot:
    reply = robot.act(observation, episode_id="walk-1")  # a flat vector of {contract.observation_size}, or one array a field
```

## Run it without a server

```python
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("policy.onnx")
observation = np.zeros((1, {contract.observation_size}), np.float32)
action = session.run(["action"], {{"observation": observation{state_inputs}}})[0]  # (1, {contract.action_size})
```
{state_note}"""


def _field_table(fields: Sequence[TensorField]) -> str:
    rows = ["| field | shape | unit | components |", "| --- | --- | --- | --- |"]
    rows += [f"| `{field.name}` | {list(field.shape)} | {field.unit or '–'} | {', '.join(field.components)} |" for field in fields]
    return "\n".join(rows) + "\n"


def _pairs(entries: Mapping[str, Any]) -> str:
    return "".join(f"- {key.replace('_', ' ')}: {value}\n" for key, value in entries.items() if value not in (None, ""))


def _plain(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
