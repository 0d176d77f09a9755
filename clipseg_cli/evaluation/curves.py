"""Charts of scores as SVG, readable on light and dark pages. numpy in, text out."""

from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.evaluation import metrics
from clipseg_cli.outputs.colours import colour

SIDE = 320  # units: the plot is a square
LEFT, TOP, BELOW, LEGEND = 48, 34, 44, 200  # units around the plot
MAX_CURVES = 12  # in a chart: more would be hard to tell apart
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.g{stroke:#8884;fill:none}.c{fill:none;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}}"
)

Line = tuple[NDArray[np.float64], NDArray[np.float64]]  # x and y, each (K,), from 0 to the axis' end


def precision_recall(counts: Mapping[str, metrics.Counts]) -> str:
    """Returns a chart of the paper's precision and recall, one curve per label, with its average precision."""
    lines = {}
    for label, each in list(counts.items())[:MAX_CURVES]:
        y, x = metrics.precision_recall(each)
        lines[f"{label} ({metrics.ap(each):.2f})"] = (x, y)
    return chart("Precision and recall (AP)", "recall", "precision", lines)


def iou_by_threshold(counts: Mapping[str, metrics.Counts]) -> str:
    """Returns a chart of the mean IoU at every threshold, one curve per label, with its best score."""
    lines = {}
    for label, each in list(counts.items())[:MAX_CURVES]:
        scores = metrics.miou(each)
        value, threshold = metrics.best(scores)
        lines[f"{label} ({value:.2f} at {threshold:.2f})"] = (metrics.THRESHOLDS, scores)
    return chart("Mean IoU by threshold (best)", "threshold", "mean IoU", lines)


def chart(title: str, x_name: str, y_name: str, lines: Mapping[str, Line], ends: tuple[float, float] = (1, 1)) -> str:
    """Returns an SVG document with one curve per name, both axes from 0 to their `ends`, x and y.

    Leaves out points that are not finite.
    """
    box = f"0 0 {LEFT + SIDE + LEGEND} {TOP + SIDE + BELOW}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text x="{LEFT}" y="{TOP - 14}" font-weight="bold">{escape(title)}</text>',
        f'<text x="{LEFT + SIDE / 2}" y="{TOP + SIDE + 36}" text-anchor="middle">{escape(x_name)}</text>',
        f'<text transform="translate(14 {TOP + SIDE / 2}) rotate(-90)" text-anchor="middle">{escape(y_name)}</text>',
    ]
    for step in range(6):
        at = step / 5
        across, down = LEFT + at * SIDE, TOP + (1 - at) * SIDE
        parts.append(f'<path class="g" d="M{across:g} {TOP}v{SIDE}M{LEFT} {down:g}h{SIDE}"/>')
        parts.append(f'<text x="{across:g}" y="{TOP + SIDE + 17}" text-anchor="middle">{at * ends[0]:g}</text>')
        parts.append(f'<text x="{LEFT - 7}" y="{down + 4:g}" text-anchor="end">{at * ends[1]:g}</text>')
    for index, (name, (x, y)) in enumerate(lines.items()):
        ink = "#{:02x}{:02x}{:02x}".format(*colour(index))
        finite = np.isfinite(x) & np.isfinite(y)
        positions = np.stack([LEFT + x[finite] / ends[0] * SIDE, TOP + (1 - y[finite] / ends[1]) * SIDE], 1)
        points = " ".join(f"{left:.1f},{top:.1f}" for left, top in positions)
        parts.append(f'<polyline class="c" stroke="{ink}" points="{points}"/>')
        row = TOP + 14 + 18 * index
        parts.append(f'<path class="c" stroke="{ink}" d="M{LEFT + SIDE + 12} {row - 4}h16"/>')
        parts.append(f'<text x="{LEFT + SIDE + 34}" y="{row}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])
