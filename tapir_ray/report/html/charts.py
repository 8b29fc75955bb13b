"""Charts in Vega-Lite, made by Altair: a few kinds, with one look.

    spec = lines(rows, x="round", y="score", series="student", low="low", high="high")

Colours are CSS variables of the page, so a chart follows the dark mode without being drawn again. The width is that of
the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

INK, QUIET, GRID = "var(--ink)", "var(--quiet)", "var(--rule)"
PALETTE = [f"var(--c{number})" for number in range(1, 13)]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
LINE_HEIGHT = 240
BAR_PX = 22
"""Height of a bar with its gap."""

Rows = Sequence[dict[str, Any]]


def _base(rows: Rows) -> alt.Chart:
    return alt.Chart(alt.Data(values=list(rows)))


def finished(chart: Any, describes: str, height: int = LINE_HEIGHT) -> dict[str, Any]:
    """Returns a chart as a spec with the look of the page. `describes` is read by screen readers."""
    made = (
        chart.properties(width="container", height=height, description=describes, background="transparent")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=INK, titleColor=QUIET, gridColor=GRID, domainColor=GRID, tickColor=GRID, labelFontSize=12,
            titleFontSize=12, titleFontWeight="normal", labelFont=FONT, titleFont=FONT, labelLimit=140,
        )
        .configure_axisQuantitative(tickCount=6)
        .configure_legend(
            labelColor=INK, titleColor=QUIET, labelFontSize=12, titleFontSize=12, labelFont=FONT, titleFont=FONT,
            titleFontWeight="normal", orient="top", direction="horizontal", columns=2, labelLimit=260, symbolLimit=12,
        )
    )  # fmt: skip
    spec: dict[str, Any] = made.to_dict()
    # The page brings the library, and none of its parts is loaded from elsewhere.
    spec.pop("$schema", None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return spec


def _colour(series: str, order: Sequence[str] | None, title: str | None = None) -> alt.Color:
    known = list(order or [])
    scale = alt.Scale(domain=known, range=[PALETTE[n % len(PALETTE)] for n in range(len(known))])
    legend = alt.Legend(title=title) if len(known) > 1 else None
    return alt.Color(f"{series}:N", scale=scale, legend=legend, sort=known)


def names(rows: Rows, series: str) -> list[str]:
    """Returns the values of a field in the order of their appearance."""
    return list(dict.fromkeys(str(row[series]) for row in rows))


def lines(
    rows: Rows,
    x: str,
    y: str,
    series: str,
    says: str,
    low: str = "",
    high: str = "",
    points: bool = True,
    whole: bool = True,
    zero: bool = False,
    dashed: Sequence[str] = (),
    form: str = "",
) -> dict[str, Any]:
    """Returns a line for each series, with intervals if `low` and `high` name their ends.

    `whole` marks an x of whole numbers, such as rounds. `dashed` names series with a broken line, so that colour is not
    the only difference. `form` is the format of y, such as `%`.
    """
    order = names(rows, series)
    numbers = sorted({row[x] for row in rows})
    axis = alt.Axis(values=numbers, format="d", grid=False) if whole and len(numbers) <= 12 else alt.Axis(grid=False)
    scale = alt.Scale(zero=False, padding=18) if whole else alt.Scale(zero=False, nice=False)
    at = alt.X(f"{x}:Q", title=x, axis=axis, scale=scale)
    legend = (
        alt.Legend(title=None, symbolType="stroke", symbolStrokeWidth=3, symbolSize=260) if len(order) > 1 else None
    )
    colour = _colour(series, order).legend(legend)
    tips = [alt.Tooltip(f"{series}:N"), alt.Tooltip(f"{x}:Q"), alt.Tooltip(f"{y}:Q", format=".4~g")]
    dash = alt.StrokeDash(
        f"{series}:N",
        scale=alt.Scale(domain=order, range=[[5, 4] if name in dashed else [1, 0] for name in order]),
        # One legend for both: Vega-Lite merges them if they say the same.
        legend=legend,
        sort=order,
    )
    value = alt.Y(f"{y}:Q", title=y, scale=alt.Scale(zero=zero), axis=alt.Axis(format=form) if form else alt.Axis())
    layers = [_base(rows).mark_line(strokeWidth=2).encode(x=at, y=value, color=colour, strokeDash=dash)]
    if low and high:
        tips += [alt.Tooltip(f"{low}:Q", format=".4~g"), alt.Tooltip(f"{high}:Q", format=".4~g")]
        bars = _base(rows).mark_rule(strokeWidth=1.5, opacity=0.8)
        layers.append(bars.encode(x=at, y=alt.Y(f"{low}:Q", title=y), y2=f"{high}:Q", color=colour))
    if points:
        layers.append(_base(rows).mark_point(filled=True, size=50, opacity=1).encode(x=at, y=value, color=colour,
                                                                                     tooltip=tips))  # fmt: skip
    return finished(alt.layer(*layers), says)


def intervals(rows: Rows, label: str, value: str, says: str, series: str = "", unit: str = "") -> dict[str, Any]:
    """Returns a point with its interval (`low`, `high`) for each label, and a line at 0."""
    order = names(rows, label)
    groups = names(rows, series) if series else [""]
    y = alt.Y(f"{label}:N", sort=order, title=None)
    x = alt.X(f"{value}:Q", title=unit or value, scale=alt.Scale(padding=10))
    colour = _colour(series, groups) if series else alt.value(PALETTE[0])
    offset = {"yOffset": alt.YOffset(f"{series}:N", sort=groups)} if len(groups) > 1 else {}
    tips = [alt.Tooltip(f"{label}:N"), *(alt.Tooltip(f"{name}:Q", format="+.3f") for name in (value, "low", "high"))]
    tips += [alt.Tooltip(f"{series}:N")] if series else []
    zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color=QUIET, strokeDash=[3, 3]).encode(x="x:Q")
    rule = _base(rows).mark_rule(strokeWidth=2).encode(y=y, x=alt.X("low:Q", title=unit or value), x2="high:Q",
                                                       color=colour, **offset)  # fmt: skip
    dots = _base(rows).mark_point(filled=True, size=60, opacity=1).encode(y=y, x=x, color=colour, tooltip=tips,
                                                                          **offset)  # fmt: skip
    return finished(alt.layer(zero, rule, dots), says, 40 + BAR_PX * len(order) * max(1, len(groups)))


def bars(
    rows: Rows, label: str, value: str, series: str, says: str, stacked: bool, unit: str = "", form: str = ""
) -> dict[str, Any]:
    """Returns horizontal bars for each label, next to each other or stacked by series; `form` as in `lines`."""
    order, groups = names(rows, label), names(rows, series)
    y = alt.Y(f"{label}:N", sort=order, title=None)
    tips = [alt.Tooltip(f"{label}:N"), alt.Tooltip(f"{series}:N"), alt.Tooltip(f"{value}:Q", format=",.4~g")]
    axis = alt.Axis(format=form) if form else alt.Axis()
    x = alt.X(f"{value}:Q", title=unit or value, stack="zero" if stacked else None, axis=axis)
    offset = {} if stacked else {"yOffset": alt.YOffset(f"{series}:N", sort=groups)}
    chart = _base(rows).mark_bar().encode(y=y, x=x, color=_colour(series, groups), tooltip=tips, **offset)
    lines_of_bars = 1 if stacked else max(1, len(groups))
    return finished(chart, says, 20 + (BAR_PX if stacked else 12 + 10 * lines_of_bars) * len(order))


def steps(rows: Rows, x: str, y: str, series: str, says: str) -> dict[str, Any]:
    """Returns a step line for each series: histograms over each other. x is the lower end of a bin."""
    order = names(rows, series)
    chart = (
        _base(rows)
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X(f"{x}:Q", title=x, axis=alt.Axis(grid=False)),
            y=alt.Y(f"{y}:Q", title=y, axis=alt.Axis(format="%")),
            color=_colour(series, order),
            tooltip=[alt.Tooltip(f"{series}:N"), alt.Tooltip(f"{x}:Q"), alt.Tooltip(f"{y}:Q", format=".1%")],
        )
    )
    return finished(chart, says)
