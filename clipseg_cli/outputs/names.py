"""Names of output files: from a template, an image and a label to a path below the output folder.

`check` refuses, before the run, templates under which two outputs could meet. It looks at no image: a template must
tell any two images apart. What tells them apart is the image's output path, which no other image of the run has:
`{dir}` with `{stem}` or `{name}`, or `{index}`, which is made from it.
"""

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs import names
from clipseg_cli.outputs.record import PER_LABEL
from clipseg_cli.settings.names import fields, split, templates
from clipseg_cli.settings.outputs import Format, top_names
from clipseg_cli.storage import store

# The formats with one file per image, or per image and label, and their names without --name. All others are data sets,
# whose readers prescribe the names.
USUAL: dict[Format, str] = {
    "mask": "masks/{label}/{dir}/{stem}.png",
    "soft": "soft/{label}/{dir}/{stem}.png",
    "soft16": "soft16/{label}/{dir}/{stem}.png",
    "npz": "npz/{dir}/{stem}.npz",
    "overlay": "overlays/{dir}/{stem}.jpg",
    "cutout": "cutouts/{label}/{dir}/{stem}.png",
    "labels": "labels/{dir}/{stem}.png",
    "instances": "instances/{dir}/{stem}.png",
    "joined": "joined/{dir}/{stem}.png",
    "alpha": "alpha/{dir}/{stem}.png",
    "exr": "exr/{dir}/{stem}.exr",
    "tiff": "tiff/{dir}/{stem}.tif",
    "psd": "psd/{dir}/{stem}.psd",
    "labelme": "labelme/{dir}/{stem}.json",
    "svg": "svg/{dir}/{stem}.svg",
}
OWN = ("run.json", "manifest.jsonl", "report.html", "compare.html")  # other files of a run, at its top
INDEX = 10**18  # numbers of {index}: 18 digits, which fit into 64 bits with a sign
NO_EXTENSION = "none"  # in place of an empty {ext}
LONGEST = 255  # bytes of a name, on all common file systems
HIDDEN = ".clipseg"  # begins the names of the run's own files


@dataclass(frozen=True, slots=True)
class Place:
    """What names the outputs of an image."""

    output: str  # the image's output path: "sub/a", "clip/000012" for a frame
    image: str = ""  # the image's name, as in its record
    frame: int | None = None  # the number of the frame in its file; also 0 for a file of one image

    @property
    def stem(self) -> str:
        """The portable output path: the common part of the usual names."""
        return store.portable(self.output)

    def fields(self, framed: bool) -> dict[str, str]:
        """Returns the value of each field but those of a label and a format. `framed`: the template has {frame}.

        With {frame}, the other fields of a frame are those of its file. Without, `{dir}/{stem}` is the output path.
        """
        base = self.image.rpartition("/")[2]
        file, _, last = self.output.rpartition("/")
        whole = self.frame is None or last.startswith(names.stem(base)) or not last.startswith(f"{self.frame:06}")
        path, frame = (self.output, f"{0:06}") if whole or not framed else (file, last)
        folder, _, stem = store.portable(path).rpartition("/")
        suffix = base[len(names.stem(base)) :] if whole or framed else ""
        return {
            "dir": folder,
            "stem": stem,
            "name": stem if stem == store.portable(base) else stem + suffix,
            "ext": suffix[1:] or NO_EXTENSION,
            "index": f"{names.shard_number(self.stem) % INDEX:018}",
            "frame": frame,
        }


def usual(form: Format, stem: str, slug: str = "") -> str:
    """Returns the path of a file without --name. `stem` is the image's portable output path."""
    return USUAL[form].replace("{label}", slug).replace("{dir}/{stem}", stem)


@dataclass(frozen=True, slots=True)
class Names:
    """How the files of a run are named."""

    templates: Mapping[Format, str] = field(default_factory=dict)  # of the formats that --name or a layout names
    kept: frozenset[str] = frozenset()  # first parts of paths that belong to the run's other files, folded

    @classmethod
    def of(cls, name: Sequence[str], formats: Sequence[Format]) -> "Names":
        """Returns the names of a run with these values of --name and these formats."""
        found = templates(name)
        own = [name for form in formats if form not in found for name in top_names(form)]
        return cls(found, frozenset(map(store.folded, (*own, *OWN))))

    def suffix(self, form: Format) -> str:
        """Returns the suffix of a format's files, like ".png"."""
        return os.path.splitext(self.templates.get(form, USUAL.get(form, "")))[1].lower()

    def path(self, form: Format, place: Place, slug: str = "") -> str:
        """Returns the path of a file, relative to the output folder; `slug` is that of its label.

        Raises ImageError if it would lie outside the output folder.
        """
        template = self.templates.get(form)
        if template is None:
            return usual(form, place.stem, slug)
        values = place.fields("frame" in fields(template)) | {"label": slug, "format": form}
        found = [_filled(part, values) for part in split(template)]
        whole = "/".join(part for part in found if part).split("/")
        if any(part in ("", ".", "..") for part in whole):
            raise ImageError("output_conflict", "write", f"its output {'/'.join(whole)} is no path: rename the image")
        if len(split(template)[0]) > 1 and (store.folded(whole[0]) in self.kept or whole[0].startswith(HIDDEN)):
            whole[0] = _marked(whole[0], whole[0])
        return "/".join(part if len(os.fsencode(part)) <= LONGEST else _marked(_cut(part), part) for part in whole)


