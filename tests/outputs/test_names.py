"""Names of outputs: two outputs never meet, no path leaves the folder, and what could is refused before the run."""

import itertools
import random
import re
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath

import pytest

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs.names import output_names
from clipseg_cli.outputs.names import USUAL, Names, Place, check, usual
from clipseg_cli.outputs.record import PER_LABEL
from clipseg_cli.outputs.writers import WRITERS
from clipseg_cli.outputs.writers.one_file import NAMED
from clipseg_cli.settings.names import FIELDS, parsed, pattern
from clipseg_cli.settings.outputs import FORMATS
from mask_shapes import result, ring, written

SLUGS = ("cat", "red-cat", "cat-2")


def checked(*texts: str, formats: tuple[str, ...] = ("mask",), slugs: tuple[str, ...] = SLUGS) -> Names:
    """The names of a run with these values of --name."""
    name = tuple(value for text in texts for value in parsed(text, FORMATS))
    check(name, formats, slugs, NAMED)  # type: ignore[arg-type]
    return Names.of(name, formats)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", USUAL)
def test_writers_give_the_usual_names(form: str) -> None:
    """Those of the table, which is what documentation and checks go by. Each format that has one can be renamed."""
    slug = "label-0" if form in PER_LABEL else ""
    image = replace(result(ring(), apart=True), index=ring() // 255)
    assert form in WRITERS
    beside = ["labelme/sub/a.jpg"] if form == "labelme" else []
    assert [*written(form, image)] == [usual(form, "sub/a", slug), *beside]  # type: ignore[arg-type]
    assert checked(f"{form}={USUAL[form]}", formats=(form,)).path(form, Place("sub/a", "sub/a.jpg"), slug) == usual(  # type: ignore[arg-type, index]
        form,  # type: ignore[arg-type]
        "sub/a",
        slug,
    )


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("{dir}/{name}.png", "sub/b/a.jpg.png"),
        ("{dir}/{stem}_{label}.tif", "sub/b/a_cat.tif"),
        ("{label}/{ext}/{dir}/{stem}.png", "cat/jpg/sub/b/a.png"),
        ("{format}s/{dir}/{stem}-{frame}.png", "masks/sub/b/a-000000.png"),
        ("{index}.png", "453417427183951313.png"),
        ("m/{dir}/x{stem}y.PNG", "m/sub/b/xay.PNG"),
    ],
)
def test_fields_are_filled(template: str, path: str) -> None:
    """From the image's path, its label and its format; a number of an image depends on its path alone."""
    made = checked(template, slugs=("cat",)).path("mask", Place("sub/b/a", "imgs/sub/b/a.jpg"), "cat")
    assert made == path or (template == "{index}.png" and len(made) == 22 and made[:18].isdigit())
    assert pattern(template, ["cat"]).fullmatch(made)


def test_a_frame_has_the_name_of_its_file_and_a_number() -> None:
    """With {frame}; otherwise its stem is the number, in a folder of the file's name. A record that was read, whose
    frame is 0 for a file of one image, gives the same names."""
    twelve = Place("sub/clip/000012", "sub/clip.mp4", 12)
    for template, path in (
        ("{dir}/{stem}_{frame}.png", "sub/clip_000012.png"),
        ("{dir}/{name}/{frame}.png", "sub/clip.mp4/000012.png"),
        ("{dir}/{stem}_mask.png", "sub/clip/000012_mask.png"),
    ):
        assert checked(template, slugs=("cat",)).path("mask", twelve) == path
    made = checked("{dir}/{name}_{frame}.png", slugs=("cat",))
    assert {made.path("mask", Place("a", "a.jpg", frame)) for frame in (None, 0)} == {"a.jpg_000000.png"}


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{label}/{stem}.png", r"x/a\.jpg and y/a\.jpg would both be label/a\.png; add \{dir\}"),
        ("{label}/{dir}/mask.png", r"a\.jpg and b\.jpg would both be label/mask\.png; add \{stem\}"),
        ("{dir}/{stem}.png", r"labels cat and red-cat of a\.jpg would both be a\.png; add \{label\}"),
        ("{dir}/{stem}-{label}.png", r"cat of a-red\.jpg and red-cat of a\.jpg would both be a-red-cat\.png"),
        ("{dir}/{label}{stem}.png", r"cat of -2a\.jpg and cat-2 of a\.jpg would both be cat-2a\.png"),
        ("{dir}/{stem}{frame}_{label}.png", r"frame 5 of a1 and frame 1000005 of a could have the same name"),
        ("{label}/{dir}/{stem}{ext}.png", r"could have the same name; write \{stem\}\.\{ext\}"),
        ("{label}/{dir}/{stem}{name}.png", "not both in one name"),
    ],
)
def test_a_template_under_which_two_outputs_could_meet_is_refused(template: str, shown: str) -> None:
    """Before the run, with two images or labels that would share a path."""
    with pytest.raises(UsageError, match=shown):
        checked(template)


