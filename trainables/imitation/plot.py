"""Loss curves and open-loop actions as pictures, and a loss curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainables.networks.interface import PolicyInterface

__all__ = ["plot_history", "plot_open_loop", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"
PANELS = 16
"""Most components that are drawn."""


def plot_history(history: dict[str, dict[str, Any]], path: Path) -> None:
    """Training and validation loss over epochs, one panel a model, the kept epoch marked. ``history`` as in ``history.json``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(history), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(history), squeeze=False)[0]
    for axis, (name, record) in zip(axes, history.items(), strict=True):
        epochs = [row["epoch"] for row in record["rows"]]
        axis.plot(epochs, [row["train_loss"] for row in record["rows"]], "--", label="training (with noise on the inputs)")
        axis.plot(epochs, [row["validation_loss"] for row in record["rows"]], label="validation")
        axis.plot(record["best_epoch"], record["best_loss"], "o", color="black", label=f"kept: {record['best_loss']:.2g}")
        axis.set(title=name, xlabel="epoch", ylabel=f"{record.get('loss', 'mean squared error')}, normalised action", yscale="log")
        axis.legend()
        axis.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)


def plot_open_loop(plans: Mapping[str, np.ndarray], action: np.ndarray, interface: PolicyInterface, episode: int, path: Path) -> None:
    """Predicted against recorded actions of one held-out episode, one panel a component.

    Args:
        plans: of each model. Shapes (frames, chunk_size, action_size).
        action: as recorded. Shape (frames, action_size).
        interface: names and units of the actions.
        episode: its number.
        path: of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = [(name or f"{field.name} {place}", field.unit) for field in interface.action for place, name in _named(field)][:PANELS]
    columns = min(4, len(labels))
    rows = math.ceil(len(labels) / columns)
    time_s = np.arange(len(action)) * interface.control_dt_s
    figure = Figure(figsize=(4 * columns, 2.2 * rows + 0.5))
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for place, (axis, (label, unit)) in enumerate(zip(panels, labels, strict=False)):
        axis.plot(time_s, action[:, place], color="black", linewidth=1.2, label="recorded")
        for number, (name, plan) in enumerate(plans.items()):
            axis.plot(time_s, plan[:, 0, place], color=f"C{number}", linewidth=0.9, label=name)
            size = plan.shape[1]
            for start in range(0, len(action), size) if size > 1 else ():
                axis.plot(
                    time_s[start : start + size], plan[start, : len(action) - start, place], color=f"C{number}", alpha=0.35, linewidth=2.5
                )
        axis.set_title(f"{label}{f', {unit}' if unit else ''}", fontsize=9)
        axis.tick_params(labelsize=7)
    for axis in panels[len(labels) :]:
        axis.set_visible(False)
    panels[0].legend(fontsize=7)
    figure.suptitle(f"Held-out episode {episode}, open loop; thick: whole plans", fontsize=10)
    figure.supxlabel("time, s", fontsize=9)
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.09, top=0.9, hspace=0.35, wspace=0.2)
    figure.savefig(path, dpi=90)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """Values on a logarithmic scale as one line of bars, the last one of each part where there are more than ``width``."""
    chosen = np.asarray(values, dtype=np.float64)
    if len(chosen) > width:
        chosen = chosen[np.linspace(len(chosen) / width, len(chosen), width).astype(int) - 1]
    logs = np.log(np.maximum(chosen, 1e-300))
    low, high = float(logs.min()), float(logs.max())
    levels = np.zeros(len(logs)) if high == low else (logs - low) / (high - low) * (len(BARS) - 1)
    return "".join(BARS[round(float(level))] for level in levels)


def _named(field: Any) -> list[tuple[int, str]]:
    return list(enumerate(field.components or ("",) * field.size))
