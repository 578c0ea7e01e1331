"""What the pages have in common: templates, and files that are written wholly or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup


def render(template: str, context: Mapping[str, Any]) -> str:
    """Return a page that needs no network, from a template of ours and what it shows."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hpo"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    plotly_js = Markup(plotly.offline.get_plotlyjs())
    return environment.get_template(template).render(**context, plotly_js=plotly_js)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file wholly or not at all."""
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
