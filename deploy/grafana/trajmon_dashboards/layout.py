"""Where panels stand: rows of 24 columns, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard

from trajmon_dashboards.parts import Panel

__all__ = ["COLUMNS", "Band", "Section", "arrange"]

COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Band:
    """Panels side by side, all of one height."""

    height: int
    panels: Sequence[Panel]
    widths: Sequence[int] | None = None
    """In columns; None: equal shares."""

    def columns(self) -> list[tuple[int, int]]:
        """Left edge and width of each panel; ValueError if they do not fill the columns exactly."""
        count = len(self.panels)
        widths = list(self.widths) if self.widths is not None else [COLUMNS // count] * count
        if len(widths) != count or sum(widths) != COLUMNS:
            raise ValueError(f"{count} panels of widths {widths} do not fill {COLUMNS} columns")
        return [(sum(widths[:index]), width) for index, width in enumerate(widths)]


@dataclass(frozen=True, slots=True)
class Section:
    """Bands under a heading."""

    title: str
    bands: Sequence[Band]


def arrange(target: build.Dashboard, sections: Sequence[Section]) -> build.Dashboard:
    """Put the sections into the dashboard; headings and panels are numbered in reading order."""
    top, number = 0, 0
    for section in sections:
        number += 1
        heading = dashboard.GridPos(x=0, y=top, w=COLUMNS, h=1)
        target = target.with_row(build.Row(section.title).id(number).grid_pos(heading))
        top += 1
        for band in section.bands:
            for (left, width), panel in zip(band.columns(), band.panels, strict=True):
                number += 1
                place = dashboard.GridPos(x=left, y=top, w=width, h=band.height)
                target = target.with_panel(panel.id(number).grid_pos(place))
            top += band.height
    return target
