"""`--refine sam` in a run: what the network sees and when, with a small random SAM. Its answers are bad, so most tests
let every answer pass, to see that it is there."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from checkpoints import write_sam
from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.source import Source
from clipseg_cli.masks import answers
from clipseg_cli.model.sam import Sam
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.outputs.record import Record
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run import pipeline
from clipseg_cli.run.finish import MaskPlan
from clipseg_cli.run.job import Job
from clipseg_cli.run.refiner import in_halves
from clipseg_cli.settings.masks import CleanUp, MaskOptions
from output_folder import tree
from pictures import Program, Shell, picture, records, save


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small random SAM 2."""
    return write_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture
def refine(network: Path) -> str:
    """The options of a run that uses it."""
    return f"--refine sam --refine-model {network}"


@pytest.fixture
def credulous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes every answer."""
    monkeypatch.setattr(answers, "LEAST_IOU", 0.0)
    monkeypatch.setattr(answers, "LEAST_SHARE", 0.0)
    monkeypatch.setattr(answers, "MOST_EMPTY", 1.0)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images in each batch that SAM encodes."""
    counts, encode = list[int](), Sam.encode

    def counted(self: Sam, images: Sequence[Any]) -> Any:
        counts.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(Sam, "encode", counted)
    return counts


def folder(path: Path, found: int, empty: int = 0, beside: int = 0) -> None:
    """Writes images that show a red disc, and images that show nothing, in turn. beside: pixels more than usual."""
    for index in range(found):
        pixels = picture(150, 110 + 10 * index, index)
        save(path / f"{index}-disc.png", np.pad(pixels, ((0, beside), (0, beside), (0, 0)), "edge"))
    for index in range(empty):
        save(path / f"{index}-empty.png", np.full((100, 120, 3), 90 + index, np.uint8))


Run = Callable[..., tuple[dict[str, Record], dict[str, bytes]]]


@pytest.fixture
def run(segmenter: Segmenter, network: Path, tmp_path: Path) -> Run:
    """Runs the pipeline on `imgs`; returns the records by image, and the files by name.

    Unlike the fixture `clipseg`, it makes batches.
    """
    sam = Sam.load(str(network), device="cpu", dtype="fp32")

    def run(batch: int, *labels: str) -> tuple[dict[str, Record], dict[str, bytes]]:
        paths = sorted((tmp_path / "imgs").iterdir())
        written: dict[str, bytes] = {}
        prompts = tuple(Prompt(label, label) for label in labels)
        plan = MaskPlan(prompts, (segmenter.threshold,) * len(labels), MaskOptions(clean=CleanUp("sam")), ("mask",))
        job = Job(plan, tuple(range(len(labels))), labels, batch)
        found = pipeline.run(
            [Source(str(path), path.name, path.stem) for path in paths],
            job,
            lambda: (segmenter, segmenter.embed(labels)),
            lambda path, data: written.update({path: data if isinstance(data, bytes) else data.read()}),
            load_sam=lambda: sam,
        )
        return {record.image: record for record in found}, named(written)

    return run


def masks(out: Path) -> dict[str, bytes]:
    """Returns the mask files of a run by label and name of the image."""
    return named({name: data for name, data in tree(out).items() if name.startswith("masks/")})


def named(files: dict[str, bytes]) -> dict[str, bytes]:
    """Returns mask files by label and name of the image, without folders."""
    return {"/".join((path.split("/")[1], path.split("/")[-1])): data for path, data in files.items()}


@pytest.mark.usefixtures("credulous")
def test_an_image_is_encoded_once_if_it_shows_a_label(run: Run, tmp_path: Path, seen: list[int]) -> None:
    """For all labels together, in the batches of the run. Images in which nothing is found cost nothing."""
    folder(tmp_path / "imgs", 3, 3)
    found, _ = run(4, "a red circle", "red", "a blue star")
    assert seen == [2, 1]
    for name, record in found.items():
        circle, red, star = record.masks
        assert circle.refined == red.refined == ("disc" in name) == (circle.area > 0) and not star.refined
        assert star.area == 0 and all(each.held_back == "" for each in record.masks)


