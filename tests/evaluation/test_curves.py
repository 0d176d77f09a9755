"""Charts of scores are well-formed SVG with one curve per label."""

import xml.etree.ElementTree

import numpy as np

from clipseg_cli.evaluation import curves, metrics

SPACE = "{http://www.w3.org/2000/svg}"


def test_a_chart_has_a_curve_and_a_name_per_label() -> None:
    """Names are escaped, curves stay inside the plot, and labels beyond MAX_CURVES are left out."""
    rng = np.random.default_rng(3)
    truth = rng.random((20, 30)) < 0.4
    counts = metrics.count(rng.integers(0, 256, truth.shape).astype(np.uint8), truth).as_class()
    labels = ["<dog>", *(f"label {number}" for number in range(curves.MAX_CURVES))]
    for draw in (curves.precision_recall, curves.iou_by_threshold):
        root = xml.etree.ElementTree.fromstring(draw(dict.fromkeys(labels, counts)))
        lines = root.findall(f"{SPACE}polyline")
        assert len(lines) == curves.MAX_CURVES
        assert any("<dog> (" in (text.text or "") for text in root.findall(f"{SPACE}text"))
        points = np.array([[float(part) for part in point.split(",")] for point in lines[0].get("points").split()])
        assert len(points) > 10
        assert (points >= (curves.LEFT, curves.TOP)).all()
        assert (points <= (curves.LEFT + curves.SIDE, curves.TOP + curves.SIDE)).all()
