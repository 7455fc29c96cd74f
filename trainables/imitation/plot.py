"""Loss curves as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["plot_history"]


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
        axis.set(title=name, xlabel="epoch", ylabel="mean squared error, normalised action", yscale="log")
        axis.legend()
        axis.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)
