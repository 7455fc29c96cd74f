"""How every command prints: JSON or a table to stdout, talk to stderr."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["AddressOption", "JsonOption", "SetOption", "print_json", "print_table", "say"]

JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of text")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="override a configuration key, a.b=c; may be repeated")]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="run as a Ray job on the cluster with this dashboard address"),
]


def print_json(data: Any) -> None:
    """Print data as indented JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, default=_plain))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], empty: str) -> None:
    """Print rows on stdout; ``empty`` says what to type when there are none (to stderr)."""
    if not rows:
        say(empty)
        return
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    if not console.is_terminal:  # piped: never fold a cell to 80 columns
        console = Console(highlight=False, width=240)
    console.print(table)


def say(text: str) -> None:
    """One line of talk, to stderr."""
    typer.echo(text, err=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
