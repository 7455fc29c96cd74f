"""One HTML file that works offline: it carries its own style, script, data and plotly.js, loads nothing, and its policy forbids it to.

A page is three templates in a package's folder ``templates``: ``NAME.html.j2``, which extends ``page.html.j2`` here, ``NAME.css``, and
``NAME.js``, whose last call is ``page.start``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cluster.page.words import duration, number, percent, plural

__all__ = ["render_page"]


def render_page(
    package: str, name: str, context: Mapping[str, Any], data: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]] | None = None
) -> str:
    """The page's HTML.

    Args:
        package: where its templates are.
        name: of its templates.
        context: what the HTML template is told.
        data: JSON-able, for the script; ``figures``: name -> Plotly figure, drawn in the element with ``data-figure="NAME"``.
        filters: further ones for the template.
    """
    from plotly.offline import get_plotlyjs

    own, shared = PackageLoader(package, "templates"), PackageLoader("cluster.page", "templates")
    environment = Environment(
        loader=ChoiceLoader([own, shared]), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent, "duration": duration, "plural": plural, "breakable": _breakable}
    environment.filters |= dict(filters or {})
    script, style = (
        "".join(loader.get_source(environment, f"{file}.{kind}")[0] for loader, file in ((shared, "page"), (own, name)))
        for kind in ("js", "css")
    )
    return environment.get_template(f"{name}.html.j2").render(
        context,
        nonce=secrets.token_urlsafe(16),
        data=Markup(_json_in_html(data)),
        style=Markup(style),
        script=Markup(script),
        plotly=Markup(get_plotlyjs()),
    )


def _json_in_html(data: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever text is inside."""
    text = orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS).decode()
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _breakable(name: str) -> Markup:
    """A dotted name that may be broken into lines after its punctuation."""
    return Markup(re.sub(r"([._/])", r"\1<wbr>", str(escape(name))))
