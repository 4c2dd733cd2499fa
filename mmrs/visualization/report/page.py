from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmrs.visualization.report.blocks import Section

__all__ = ['render']


def render(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """A report page: HTML that loads nothing, and is the same for the same content.

    Args:
        title: Of the page.
        lead: What a reader should know first, a sentence each.
        sections: What it shows.
    """
    environment = Environment(
        loader=PackageLoader('mmrs.visualization.report'),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals['zip'] = zip
    return environment.get_template('page.html').render(title=title, lead=lead, sections=sections)
