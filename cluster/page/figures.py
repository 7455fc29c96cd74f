"""Charts as Plotly figures in plain dictionaries.

Colours are names of the page's own ("@winner"): the page puts in those of the light or the dark theme. Large arrays are packed as
{"dtype", "bdata"} (base64, little endian), which the page unpacks into typed arrays. Text that came from outside goes through ``label``.
"""

from __future__ import annotations

import base64
from html import escape
from typing import Any

import numpy as np

from cluster.page.words import unit_of

__all__ = ["Figure", "label", "metric_label", "packed"]

Figure = dict[str, Any]


def label(text: Any) -> str:
    """Text for Plotly, which reads a little HTML and %{...}: shown as it is."""
    return escape(str(text), quote=False).replace("%", "&#37;")


def metric_label(metric: str) -> str:
    """The metric in full, with its unit."""
    unit = unit_of(metric)
    return label(metric) + (f" ({unit})" if unit else "")


def packed(values: Any, dtype: str) -> dict[str, str]:
    """An array as base64. Shape: any; two-dimensional ones carry it."""
    array = np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<"))
    extra = {"shape": ",".join(map(str, array.shape))} if array.ndim > 1 else {}
    return {"dtype": dtype, "bdata": base64.b64encode(array.tobytes()).decode(), **extra}