@pytest.mark.parametrize(
    ("texts", "formats", "shown"),
    [
        (("{label}/{dir}/{stem}.png", "soft={label}/{dir}/{stem}.png"), "mask soft", "could be one file, like cat/a"),
        (("x/{label}/{dir}/{stem}.png", "soft={dir}/{stem}_{label}.png"), "mask soft", "could be one file"),
        (("soft=Masks/{label}/{dir}/{stem}.png",), "mask soft", "Masks/ belongs to mask"),
        (("{label}/{dir}/{stem}.png", "mask={dir}/{stem}_{label}.png"), "mask", "has another name already"),
        (("overlay={label}/{dir}/{stem}.jpg",), "overlay", "one file for all labels"),
        (("overlay={dir}/{stem}.jpg",), "mask", "no overlay is written; add -f overlay"),
        (("{label}/{dir}/{stem}.jpg",), "mask", r"must end in a suffix that mask has: \.png, \.tif"),
        (("{label}/{dir}/{stem}",), "mask", "must end in a suffix"),
        (("voc=voc/{dir}/{stem}.png",), "voc", "voc is a data set"),
    ],
)
def test_formats_do_not_meet_either(texts: tuple[str, ...], formats: str, shown: str) -> None:
    """Nor can a format have two names, a name that it cannot be written as, or a field without a value."""
    with pytest.raises(UsageError, match=shown):
        checked(*texts, formats=tuple(formats.split()))


NESTED = [
    "a.jpg", "a.png", "a.jpg.png", "a-red.jpg", "a_cat.jpg", "a_mask.jpg", "masks.jpg", "clip/000001.jpg",
    "masks/a.jpg", "soft/cat/a.jpg", "cat/a.jpg", "red-cat/a.jpg", "x/a.jpg", "x/y/a.jpg", "x_y.jpg", "x/y.jpg",
    "run.json.jpg", "manifest.jpg", "clip.jpg", "2.jpg", "cat.jpg", "x/cat/a.jpg", "labels/classes.jpg", "a.tif/b.jpg",
]  # fmt: skip
FRAMES = [("clip/000001", "clip.gif", 1), ("clip/1000001", "clip.gif", 1000001), ("clip1/000001", "clip1.gif", 1)]


def places() -> list[Place]:
    """Places of images whose names invite collisions, as discovery would name their outputs, and frames."""
    found = []
    for folder in {str(PurePosixPath(path).parent) for path in NESTED}:
        inside = [PurePosixPath(path).name for path in NESTED if str(PurePosixPath(path).parent) == folder]
        above = "" if folder == "." else f"{folder}/"
        found += [Place(above + output, above + name) for name, output in output_names(inside).items()]
    taken = {place.output for place in found}
    return found + [Place(*frame) for frame in FRAMES if frame[0] not in taken]


