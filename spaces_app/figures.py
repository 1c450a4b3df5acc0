"""Make figures as Vega-Lite, which Gradio draws in the browser: in the page's colours, with tooltips and alt text."""

import json
from typing import Any

from gradio.components.plot import PlotData

#: Okabe and Ito's palette, which the colour-blind can distinguish. Gold labels have the colour of the page's text.
COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#B8860B"]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]
FONT = "ui-sans-serif, system-ui, sans-serif"  # the page's: by its widths Vega makes room for labels
PAGE = {
    **{"background": "transparent", "view": {"stroke": None}, "font": FONT},
    "axis": {
        **{"labelColor": "currentColor", "titleColor": "currentColor", "gridColor": "currentColor"},
        **{"gridOpacity": 0.12, "domain": False, "tickColor": "currentColor", "tickOpacity": 0.3},
        **{"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 190, "titlePadding": 8},
    },
    "legend": {
        **{"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 11, "symbolSize": 70},
        **{
            "orient": "bottom",
            "columns": 2,
            "symbolLimit": 40,
            "symbolOpacity": 1,
            "title": None,
            "labelLimit": 190,
            "rowPadding": 4,
        },
    },
    "text": {"fill": "currentColor"},
}
SCORE = {"format": ".3f"}


def _styles(variants: list[str]) -> dict[str, dict[str, Any]]:
    """Return colour, shape and dash of each variant. No two variants share all three."""
    names = [variant for variant in variants if variant != "gold"]
    place = {name: i for i, name in enumerate(names)}

    def pick(values: list[Any], first: Any, shift: int = 0) -> dict[str, Any]:
        count = len(values)
        of = [
            first if variant == "gold" else values[(place[variant] + shift * (place[variant] // count)) % count]
            for variant in variants
        ]
        return {"domain": variants, "range": of}

    return {
        "color": pick(COLOURS, "currentColor"),
        "shape": pick(SHAPES[1:], "circle", 1),
        "strokeDash": pick(DASHES[1:], [1, 0], 1),
    }


def _figure(description: str, spec: dict[str, Any]) -> PlotData:
    """Make a figure as wide as its container, with a description for screen readers."""
    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        **{"description": description, "width": "container", "autosize": {"type": "fit", "contains": "padding"}},
        **{"config": PAGE, "usermeta": {"embedOptions": {"renderer": "svg", "actions": False}}, **spec},
    }
    return PlotData(type="altair", plot=json.dumps(whole))


def scores(variants: list[dict[str, Any]], confidence: float) -> PlotData:
    """Draw score against size by variant: seeds as points, means as lines, intervals as bands."""
    names = list(dict.fromkeys(variant["variant"] for variant in variants))
    sizes = sorted({variant["size"] for variant in variants})
    styles = _styles(names)
    means = [
        {**_where(variant, names), "mean": variant["macro_f1_mean"], **_ends(variant["macro_f1_mean_interval"])}
        for variant in variants
        if variant["macro_f1_mean"] is not None
    ]
    seeds = []
    for variant in variants:
        place = _where(variant, names)
        seeds += [{**place, "seed": i, "score": score} for i, score in enumerate(variant["macro_f1_runs"])]
    x = {
        **{"field": "x", "type": "quantitative", "title": "training texts"},
        "scale": {"type": "log", "base": 2, "nice": False, "domain": [sizes[0] / 1.15, sizes[-1] * 1.15]},
        "axis": {"values": sizes, "format": ",", "grid": False},
    }
    y = {"type": "quantitative", "title": "macro-F1", "scale": {"zero": False}}
    colour = {"field": "variant", "type": "nominal", "scale": styles["color"], "sort": names}
    colour["legend"] = {"symbolOpacity": 1, "symbolStrokeWidth": 2.2}  # and not as faint as a band
    dimmed = {"condition": {"param": "picked", "value": 1}, "value": 0.08}
    alone = "(datum.variant === 'gold' || datum.variant === 'llm') && !length(data('picked_store'))"
    strong = 0.16 if len(sizes) > 1 else 1  # of one size the interval is a line
    band = {
        "condition": [{"param": "picked", "empty": False, "value": strong}, {"test": alone, "value": strong}],
        "value": 0.02 if len(names) > 3 else strong,  # of many variants bands hide each other
    }
    tooltip = [
        {"field": "variant", "title": "labels"},
        {"field": "size", "title": "training texts", "format": ","},
    ]
    interval = [
        {"field": "mean", "title": "mean macro-F1", **SCORE},
        {"field": "low", "title": f"{confidence:.0%} from", **SCORE},
        {"field": "high", "title": "to", **SCORE},
    ]
    at = [
        f"{variant['variant']} {variant['macro_f1_mean']:.3f}"
        for variant in variants
        if variant["size"] == sizes[-1] and means
    ]
    return _figure(
        f"Macro-F1 against the number of training texts, a line for each source of labels. At {sizes[-1]:,} texts: "
        f"{', '.join(at)}. The table below has all numbers.",
        {
            "height": 360,
            "layer": [
                {
                    "data": {"values": means},
                    "mark": {"type": "area" if len(sizes) > 1 else "rule"},
                    "encoding": {
                        **{
                            "x": x,
                            "y": {**y, "field": "low"},
                            "y2": {"field": "high"},
                            "color": colour,
                        },
                        "opacity": band,
                    },
                },
                {
                    "data": {"values": means},
                    "mark": {"type": "line", "strokeWidth": 2.2},
                    "encoding": {
                        **{"x": x, "y": {**y, "field": "mean"}, "color": colour, "opacity": dimmed},
                        "strokeDash": {
                            "field": "variant",
                            "type": "nominal",
                            "scale": styles["strokeDash"],
                            "sort": names,
                        },
                    },
                    "params": [
                        {"name": "picked", "select": {"type": "point", "fields": ["variant"]}, "bind": "legend"},
                    ],
                },
                {
                    "data": {"values": seeds},
                    "mark": {"type": "point", "filled": True, "size": 34, "opacity": 0.75},
                    "encoding": {
                        **{"x": x, "y": {**y, "field": "score"}, "color": colour, "opacity": dimmed},
                        "shape": {"field": "variant", "type": "nominal", "scale": styles["shape"], "sort": names},
                        "tooltip": [*tooltip, {"field": "seed"}, {"field": "score", "title": "macro-F1", **SCORE}],
                    },
                },
                {
                    "data": {"values": means},
                    "mark": {"type": "point", "size": 240, "opacity": 0},
                    "encoding": {"x": x, "y": {**y, "field": "mean"}, "tooltip": [*tooltip, *interval]},
                },
            ],
        },
    )


def _where(variant: dict[str, Any], names: list[str]) -> dict[str, Any]:
    aside = 1.012 ** (names.index(variant["variant"]) - (len(names) - 1) / 2)  # so that no point hides another
    return {"variant": variant["variant"], "size": variant["size"], "x": variant["size"] * aside}


def _ends(bounds: list[float] | None) -> dict[str, float | None]:
    return {"low": bounds[0], "high": bounds[1]} if bounds else {"low": None, "high": None}


def intervals(rows: list[dict[str, Any]], title: str, description: str, zero: bool = False) -> PlotData:
    """Draw a point with its interval for each row: `name`, `value`, `interval` and, for the tooltip, `note`."""
    names = [row["name"] for row in rows]
    values = [
        {"name": row["name"], "value": row["value"], "note": row.get("note", ""), **_ends(row["interval"])}
        for row in rows
    ]
    styles = _styles(names)
    y = {"field": "name", "type": "nominal", "sort": names, "title": None}
    colour = {"field": "name", "type": "nominal", "scale": styles["color"], "legend": None}
    tooltip = [
        {"field": "name", "title": "of"},
        {"field": "value", "title": title, **SCORE},
        {"field": "low", "title": "from", **SCORE},
        {"field": "high", "title": "to", **SCORE},
        {"field": "note", "title": " "},
    ]
    x = {"type": "quantitative", "title": title, "scale": {"zero": zero}, "axis": {"tickCount": 6}}
    common = {"y": {**y, "axis": {"grid": False}}, "color": colour, "tooltip": tooltip}
    rule = {
        "mark": {"type": "rule", "opacity": 0.5, "color": "currentColor"},
        "encoding": {"x": {**x, "field": "at"}},
    }
    return _figure(
        description,
        {
            "height": max(34 * len(rows), 90),
            "data": {"values": values},
            "layer": [
                *([{**rule, "data": {"values": [{"at": 0}]}}] if zero else []),
                {
                    "mark": {"type": "rule", "strokeWidth": 7, "opacity": 0.3},
                    "encoding": {**common, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
                    "encoding": {
                        **{**common, "x": {**x, "field": "value"}},
                        "shape": {"field": "name", "type": "nominal", "scale": styles["shape"], "legend": None},
                    },
                },
            ],
        },
    )


def risk(coverage: list[float], wrong: list[float]) -> PlotData:
    """Draw the share of wrong labels among the least uncertain texts against the share of texts kept."""
    values = [{"kept": kept, "wrong": share} for kept, share in zip(coverage, wrong, strict=True)]
    x = {"field": "kept", "type": "quantitative", "title": "share of texts kept, least entropy first"}
    y = {"field": "wrong", "type": "quantitative", "title": "share of wrong labels among them"}
    tooltip = [{"field": "kept", "format": ".0%"}, {"field": "wrong", **SCORE}]
    half = wrong[max(len(wrong) // 2 - 1, 0)]
    return _figure(
        f"Risk and coverage: of all texts {wrong[-1]:.3f} have a wrong label, of the half with the least entropy "
        f"{half:.3f}.",
        {
            "height": 260,
            "data": {"values": values},
            "encoding": {
                "x": {**x, "axis": {"format": "%", "tickCount": 5}, "scale": {"domain": [0, 1]}},
                "y": {**y, "scale": {"domainMin": 0}},
                "tooltip": tooltip,
            },
            "layer": [
                {"mark": {"type": "line", "color": COLOURS[0], "strokeWidth": 2.2}},
                {"mark": {"type": "point", "color": COLOURS[0], "size": 120, "opacity": 0}},
            ],
        },
    )