def _filled(part: Sequence[str], values: Mapping[str, str]) -> str:
    return "".join(values[piece] if index % 2 else piece for index, piece in enumerate(part))


def _marked(part: str, full: str) -> str:
    """Returns a name with a hash of the full name before its suffix."""
    root, suffix = os.path.splitext(part)
    return f"{root}~{hashlib.sha256(os.fsencode(full)).hexdigest()[:8]}{suffix}"


def _cut(part: str) -> str:
    root, suffix = os.path.splitext(part)
    return root.encode()[: store.NAME_BYTES].decode("utf-8", "ignore") + suffix


Part = tuple[str, str, bool]  # of a path: its constant beginning and end, and whether it is constant throughout


def check(
    name: Sequence[str], formats: Sequence[Format], slugs: Sequence[str], suffixes: Mapping[Format, tuple[str, ...]]
) -> None:
    """Checks templates against the formats and labels of a run.

    `suffixes` are those that each format can be written as. Raises UsageError, with an example, if two outputs could
    have the same path, or if a format cannot be named or written so.
    """
    found: dict[Format, str] = templates(name)
    for form, template in found.items():
        option = f"--name {form}={template}"
        found[form] = template = template.replace("{format}", form)
        if form not in USUAL:
            raise UsageError(
                f"{option}: {form} is a data set, whose readers prescribe its names; use -f mask and others"
            )
        if form not in formats:
            raise UsageError(f"{option}: no {form} is written; add -f {form}")
        if os.path.splitext(template)[1].lower() not in suffixes[form]:
            raise UsageError(f"{option}: it must end in a suffix that {form} has: {', '.join(suffixes[form])}")
        if "label" in fields(template) and form not in PER_LABEL:
            raise UsageError(f"{option}: {form} is one file for all labels, so leave out {{label}}")
        _check_images(option, form, template)
        _check_labels(option, form, template, slugs if form in PER_LABEL else slugs[:1])
    for (form, template), (other, second) in itertools.combinations(found.items(), 2):
        both = [
            [_parts(each, slug) for slug in (slugs if "label" in fields(each) else [""])] for each in (template, second)
        ]
        if any(itertools.starmap(_may_meet, itertools.product(*both))):
            raise UsageError(
                f"--name {form}={template} and {other}={second}: {form} and {other} could be one file, "
                f"{_shared(form, other, found, slugs[0])}; give one of them a folder or an ending of its own"
            )
    for form, other in itertools.combinations([each for each in dict.fromkeys(formats) if each not in found], 2):
        if shared := {*top_names(form)} & {*top_names(other)}:
            free = form if form in USUAL else other
            raise UsageError(
                f"--layout and -f {free} would both write to {min(shared)}/: run them apart, or move the files of "
                f"{free}, as with --name '{free}=own/{USUAL[free].partition('/')[2]}'"
            )
    for form, template in found.items():
        first = split(template)[0]
        for other in formats:
            if other not in found and len(first) == 1 and store.folded(first[0]) in map(store.folded, top_names(other)):
                raise UsageError(
                    f"--name {form}={template}: {first[0]}/ belongs to {other}; choose another, or name {other} too"
                )


def _shared(form: Format, other: Format, found: Mapping[Format, str], slug: str) -> str:
    """Returns what two formats of a.jpg would be called."""
    one, two = (Names(found).path(each, Place("a", "a.jpg"), slug) for each in (form, other))
    return f"like {one}" if one == two else f"as {one} and {two} of other images show"


