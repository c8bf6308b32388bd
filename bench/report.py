"""Write what was measured into `docs/benchmarks.md`: `python -m bench.report [build/bench.json]`.

The tables and charts between the marks are made anew; what people wrote around them stays.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench.suite import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
CHARTS = ROOT / "docs" / "benchmarks"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_WIDTH, _BAR, _GAP, _LEFT, _RIGHT = 760, 18, 8, 230, 110
_OURS, _OTHERS = "#1f6f5c", "#9aa5b1"


def main() -> None:
    """Rewrite the measured part of the page, and the charts."""
    raw = json.loads(
        Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/bench.json").read_text()
    )
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{measured(raw)}\n{END}{after}")
    CHARTS.mkdir(exist_ok=True)
    for mode, title in (("unary", "whole answers a second"), ("stream", "streams a second")):
        rows = [row for row in raw["samples"] if row["mode"] == mode]
        if rows:
            (CHARTS / f"{mode}.svg").write_text(chart(rows, f"{title}, at 16 connections", 16))


def measured(raw: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    lines = [
        (
            f"{raw['machine']}; {raw['rounds']} interleaved rounds of {raw['seconds']} s: medians "
            "(ranges)."
        ),
        "",
    ]
    for mode, what in (("unary", "answers/s"), ("stream", "streams/s")):
        rows = [row for row in raw["samples"] if row["mode"] == mode]
        if not rows:
            continue
        lines += [
            f"| {mode} | connections | {what} | p50 ms | p99 ms | refused | CPU ms | memory MB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for case in dict.fromkeys((row["subject"], row["connections"]) for row in rows):
            of_case = [row for row in rows if (row["subject"], row["connections"]) == case]
            lines.append("| " + " | ".join(_cells(case, of_case)) + " |")
        lines += ["", f"![{what}](benchmarks/{mode}.svg)", ""]
    if raw["paces"]:
        lines += [
            "| one stream, an event each 2 ms | first event ms | event after it left ms |",
            "|---|---|---|",
        ]
        for name in dict.fromkeys(one["subject"] for one in raw["paces"]):
            of_it = [one for one in raw["paces"] if one["subject"] == name]
            first = _spread([one["first_ms"] for one in of_it], 2)
            told = [one["chunk_ms"] for one in of_it if one["chunk_ms"] == one["chunk_ms"]]
            each = _spread(told, 2) if told else "not told"
            lines.append(f"| {name} | {first} | {each} |")
        lines.append("")
    lines += ["| | first answer after the command, s | memory then, MB |", "|---|---|---|"]
    for name, facts in raw["facts"].items():
        lines.append(f"| {name} | {facts.get('start_s', 0):.1f} | {facts.get('idle_mb', 0):.0f} |")
    return "\n".join(lines)


def chart(rows: Sequence[dict[str, Any]], title: str, connections: int) -> str:
    """Return bars of medians as SVG; a thin line shows the range."""
    bars = []
    for name in dict.fromkeys(row["subject"] for row in rows):
        rates = [
            row["requests_per_second"]
            for row in rows
            if row["subject"] == name and row["connections"] == connections
        ]
        if rates:
            bars.append((name, min(rates), statistics.median(rates), max(rates)))
    most = max((high for *_, high in bars), default=1.0) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    height = 40 + len(bars) * (_BAR + _GAP)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            'font-family="system-ui, sans-serif" font-size="13" fill="#1b1f24" role="img">'
        ),
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="20" font-weight="600">{escape(title)}</text>',
    ]
    for number, (name, low, middle, high) in enumerate(bars):
        top = 32 + number * (_BAR + _GAP)
        text, line = top + 13, top + _BAR / 2
        colour = _OURS if name.startswith("Weaver") else _OTHERS
        begin, width, end = _LEFT + low * scale, middle * scale, _LEFT + high * scale
        parts.append(
            f'<text x="{_LEFT - 8}" y="{text}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'
            f'<line x1="{begin:.1f}" y1="{line}" x2="{end:.1f}" y2="{line}" stroke="#1b1f24"/>'
            f'<text x="{end + 8:.1f}" y="{text}">{middle:,.0f}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _cells(case: tuple[str, int], rows: Sequence[dict[str, Any]]) -> list[str]:
    cpu = statistics.median(sum(row["cpu_ms_per_request"].values()) for row in rows)
    memory = statistics.median(sum(row["memory_mb"].values()) for row in rows)
    return [
        case[0],
        str(case[1]),
        _spread([row["requests_per_second"] for row in rows], 0),
        _spread([row["p50_ms"] for row in rows], 2),
        _spread([row["p99_ms"] for row in rows], 1),
        str(sum(row["refused"] for row in rows)),
        f"{cpu:.2f}",
        f"{memory:.0f}",
    ]


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


if __name__ == "__main__":
    main()
