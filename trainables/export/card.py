"""What goes into a bundle for people: the model card and a README that says how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.contract import PolicyContract, TensorField
from trainables.evaluation.report import metrics_table
from trainables.networks.interface import RECORDED

__all__ = ["model_card", "open_loop_table", "readme"]

NOT_TRAINING = {"architecture", "task", "task_config", "config", "dataset_tasks", "interface", "open_loop", "lineage"}
"""Metadata that the card shows elsewhere or in another form."""
_LIMITS_SIMULATED = (
    "Trained and evaluated in simulation only, with the task's obstacles and randomisation. Targets leave the graph within the "
    "servos' limits; nothing else is limited: not their speed, not the robot's tilt. "
)
_LIMITS_RECORDED = (
    "Trained on recordings and compared with held-out ones; it has not moved a robot. Targets leave the graph within the range that "
    "was recorded, with the margin of its configuration; nothing else is limited: not their speed, not what the arm may hit. "
)


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
    is_recorded = contract.task == RECORDED
    parts = [
        f"# {contract.policy}: {name}\n",
        f"Drives `{contract.robot}` {'as it was recorded' if is_recorded else f'on the task `{contract.task}`'} "
        f"at {1 / contract.control_dt_s:g} Hz: {contract.observation_size} numbers in, {contract.action_size} out.\n",
        "## How it was made\n",
        _pairs(
            {
                "network": f"{architecture.pop('kind')} {json.dumps(architecture)}",
                **{key: _plain(value) for key, value in metadata.items() if key not in NOT_TRAINING},
                "taught by": ", ".join(metadata.get("dataset_tasks", [])) or None,
                "training configuration": json.dumps(metadata.get("config")) if metadata.get("config") else None,
                "task configuration": None if is_recorded else json.dumps(metadata.get("task_config", {})),
                "code": provenance.git_commit or "unknown (no git)",
                "configuration SHA-256": provenance.config_sha256,
                "created": provenance.created_at,
                "libraries": ", ".join(f"{library} {version}" for library, version in provenance.versions.items()),
            }
        ),
        "## Evaluation\n",
        _evaluation(name, evaluation, metadata.get("open_loop")),
        "## Checks at export\n",
        _checks(parity),
        "| batch | median, ms | 99th percentile, ms |\n| --- | --- | --- |\n"
        + "".join(f"| {row['batch']} | {row['median_ms']:.3f} | {row['p99_ms']:.3f} |\n" for row in latency)
        + "\nOne ONNX Runtime thread, on the machine that exported it.\n",
        "## Limits\n",
        _LIMITS_RECORDED if is_recorded else _LIMITS_SIMULATED,
        f"A {contract.robot} of other proportions, another control period or other units than the contract's are new to it.\n",
    ]
    return "\n".join(parts)


def _evaluation(name: str, evaluation: Mapping[str, Any] | None, open_loop: Mapping[str, Any] | None) -> str:
    parts = [metrics_table({name: dict(evaluation)})] if evaluation else []
    if open_loop:
        parts.append("Against held-out episodes, open loop:\n\n" + open_loop_table(open_loop))
    return "\n".join(parts) or "Not evaluated in the run that exported it.\n"


def _checks(parity: Mapping[str, Any]) -> str:
    if "closed_loop" not in parity:
        return (
            f"ONNX Runtime against torch over {parity['observations']} observations drawn from the recording's statistics, at once and "
            f"step by step: {parity['max_error_of_range']:.2g} of the actions' half range at most "
            f"(allowed {parity['tolerance_of_range']:g}).\n"
        )
    closed = parity["closed_loop"]
    return (
        f"ONNX Runtime against torch over {parity['observations']} observations of rollouts: "
        f"{parity['max_abs_error_rad']:.2g} rad at most (allowed {parity['tolerance_rad']:g}). "
        f"One episode of {closed['steps']} steps driven by ONNX Runtime, torch beside it: {closed['max_abs_error_rad']:.2g} rad at most.\n"
    )


def open_loop_table(open_loop: Mapping[str, Any]) -> str:
    """Mean absolute error of each component in its own unit, beside holding the last state and the last action."""
    shown = [(label, key) for label, key in _OPEN_LOOP if key in open_loop]
    header = ["component", "unit", *(label for label, _ in shown)]
    rows = [
        [component, unit or "–", *(f"{open_loop[key]['per_component'][place]:.3g}" for _, key in shown)]
        for place, (component, unit) in enumerate(zip(open_loop["components"], open_loop["units"], strict=True))
    ]
    rows.append(["mean", "", *(f"{open_loop[key]['mean']:.3g}" for _, key in shown)])
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + " ".join(open_loop["verdict"]) + "\n"


_OPEN_LOOP = (
    ("next step", "one_step"),
    ("hold last state", "one_step_hold_state"),
    ("hold last action", "one_step_hold_action"),
    ("whole chunk", "horizon"),
    ("hold last state, chunk", "horizon_hold_state"),
    ("hold last action, chunk", "horizon_hold_action"),
    ("temporal ensemble", "ensembled"),
)


def readme(name: str, contract: PolicyContract, example: np.ndarray) -> str:
    """How to use the bundle: served, or straight through ONNX Runtime. ``example``: an observation, shape (observation_size,)."""
    ends = np.cumsum([field.size for field in contract.observation])
    parts = np.split(np.round(example.astype(np.float64), 3), ends[:-1])
    observation = {field.name: part.tolist() for field, part in zip(contract.observation, parts, strict=True)}
    request = json.dumps({"episode_id": "walk-1", "observation": observation})
    state_inputs = "".join(f', "{field.name}": np.zeros((1, {", ".join(map(str, field.shape))}), np.float32)' for field in contract.state)
    origin = "learned from recordings" if contract.task == RECORDED else f"task `{contract.task}`"
    first = contract.action[0]
    chunk_note = (
        f"\nEvery answer is a chunk: row k of `{first.name}` is for the k-th control step from now, {first.shape[0]} of them. "
        f"`cluster.wire.session.Session(..., chunk_steps={first.shape[0]})` acts them out and asks again when they are used up.\n"
        if len(first.shape) > 1
        else ""
    )
    state_note = (
        f"\nIt is recurrent: feed each output `{contract.state[0].name}_next` back as `{contract.state[0].name}` at the next step, "
        f"all of {', '.join(f'`{field.name}`' for field in contract.state)}; zeros begin an episode.\n"
        if contract.state
        else ""
    )
    return f"""# {contract.policy}: {name}

A policy bundle for `{contract.robot}`, {origin}, one step every {contract.control_dt_s * 1000:g} ms.

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

{_field_table(contract.action)}{chunk_note}
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
    rows += [f"| `{field.name}` | {list(field.shape)} | {field.unit or '–'} | {_components(field)} |" for field in fields]
    return "\n".join(rows) + "\n"


def _components(field: TensorField) -> str:
    if len(field.shape) < 2 or not field.components:
        return ", ".join(field.components)
    row = field.size // field.shape[0]
    return ", ".join(field.components[:row]) + f", and so on for {field.shape[0]} steps"


def _pairs(entries: Mapping[str, Any]) -> str:
    return "".join(f"- {key.replace('_', ' ')}: {value}\n" for key, value in entries.items() if value not in (None, ""))


def _plain(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value
