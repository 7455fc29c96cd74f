"""``gaitway model ls | info | alias | verify | bench``: the registry."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.bundle import Bundle
from cluster.cli.output import JsonOption, print_json, print_table, say
from cluster.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Look at, name and verify registered policy versions.", no_args_is_help=True)

PolicyArgument = Annotated[str, typer.Argument(help="policy name, such as pidog-run")]
VersionArgument = Annotated[str, typer.Argument(help="version number or @alias")]


@app.command("ls")
def list_(policy: Annotated[str | None, typer.Argument(help="policy; default: all")] = None, json_: JsonOption = False) -> None:
    """List versions, newest first, with their aliases."""
    from cluster.store.registry import list_policies, list_versions

    settings = Settings.from_environment()
    versions = [item for name in ([policy] if policy else list_policies(settings)) for item in list_versions(settings, name)]
    if json_:
        print_json([asdict(item) for item in versions])
        return
    rows = [
        [
            item.uri,
            " ".join(f"@{alias}" for alias in item.aliases),
            item.tags.get("source"),
            item.created_at.isoformat(timespec="seconds"),
            item.digest[:12],
        ]
        for item in versions
    ]
    print_table(
        ["model", "aliases", "source", "created", "digest"], rows, "no policy is registered yet; `gaitway quickstart` makes two versions"
    )


@app.command()
def info(policy: PolicyArgument, version: VersionArgument = "@champion", json_: JsonOption = False) -> None:
    """Show a version's contract: inputs, outputs, units, where it comes from."""
    from cluster.store.registry import get_version

    found = get_version(Settings.from_environment(), policy, version)
    contract = found.load().contract
    if json_:
        print_json({**asdict(found), "contract": contract.model_dump(mode="json")})
        return
    say(f"{found.uri}  {' '.join('@' + alias for alias in found.aliases)}  {found.path}")
    groups = (("observation", contract.observation), ("action", contract.action), ("state", contract.state))
    rows = [[group, field.name, "×".join(map(str, field.shape)) or "1", field.unit or "–"] for group, fields in groups for field in fields]
    print_table(["", "field", "shape", "unit"], rows, "")
    made = contract.provenance
    say(f"made {made.created_at} from {made.source}, dataset {made.dataset_digest[:12]}, commit {made.git_commit[:19]}")


@app.command()
def alias(policy: PolicyArgument, name: Annotated[str, typer.Argument(help="alias, such as @champion")], version: VersionArgument) -> None:
    """Point an alias at a version; a running endpoint follows with `gaitway serve up`."""
    from cluster.store.registry import get_version, set_alias

    settings = Settings.from_environment()
    set_alias(settings, policy, name, version)
    typer.echo(get_version(settings, policy, name).uri)


@app.command()
def verify(
    target: Annotated[str, typer.Argument(help="bundle folder, or policy name")],
    version: Annotated[str | None, typer.Argument(help="version number or @alias, with a policy name")] = None,
    json_: JsonOption = False,
) -> None:
    """Check a bundle against its SHA-256 manifest; exit code 1 when a byte differs."""
    bundle = _bundle(target, version)
    if json_:
        print_json({"path": str(bundle.path), "digest": bundle.digest, "ok": True})
    else:
        typer.echo(f"ok {bundle.digest} {bundle.path}")


@app.command()
def bench(
    target: Annotated[str, typer.Argument(help="bundle folder, or policy name")],
    version: Annotated[str | None, typer.Argument(help="version number or @alias, with a policy name")] = None,
    json_: JsonOption = False,
) -> None:
    """Measure a bundle's latency under ONNX Runtime with one thread, for batches 1, 8 and 64."""
    latency: Any = importlib.import_module("trainables.export.latency")
    rows: list[dict[str, Any]] = latency.measure_latency(_bundle(target, version).onnx_path, batches=(1, 8, 64), calls=1000)
    if json_:
        print_json(rows)
        return
    columns = list(rows[0])
    print_table(columns, [[f"{row[key]:.4g}" if isinstance(row[key], float) else row[key] for key in columns] for row in rows], "")


def _bundle(target: str, version: str | None) -> Bundle:
    """A bundle by folder, or by policy name and version."""
    if version is None and Path(target).is_dir():
        return Bundle.load(Path(target))
    from cluster.store.registry import get_version

    return get_version(Settings.from_environment(), target, version or "@champion").load()
