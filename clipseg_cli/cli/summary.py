"""The summary of a run as text for people: what was found, what failed, what was left out, and what to do next."""

import shlex
from typing import TYPE_CHECKING

from clipseg_cli.storage.paths import escape

if TYPE_CHECKING:
    from clipseg_cli.outputs.record import Record
    from clipseg_cli.run.summary import Summary

LABELS = 30  # labels that get a line; run.json has all


def share(part: float) -> str:
    """Returns a share as a percentage with three significant digits, like `12.3 %`."""
    return f"{100 * part:.3g} %"


def lines(summary: "Summary", out: str = "", single: bool = False, again: str = "", report: str = "") -> list[str]:
    """Returns the lines of the summary of a run; none for a run without images.

    `out`: where the outputs are; empty if there are none, and then labels are left out. `single`: `out` is a file or
    stdout, not a folder. `again`: what a new threshold is added to, like `clipseg post out`. `report`: the report's
    path, if it has been written.
    """
    if not summary.done + summary.failed:
        return []
    told = [_heading(summary, out, single), *(_labels(summary, single) if out else [])]
    if summary.failures:
        told.append("failed: " + ", ".join(f"{count} {kind}" for kind, count in sorted(summary.failures.items())))
    told += [
        summary.files_left_out(),
        _frames_left(summary.frames_left),
        _alphas(*summary.alphas),
        _next(summary, out, single, again, report) if out else "",
    ]
    return [*filter(None, told)]


def _frames_left(count: int) -> str:
    return f"left out: {count} further frames of files with several; --frames all includes them" if count else ""


def _alphas(taken: int, ignored: int) -> str:
    """Returns what became of bands of GeoTIFFs that are marked as transparency; "" if there are none."""
    told = [f"taken as such in {taken} images"] if taken else []
    told += [f"ignored in {ignored}, where its values are not mostly 0 or full"] if ignored else []
    return f"band marked as transparency: {', '.join(told)}" if told else ""


def _heading(summary: "Summary", out: str, single: bool) -> str:
    before = f" ({summary.before} before)" if summary.before else ""
    see = f" (see {out.rstrip('/')}/manifest.jsonl)" if out and not single else ""
    wrong = f", {summary.failed} failed{see}" if summary.failed else ""
    rate = f", {summary.rate:{'.3g' if summary.rate < 100 else '.0f'}} images/s" if summary.rate else ""
    where = "" if not out else " -> stdout" if out == "-" else f" -> {out}"
    total = summary.done + summary.failed
    return f"{summary.done} of {total} images done{before}{wrong}, {summary.seconds:.1f} s{rate}{where}"


def _labels(summary: "Summary", single: bool) -> list[str]:
    told = []
    for name, label in [*summary.labels.items()][:LABELS]:
        median = f", median share {share(label.median())}" if label.found else ""
        unsure = f", {label.unsure} unsure" if label.unsure else ""
        held = f", {label.held_back} not refined by SAM" if label.held_back else ""
        told.append(f"{escape(name)}: found in {label.found} of {summary.done} images{median}{unsure}{held}")
    if (more := len(summary.labels) - LABELS) > 0:
        told.append(f"and {more} more labels" + ("" if single else ": see run.json"))
    return told


def _next(summary: "Summary", out: str, single: bool, again: str, report: str) -> str:
    """Returns the command that helps most: a lower threshold for a label that was never found, otherwise the report."""
    if suggested := summary.suggestion():
        name, lower, presence, threshold = suggested
        why = f"highest presence score {presence:.2f}, threshold {threshold:.2f}"
        return f"next: {again} -t {escape(shlex.quote(f'{name}={lower:g}'))}  ({escape(name)}: {why})"
    if report:
        return f"next: open {report} in a browser"
    return "" if single else f"next: clipseg report {shlex.quote(out)}"


def line(record: "Record") -> str:
    """Returns one line of --verbose about an image that was segmented: each label's share of it and presence score."""
    masks = record.document()["masks"]
    each = [f"{mask['label']} {share(mask['area_frac'])} (presence {mask['presence']:.2f})" for mask in masks]
    before = " (before)" if record.kept is not None else ""
    return escape(f"{record.shown}{before}: {', '.join(each)}")
