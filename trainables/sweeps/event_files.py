"""TensorBoard's event files beside each trial's checkpoints."""

from __future__ import annotations

import importlib
import threading
from typing import Any

from ray.tune.logger import TBXLoggerCallback

__all__ = ["EventFiles"]


class EventFiles(TBXLoggerCallback):
    """Tune's own callback, whose writer is imported while the first trials start: it pulls PyTorch in, more than a second of a sweep."""

    def __init__(self) -> None:
        self._trial_writer: dict[Any, Any] = {}
        self._trial_result: dict[Any, dict[str, Any]] = {}
        threading.Thread(target=importlib.import_module, args=("tensorboardX",), daemon=True).start()

    @property
    def _summary_writer_cls(self) -> Any:
        return importlib.import_module("tensorboardX").SummaryWriter
