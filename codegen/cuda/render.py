"""Triton source from the Jinja2 files in `sources/`.

A file there is Triton with `{{ holes }}` and `{% if branches %}`; what it renders to is what people read in the
artifact, so it is formatted like code written by hand.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

SOURCES = Path(__file__).parent / "sources"


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(SOURCES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def render(file: str, **holes: object) -> str:
    """The text of `sources/<file>` with its holes filled; every hole must be given."""
    return _environment().get_template(file).render(**holes)