@pytest.mark.slow
def test_what_is_admitted_never_meets() -> None:
    """Of 4,000 random templates for two formats, every admitted one gives all outputs of 24 nasty images and of frames
    paths of their own, without regard to case, below the output folder on every system. No file is called like a
    folder."""
    rng = random.Random(21)
    cores = ["{label}/{dir}/{stem}", "{dir}/{stem}_{label}", "{dir}/{name}{label}", "{label}{index}"]
    cores += ["{index}/{format}", "{dir}/{frame}-{stem}/{label}", "masks/{label}/{dir}/{stem}", "{dir}/{label}-{name}"]
    pieces = [*(f"{{{name}}}" for name in FIELDS), *"//_-.1x", "cat", "masks", "soft", "{dir}/"]
    admitted = 0
    images = places()
    for _ in range(4_000):
        texts = []
        for form in rng.sample(["mask", "soft"], rng.randint(1, 2)):
            parts = re.findall(r"\{\w+\}|.", rng.choice(cores))
            for _ in range(rng.choice([0, 0, 1, 2, 3])):
                parts.insert(rng.randint(0, len(parts)), rng.choice(pieces))
            texts.append(f"{form}={''.join(parts)}.png")
        try:
            names = checked(*texts, formats=("mask", "soft", "labels"))
        except UsageError:
            continue
        admitted += 1
        made = [
            names.path(form, place, slug if form != "labels" else "")  # type: ignore[arg-type]
            for form in ("mask", "soft", "labels")
            for place in images
            for slug in (SLUGS if form != "labels" else ("",))
        ]
        assert len({path.lower() for path in made}) == len(made), texts
        folders = {str(above).lower() for path in made for above in PurePosixPath(path).parents}
        assert not folders & {path.lower() for path in made}, texts
        for path in made:
            assert not {"", ".", ".."} & {*path.split("/")} and not PureWindowsPath(path).drive, path
            assert path.split("/")[0] not in ("run.json", "manifest.jsonl"), path
    assert admitted > 500


OUTSIDE = ["../{stem}.png", "/{dir}/{stem}.png", "x/../{dir}/{stem}.png", "C:{stem}.png", "C:/{stem}.png"]
OUTSIDE += ["a\\{stem}.png", "{dir}/./{stem}.png", "{dir}//{stem}.png", "", ".clipseg-parts/{stem}.png"]
WRONG = ["{stem}\n.png", "{dir}{stem}.png", "{dir}/{dir}/{stem}.png", "{stem}{.png", "{stem!r}.png", "{}.png"]
WRONG += ["{Label}.png", "x./{stem}.png"]


@pytest.mark.parametrize("text", [*OUTSIDE, *WRONG])
def test_a_template_cannot_leave_the_folder(text: str) -> None:
    """Nor hold what some file systems refuse, or a field that is not there. The message has an example."""
    with pytest.raises(UsageError, match=r"(?s)^--name .*an example is \{label\}/\{dir\}/\{stem\}_mask.png$"):
        parsed(text, FORMATS)


def test_a_format_that_is_not_there_is_refused() -> None:
    """The message lists all."""
    with pytest.raises(UsageError, match="no format is called masks; choose from mask, soft"):
        parsed("masks={stem}.png", FORMATS)


def test_no_image_leaves_the_folder() -> None:
    """Should an output path ever contain `..`, the image fails."""
    with pytest.raises(ImageError, match="no path"):
        Names({"mask": "{dir}/{stem}.png"}).path("mask", Place("../a", "../a.jpg"))


def test_long_names_are_cut_and_stay_apart() -> None:
    """No part has more than 255 bytes, whatever the fields."""
    names = checked("{dir}/{stem}_{name}x{label}.png".replace("_{name}x", "_"), slugs=("c" * 80, "d" * 80))
    made = {names.path("mask", Place("é" * 100 + end, "x.jpg"), slug * 80) for end in "ab" for slug in "cd"}
    assert len(made) == 4 and all(len(path.encode()) <= 255 and path.endswith(".png") for path in made)


def test_the_format_tells_formats_apart() -> None:
    """One template may serve several."""
    template = "{format}/{label}/{dir}/{stem}.png"
    names = checked(template, f"soft={template}", formats=("mask", "soft"))
    made = [names.path(form, Place("a", "a.jpg"), "cat") for form in ("mask", "soft")]  # type: ignore[arg-type]
    assert made == ["mask/cat/a.png", "soft/cat/a.png"]


def test_pairs_of_labels_that_may_not_meet_are_admitted() -> None:
    """A hyphen before a label is fine while no label ends like another one."""
    for slugs in (("cat", "dog"), ("a-cat", "a-dog")):
        names = checked("{dir}/{stem}-{label}.png", slugs=slugs)
        made = [names.path("mask", Place(stem, f"{stem}.jpg"), slug) for stem in ("x", "x-a") for slug in slugs]
        assert len({*made}) == 4
    assert [*itertools.chain(*checked("{index}_{label}.png").templates.items())] == ["mask", "{index}_{label}.png"]
