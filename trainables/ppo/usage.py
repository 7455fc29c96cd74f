"""What a training process uses of its machine: memory, CPU, and its GPUs when there are any."""

from __future__ import annotations

import contextlib

import psutil
import pynvml
import torch

__all__ = ["ResourceUsage"]

_GIB = 2**30


class ResourceUsage:
    """Read between two reports; CPU figures are means since the last reading."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0

    def read(self) -> dict[str, float]:
        """memory_gib (resident), cpu_percent (100 is one core), machine_memory_percent; gpu<i>_* with a GPU.

        Of a GPU: memory of this process and of the whole device in GiB, and through NVML its load in percent and its temperature.
        """
        figures = {
            "memory_gib": self._process.memory_info().rss / _GIB,
            "cpu_percent": self._process.cpu_percent(),
            "machine_memory_percent": psutil.virtual_memory().percent,
        }
        for index in range(self._gpus):
            free, total = torch.cuda.mem_get_info(index)
            figures |= {
                f"gpu{index}_memory_gib": torch.cuda.memory_allocated(index) / _GIB,
                f"gpu{index}_peak_memory_gib": torch.cuda.max_memory_allocated(index) / _GIB,
                f"gpu{index}_device_memory_gib": (total - free) / _GIB,
            }
            # A container may be given a GPU without the driver's management library.
            with contextlib.suppress(pynvml.NVMLError, RuntimeError):
                figures |= {
                    f"gpu{index}_load_percent": float(torch.cuda.utilization(index)),
                    f"gpu{index}_temperature_c": float(torch.cuda.temperature(index)),
                }
        return figures