def test_without_a_find_the_network_is_not_loaded(
    clipseg: Program, refine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor if the presence score is too low everywhere."""
    folder(tmp_path / "imgs", 1, 2)
    monkeypatch.delattr(Sam, "load")
    clipseg(f"clipseg segment imgs/0-empty.png imgs/1-empty.png -p 'a red circle' {refine} -f mask -o out")
    clipseg(f"clipseg segment imgs -p 'a red circle' --min-presence 1 {refine} -f mask -o none")
    assert all(not record["masks"][0]["area"] for record in records(tmp_path / "none/manifest.jsonl"))


@pytest.mark.usefixtures("credulous")
def test_neighbours_batches_and_order_do_not_change_a_mask(
    clipseg: Program, run: Run, refine: str, tmp_path: Path
) -> None:
    """The same bytes alone, in batches of one and of four, and with more labels; other bytes than without SAM."""
    folder(tmp_path / "imgs", 4, 1)
    four = run(4, "a red circle")[1]
    assert four == run(1, "a red circle")[1] and four.items() <= run(4, "red", "a red circle")[1].items()
    clipseg(f"clipseg segment imgs/2-disc.png -p 'a red circle' {refine} --dtype fp32 -f mask -o alone")
    clipseg("clipseg segment imgs -p 'a red circle' --refine guided --dtype fp32 -f mask -o guided")
    assert masks(tmp_path / "alone").items() <= four.items()
    changed = {name for name, data in masks(tmp_path / "guided").items() if data != four[name]}
    assert changed == {name for name in four if "disc" in name}


@pytest.mark.usefixtures("credulous")
@pytest.mark.parametrize("closer", ["", "--refine-closer"])
def test_post_asks_sam_alone(
    clipseg: Program, refine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int], closer: str
) -> None:
    """It writes what `segment` writes, byte for byte, without CLIPSeg, and encodes only images that show a label.

    A closer look encodes a view of each part besides, and changes the masks.
    """
    folder(tmp_path / "imgs", 2, 1, 150)
    refine = f"{refine} {closer}"
    monkeypatch.setattr(answers, "MOST_VIEW", 9.0)  # a random network's answers fill the image
    clipseg("clipseg segment imgs -p 'a red circle' -p red -f soft -o run")
    clipseg(f"clipseg segment imgs -p 'a red circle' -p red {refine} -f mask,overlay -o one")
    seen.clear()
    monkeypatch.delattr(Segmenter, "load")
    clipseg(f"clipseg post run {refine} -f mask,overlay -o two")
    assert set(seen) == {1} and (len(seen) > 2 if closer else len(seen) == 2)
    one, two = (tree(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name] and "lock" not in name] == []
    settings = [json.loads((tmp_path / name / "run.json").read_text())["settings"] for name in ("one", "two")]
    assert settings[0]["refine_model"] == settings[1]["refine_model"]
    if closer:
        clipseg(f"clipseg post run {refine.removesuffix(closer)} -f mask -o plain")
        assert masks(tmp_path / "plain") != masks(tmp_path / "two")


@pytest.mark.usefixtures("credulous")
@pytest.mark.parametrize(("features", "encoded"), [("kept", 2), ("auto", 4)])
def test_kept_features_give_the_same_masks(
    clipseg: Program, refine: str, tmp_path: Path, seen: list[int], features: str, encoded: int
) -> None:
    """In a folder of one's own, what SAM has encoded is kept too. A damaged entry is encoded again."""
    folder(tmp_path / "imgs", 2, 1)
    for file in (tmp_path / "imgs").iterdir():
        os.utime(file, (1e9, 1e9))
    line = f"clipseg segment imgs -p 'a red circle' {refine} --features {features} -f mask"
    clipseg(f"{line} -o first")
    clipseg(f"{line} -o second")
    assert masks(tmp_path / "first") == masks(tmp_path / "second") and seen == [1] * encoded
    for entry in (tmp_path / "kept").rglob("*.sam"):
        entry.write_bytes(entry.read_bytes()[:-1])
        clipseg(f"{line} -o third")
        assert masks(tmp_path / "first") == masks(tmp_path / "third") and len(seen) == encoded + 1
        break


@pytest.mark.usefixtures("credulous")
@pytest.mark.parametrize("flags", ["--tile 2 --flip", "--orientation stored -f labels", "--invert --grow 2"])
def test_other_options_go_together_with_it(clipseg: Program, refine: str, tmp_path: Path, flags: str) -> None:
    """Tiles and mirrored views, other pixel frames, clean-up after the refinement."""
    folder(tmp_path / "imgs", 1)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(tmp_path / "imgs/0-disc.png").save(tmp_path / "imgs/turned.jpg", exif=turned)
    clipseg(f"clipseg segment imgs -p 'a red circle' -p red {refine} {flags} -f mask -o out")
    for record in records(tmp_path / "out/manifest.jsonl"):
        assert record["status"] == "ok" and all(mask["refined"] for mask in record["masks"])


@pytest.mark.usefixtures("credulous")
def test_labels_compete_after_the_refinement(clipseg: Program, refine: str, tmp_path: Path) -> None:
    """Refined masks that overlap in --mode binary do not in --mode labels, and lose no pixel together."""
    folder(tmp_path / "imgs", 1)
    line = f"clipseg segment imgs -p 'a red circle' -p red {refine} -f mask"
    clipseg(f"{line} -o binary")
    clipseg(f"{line} --mode labels -o labels")
    (a, b), (c, d) = (
        [cv2.imdecode(np.frombuffer(data, np.uint8), 0) > 0 for data in masks(tmp_path / name).values()]
        for name in ("binary", "labels")
    )
    assert (a & b).any() and not (c & d).any() and ((a | b) == (c | d)).all()


def test_what_was_held_back_is_recorded_and_counted(clipseg: Program, refine: str, tmp_path: Path) -> None:
    """The random network disagrees: the guided mask stays, with the reason. The summary counts such images."""
    folder(tmp_path / "imgs", 2, 1)
    line = "clipseg segment imgs -p 'a red circle' -f mask"
    told = clipseg(f"{line} {refine} -o out").stderr
    clipseg(f"{line} --refine guided -o guided")
    assert masks(tmp_path / "out") == masks(tmp_path / "guided")
    reasons = [record["masks"][0]["held_back"] for record in records(tmp_path / "out/manifest.jsonl")]
    assert [reason.startswith("SAM ") for reason in reasons] == [True, False, True] and reasons[1] == ""
    assert "found in 2 of 3 images" in told and "2 not refined by SAM" in told
    summary = json.loads((tmp_path / "out/run.json").read_text())["summary"]
    assert summary["labels"]["a red circle"]["held_back"] == 2
    assert "2 not refined by SAM" in clipseg(f"{line} {refine} -o out").stderr  # of resumed images too


def test_the_network_is_a_setting_of_the_run(clipseg: Program, refine: str, tmp_path: Path) -> None:
    """A run does not go on with another SAM, or with other parts."""
    folder(tmp_path / "imgs", 1)
    line = "clipseg segment imgs -p 'a red circle' -f mask -o out"
    clipseg(f"{line} {refine}")
    assert "refine_parts: null there, 3 now" in clipseg(f"{line} {refine} --refine-parts 3", expect=1).stderr
    assert "refine_closer: null there, true now" in clipseg(f"{line} {refine} --refine-closer", expect=1).stderr
    other = write_sam(tmp_path / "other", seed=2)
    assert "refine_model: " in clipseg(f"{line} --refine sam --refine-model {other}", expect=1).stderr


@pytest.mark.parametrize(
    ("model", "code", "told"),
    [("sam2.1-tiny", 1, "clipseg models pull sam2.1-tiny"), ("no/such-sam", 1, "not in"), ("nothing", 2, "no model"),
     ("rd64", 2, "is a CLIPSeg model"), ("sam2.1-tiny@x..y", 2, "is not a revision")],
)  # fmt: skip
def test_a_network_that_is_not_here_is_one_clear_error(
    clipseg: Program, tmp_path: Path, model: str, code: int, told: str
) -> None:
    """Before anything is written, in one line that says what to do."""
    folder(tmp_path / "imgs", 1)
    done = clipseg(f"clipseg segment imgs -p red --offline --refine sam --refine-model {model} -o out", expect=code)
    assert told in done.stderr and len(done.stderr.splitlines()) == 1 and not (tmp_path / "out/manifest.jsonl").exists()


def test_a_batch_too_big_for_the_memory_is_halved() -> None:
    """Until each item fits. One that never fits has no result; another error is not taken for a lack of memory."""
    tried = list[int]()

    def work(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        if len(items) > 3 or 5 in items:
            raise MemoryError
        return [10 * item for item in items]

    assert in_halves(work, range(8)) == [0, 10, 20, 30, 40, None, 60, 70]
    assert tried == [8, 4, 2, 2, 4, 2, 1, 1, 2] and in_halves(work, []) == []
    with pytest.raises(ZeroDivisionError):
        in_halves(lambda items: [1 // item for item in items], [1, 0])


@pytest.mark.usefixtures("credulous")
@pytest.mark.parametrize("stage", ["encode", "mask"])
def test_an_image_for_which_memory_never_suffices_fails_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Whether SAM's encoder or its decoder lacks it. The other images, which fit alone, are refined."""
    folder(tmp_path / "imgs", 3)
    save(tmp_path / "imgs/grey.png", cv2.circle(np.full((133, 150, 3), 120, np.uint8), (75, 65), 33, (214, 40, 40), -1))
    encode, decode = Sam.encode, Sam.decode

    def little(self: Sam, images: Sequence[Any]) -> Any:
        if len(images) > 1 or (images[0][0] == 120).all():
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return encode(self, images)

    def less(self: Sam, embedding: Any, prompts: Any, height: int, width: int) -> Any:
        if height == 133:
            raise MemoryError
        return decode(self, embedding, prompts, height, width)

    monkeypatch.setattr(Sam, *(("encode", little) if stage == "encode" else ("decode", less)))
    found, _ = run(4, "a red circle")
    error = found.pop("grey.png").error
    assert isinstance(error, ImageError) and (error.kind, error.stage) == ("out_of_memory", stage)
    assert "SAM" in str(error) and len(found) == 3 and all(record.masks[0].refined for record in found.values())


@pytest.mark.slow
def test_worker_processes_write_the_same_bytes(shell: Shell, tmp_path: Path) -> None:
    """With the bundled networks: two workers and one, and a run that is resumed. Its masks are those of SAM."""
    folder(tmp_path / "imgs", 4, 1)
    line = "clipseg segment imgs -p 'a red circle' --refine sam -f mask"
    shell(f"{line} -j 1 -o one")
    shell(f"{line} -j 2 -o two")
    (next((tmp_path / "two").rglob("2-disc.png"))).unlink()
    shell(f"{line} -j 2 -o two")
    assert masks(tmp_path / "one") == masks(tmp_path / "two")
    one, two = (records(tmp_path / name / "manifest.jsonl") for name in ("one", "two"))
    assert one == two and sum(record["masks"][0]["refined"] for record in one) == 4
