"""``gaitway``: one typer application, one file a noun.

Data goes to stdout, talk to stderr; exit code 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

from typing import Annotated

import typer

from cluster import __version__
from cluster.cli import ab, dataset, doctor, fleet, model, nodes, pipeline, serve, sweep, token, training
from cluster.stage import run_app

__all__ = ["app", "main"]

app = typer.Typer(
    name="gaitway",
    help="Train robot policies on a Ray cluster and let live traffic decide which one stays.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("quickstart")(pipeline.quickstart)
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(dataset.app, name="dataset")
app.add_typer(training.train_app, name="train")
app.add_typer(sweep.app, name="sweep")
app.add_typer(model.app, name="model")
app.add_typer(serve.app, name="serve")
app.add_typer(ab.app, name="ab")
app.add_typer(fleet.app, name="fleet")
app.add_typer(token.app, name="token")
app.add_typer(nodes.app, name="cluster")
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit(2)


def main() -> None:
    """Console script."""
    run_app(app, name="gaitway")
