"""Renders pages that need no network from templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from hpo.wording import count_of


def render(template: str, context: Mapping[str, Any]) -> str:
    """Return a page that needs no network, from a template of ours and what it shows."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hpo.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["count_of"] = count_of
    plotly_js = Markup(plotly.offline.get_plotlyjs())
    return environment.get_template(template).render(**context, plotly_js=plotly_js)
