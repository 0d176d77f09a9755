"""Templates of output names: `--name [FORMAT=]TEMPLATE`. Here they are read; `outputs/names.py` makes paths of them.

A template is a path below the output folder, with "/" between its parts and fields in braces. It names its suffix.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.slugs import unique_slugs

FIELDS = {  # field: the regular expression of its values
    "label": "[^/]+",
    "dir": "[^/]+(?:/[^/]+)*",
    "stem": "[^/]+",
    "name": "[^/]+",
    "ext": "[^/.]+",
    "index": "[0-9]{18}",
    "frame": "[0-9]{6,}(?:~[0-9a-f]{8})?",
    "format": "[a-z0-9]+",
}
_PART = "(?:train|val|test)"
# The files of the data sets of `--layout`; first the images, which --images none does not write.
_SETS = {
    "ultralytics": (re.compile(f"images/{_PART}/.+"), re.compile(rf"labels/{_PART}/.+|data\.yaml")),
    "semantic": (re.compile(f"images/{_PART}/.+"), re.compile(rf"masks/{_PART}/.+|data\.yaml")),
    "annotations": (re.compile("images/.+"), re.compile(rf"annotations/instances_{_PART}\.json")),
    "imagefolder": (re.compile(f"{_PART}/images/.+"), re.compile(rf"{_PART}/(?:masks/.+|metadata\.jsonl)")),
}
_FIELD = re.compile(r"\{([^{}]*)\}")
_FORMAT = re.compile(r"[a-z0-9]+(?==)")
_NOT_PORTABLE = frozenset('\\:*?"<>|{}')  # some file systems refuse these, and ":" and "\" lead out of the folder


def split(template: str) -> list[list[str]]:
    """Returns the parts of a template's path. Each part is text, field, text, ..., text; texts may be empty."""
    return [_FIELD.split(part) for part in template.split("/")]


def fields(template: str) -> set[str]:
    """Returns the names of a template's fields."""
    return {*_FIELD.findall(template)}


def parsed(text: str, formats: Sequence[str]) -> tuple[str]:
    """Returns the value of --name as `FORMAT=TEMPLATE`; without a format it is for masks.

    Raises UsageError for an unknown format or field, and for a path that could leave the output folder or that some
    file systems refuse.
    """
    given = _FORMAT.match(text)
    form, template = (given[0], text[given.end() + 1 :]) if given else ("mask", text)
    if form not in formats:
        raise UsageError(f"--name {text}: no format is called {form}; choose from {', '.join(formats)}")
    if why := _fault(template):
        raise UsageError(f"--name {text}: {why}; an example is {{label}}/{{dir}}/{{stem}}_mask.png")
    return (f"{form}={template}",)


def _fault(template: str) -> str:
    """Returns what is wrong with a template; "" if nothing is."""
    unknown = [name for name in _FIELD.findall(template) if name not in FIELDS]
    if unknown:
        return f"there is no field {{{unknown[0]}}}; the fields are {', '.join(f'{{{name}}}' for name in FIELDS)}"
    if template.startswith("/"):
        return "it must stay in the output folder: leave out the / at its beginning"
    for part in split(template):
        constant = "".join(part[::2])
        if bad := sorted(c for c in constant if c in _NOT_PORTABLE or not c.isprintable()):
            return f"names of files cannot contain {bad[0]!r} everywhere"
        if len(part) == 1 and constant in ("", ".", ".."):
            return f"it must stay in the output folder, and {constant or 'an empty part'} is no name"
        if part[-1].endswith((".", " ")):
            return "a name cannot end with a dot or a space everywhere"
        if "dir" in part[1::2] and part != ["", "dir", ""]:
            return "{dir} is a path of its own: write it between slashes"
    if template.split("/").count("{dir}") > 1:
        return "{dir} may stand there once"
    if template.startswith(".clipseg"):
        return "names that begin with .clipseg belong to the run"
    return ""


def templates(names: Sequence[str]) -> dict[Any, str]:
    """Returns the template of each format from values of `parsed`. Raises UsageError if a format has two."""
    found: dict[Any, str] = {}
    for each in names:
        form, _, template = each.partition("=")
        if found.setdefault(form, template) != template:
            raise UsageError(f"--name {form}={template}: {form} has another name already, {found[form]}")
    return found


def pattern(template: str, labels: Iterable[str] = ()) -> re.Pattern[str]:
    """Returns an expression that matches every path that a template can give; without labels, with any label."""
    slugs = "|".join(map(re.escape, unique_slugs(labels)))
    values = FIELDS | ({"label": slugs} if slugs else {})
    parts = []
    for part in split(template):
        text = "".join(f"(?:{values[piece]})" if index % 2 else re.escape(piece) for index, piece in enumerate(part))
        parts.append(f"(?:{text}/)?" if part == ["", "dir", ""] else f"{text}/")
    return re.compile("".join(parts).removesuffix("/"))


def patterns(
    names: Sequence[str], labels: Iterable[str], formats: Iterable[str] = (), images: str = "link"
) -> tuple[re.Pattern[str], ...]:
    """Returns expressions that match all outputs whose names a walk does not know, as paths below the output folder.

    They are those of the templates among values of `parsed`, as `pattern` returns them, and of the data sets of
    `--layout` among the formats. `images` is the value of `--images`.
    """
    labels = [*labels]
    named = [pattern(template, labels) for template in templates(names).values()]
    return (*named, *(each for form in formats for each in _SETS.get(form, ())[images == "none" :]))