def _check_images(option: str, form: Format, template: str) -> None:
    """Raises UsageError if two images could have the same path."""
    for one, other, telling in (("x/a.jpg", "y/a.jpg", ("dir",)), ("a.jpg", "b.jpg", ("stem", "name"))):
        if not fields(template) & {*telling, "index"}:
            path = Names({form: template}).path(form, Place(names.stem(one), one), "label")
            raise UsageError(f"{option}: {one} and {other} would both be {path}; add {{{telling[0]}}}, or {{index}}")
    for part in split(template):
        present = part[1::2]
        if {"stem", "name"} <= {*present} or len(present) > len({*present}):
            raise UsageError(f"{option}: write each of {{stem}} and {{name}} once, and not both in one name")
        for left, text, right in zip(present, part[2::2], present[1:], strict=False):
            if fault := _runs_together(left, text, right):
                raise UsageError(f"{option}: {fault}")


def _runs_together(left: str, text: str, right: str) -> str:
    """Returns how two images could get the same name because two fields of it run together; "" if they cannot."""
    pair = {left, right}
    if not pair & {"stem", "name"}:
        return ""
    edge = text[:1] if left == "frame" else text[-1:]  # what stands beside the digits
    if "frame" in pair and (not edge or edge.isdigit()):
        return f"frame 5 of a1 and frame 1000005 of a could have the same name; write {{{left}}}_{{{right}}}"
    if "ext" in pair and (not text or text.isalnum()):
        return f"ax.tif and a.xtif could have the same name; write {{{left}}}.{{{right}}}"
    return ""


def _check_labels(option: str, form: Format, template: str, slugs: Sequence[str]) -> None:
    """Raises UsageError if two labels could have the same path, of one image or of two."""
    if ["", "label", ""] in split(template):
        return  # a folder for each label
    made = [_parts(template, slug) for slug in slugs]
    for (one, first), (other, second) in itertools.combinations(zip(slugs, made, strict=True), 2):
        if not _may_meet(first, second):
            continue
        if "label" not in fields(template):
            path = Names({form: template}).path(form, Place("a", "a.jpg"), one)
            raise UsageError(f"{option}: the labels {one} and {other} of a.jpg would both be {path}; add {{label}}")
        raise UsageError(
            f"{option}: {_example(form, template, one, other)}; write a character between {{label}} and its "
            "neighbours that no label has, like {stem}_{label}"
        )


def _example(form: Format, template: str, one: str, other: str) -> str:
    """Returns two images of two labels that would share a path."""
    short, long = sorted((one, other), key=len)
    made = Names({form: template})
    rest = (long.removesuffix(short), long.removeprefix(short))
    for extra in (rest[0], rest[1], rest[0].strip("-"), rest[1].strip("-")):
        for stem in (f"a{extra}", f"a-{extra}", f"{extra}a", f"{extra}-a", extra):
            first, second = (Place(each, f"{each}.jpg") for each in (stem, "a"))
            if stem and made.path(form, first, short) == (path := made.path(form, second, long)):
                return f"{short} of {stem}.jpg and {long} of a.jpg would both be {path}"
    return f"the labels {one} and {other} of two images could have the same name"


def _parts(template: str, slug: str) -> list[Part | None]:
    """Returns the parts of a template's paths with this label; None for {dir}."""
    found: list[Part | None] = []
    for part in split(template):
        if part == ["", "dir", ""]:
            found.append(None)
            continue
        pieces = [piece if not index % 2 else slug if piece == "label" else None for index, piece in enumerate(part)]
        start = "".join(itertools.takewhile(lambda piece: piece is not None, pieces))  # type: ignore[arg-type]
        backwards = [*itertools.takewhile(lambda piece: piece is not None, reversed(pieces))]
        found.append((start, "".join(reversed(backwards)), None not in pieces))  # type: ignore[arg-type]
    return found


def _may_meet(one: Sequence[Part | None], other: Sequence[Part | None]) -> bool:
    """Returns whether some path could be of both templates. {dir} is any number of parts."""
    if None not in one and None not in other and len(one) != len(other):
        return False
    return all(_alike(*pair) for pair in (*_aligned(one, other), *_aligned(one[::-1], other[::-1])))


def _aligned(one: Sequence[Part | None], other: Sequence[Part | None]) -> Iterator[tuple[Part, Part]]:
    """Yields the pairs of parts that stand at the same place, up to the first {dir}."""
    for first, second in zip(one, other, strict=False):
        if first is None or second is None:
            return
        yield first, second


def _alike(one: Part, other: Part) -> bool:
    """Returns whether some name could be of both parts."""
    if one[2] or other[2]:
        (text, _, _), (start, end, whole) = (one, other) if one[2] else (other, one)
        return text == start if whole else text.startswith(start) and text.endswith(end)
    starts = one[0].startswith(other[0]) or other[0].startswith(one[0])
    return starts and (one[1].endswith(other[1]) or other[1].endswith(one[1]))
