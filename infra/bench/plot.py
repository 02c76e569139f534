"""CPU and memory against the number of findings, as an SVG."""

import math
from pathlib import Path
from typing import Any

COLOURS = {"ours": "#1b7837", "floor": "#888888", "boto3": "#b2182b"}
DASHES = {"1.5": "2 3", "5": "none", "15": "8 4"}
PANELS = (("cpu_ms_per_1000", "CPU, ms per 1,000 findings"), ("peak_mib", "Peak memory, MiB"))
WIDTH, HEIGHT, GAP, LEFT, TOP = 360, 280, 90, 60, 40


def write(path: Path, matrix: dict[str, Any], counts: tuple[int, ...]) -> None:
    parts = []
    for n, (key, title) in enumerate(PANELS):
        parts += panel(LEFT + n * (WIDTH + GAP), key, title, matrix, counts)
    legend = [(name, colour, "none") for name, colour in COLOURS.items()]
    legend += [(f"{size} KB a finding", "black", dash) for size, dash in DASHES.items()]
    for n, (name, colour, dash) in enumerate(legend):
        x, y = LEFT + n * 135, TOP + HEIGHT + 60
        parts.append(line(x, y - 4, x + 30, y - 4, f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'))
        parts.append(text(x + 36, y, name))
    total_width, total_height = LEFT + 2 * WIDTH + GAP + 30, TOP + HEIGHT + 80
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{total_width}" height="{total_height}" '
    head += 'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    path.write_text("\n".join([head, *parts, "</svg>"]) + "\n")


def panel(left: int, key: str, title: str, matrix: dict[str, Any], counts: tuple[int, ...]) -> list[str]:
    # Both scales are logarithmic: what does not grow is level, and contenders far apart are both seen.
    values = [of[key] for sizes in matrix.values() for by_count in sizes.values() for of in by_count.values()]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    span = math.log10(counts[-1] / counts[0])

    def x(count: int) -> float:
        return left + WIDTH * math.log10(count / counts[0]) / span

    def y(value: float) -> float:
        return TOP + HEIGHT * (1 - (math.log10(value) - low) / (high - low))

    parts = [text(left, TOP - 16, title, "font-weight='bold'")]
    for power in range(low, high):
        for step in (1, 2, 5):
            at = step * 10**power
            parts.append(line(left, y(at), left + WIDTH, y(at), 'stroke="#dddddd"'))
            parts.append(text(left - 6, y(at) + 4, f"{at:g}", "text-anchor='end'"))
    for count in counts:
        parts.append(line(x(count), TOP, x(count), TOP + HEIGHT, 'stroke="#dddddd"'))
        parts.append(text(x(count), TOP + HEIGHT + 18, f"{count:,}", "text-anchor='middle'"))
    parts.append(text(left + WIDTH / 2, TOP + HEIGHT + 36, "findings", "text-anchor='middle'"))
    for name, sizes in matrix.items():
        for size, by_count in sizes.items():
            points = " ".join(f"{x(count):.1f},{y(by_count[str(count)][key]):.1f}" for count in counts)
            style = f'stroke="{COLOURS[name]}" stroke-width="2" stroke-dasharray="{DASHES[size]}"'
            parts.append(f'<polyline points="{points}" fill="none" {style}/>')
    return parts


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def text(x: float, y: float, content: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{content}</text>'
