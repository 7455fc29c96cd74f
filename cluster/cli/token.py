"""``gaitway token create | ls | revoke``: who may call the endpoint."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from cluster.cli.output import JsonOption, print_json, print_table, say
from cluster.errors import UsageError
from cluster.settings import Settings

__all__ = ["app"]

app = typer.Typer(help="Make, list and end the tokens that the endpoint asks for.", no_args_is_help=True)

_ROLES = ("robot", "viewer", "operator", "admin")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="what it is for, such as dog-7")],
    role: Annotated[str, typer.Option(help="robot: act and report; viewer: read; operator: also change comparisons; admin: all")] = "robot",
    policy: Annotated[list[str] | None, typer.Option(help="policy that a robot's token is good for; may be repeated; default: all")] = None,
    requests_per_s: Annotated[float | None, typer.Option(min=0.1, help="its own limit; default: the endpoint's")] = None,
    days: Annotated[float | None, typer.Option(min=0.0, help="days until it stops working; default: never")] = None,
    json_: JsonOption = False,
) -> None:
    """Make a token and print it; it cannot be shown again."""
    from cluster.store.database import open_database
    from cluster.store.tokens import create_token, local_actor

    if role not in _ROLES:
        raise UsageError(f"--role {role}: give one of {', '.join(_ROLES)}")
    with closing(open_database(Settings.from_environment())) as db:
        token, text = create_token(
            db,
            name,
            role,  # type: ignore[arg-type]  # checked above
            actor=local_actor(),
            policies=policy or (),
            requests_per_s=requests_per_s,
            expires_in_s=None if days is None else days * 86_400,
        )
    if json_:
        print_json({**token.model_dump(mode="json"), "token": text})
        return
    typer.echo(text)
    say(f"a {role}'s token, shown this once; send it as: Authorization: Bearer TOKEN; end it with: gaitway token revoke {token.id}")


@app.command("ls")
def list_(json_: JsonOption = False) -> None:
    """List tokens, the newest first; their secrets are stored nowhere."""
    from cluster.store.database import open_database
    from cluster.store.tokens import list_tokens

    with closing(open_database(Settings.from_environment())) as db:
        found = list_tokens(db)
    if json_:
        print_json([token.model_dump(mode="json") for token in found])
        return
    rows = [
        [
            token.id,
            token.name,
            token.role,
            ", ".join(token.policies) or "all",
            "good" if token.is_good() else "revoked" if token.revoked_at else "expired",
            f"{token.created_at:%Y-%m-%d %H:%M}",
            f"{token.expires_at:%Y-%m-%d %H:%M}" if token.expires_at else "never",
        ]
        for token in found
    ]
    print_table(["id", "name", "role", "policies", "state", "created", "expires"], rows, "no tokens; gaitway token create NAME")


@app.command()
def revoke(token: Annotated[str, typer.Argument(help="id or name")], json_: JsonOption = False) -> None:
    """End a token; replicas, and sessions that are open, follow within about two seconds."""
    from cluster.store.database import open_database
    from cluster.store.tokens import local_actor, revoke_token

    with closing(open_database(Settings.from_environment())) as db:
        found = revoke_token(db, token, actor=local_actor())
    if json_:
        print_json(found.model_dump(mode="json"))
    else:
        say(f"token {found.id} ({found.name}) is revoked")
