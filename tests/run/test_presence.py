"""Is it there at all: the presence score, `find`, `embed`, templates, and the competition of labels."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save as packed

from checkpoints import write_checkpoint
from clipseg_cli.errors import UsageError
from clipseg_cli.masks import soft_maps
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.prompts import highlight
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run import embedding_file, query
from clipseg_cli.run.embed import embed
from pictures import SAMPLES, Shell, picture, records, save


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """The bundled model in exact arithmetic."""
    return Segmenter.load("shapes", device="cpu", dtype="fp32")


def shows_a_red_circle() -> dict[str, bool]:
    """Which samples show one, by their ground truth."""
    truths = {path.stem: cv2.imread(str(path), 0) for path in (SAMPLES / "masks/a-red-circle").iterdir()}
    return {path.stem: bool(truths.get(path.stem, np.zeros(1)).any()) for path in (SAMPLES / "images").iterdir()}


def test_find_ranks_what_shows_it_first(shell: Shell) -> None:
    """`find --print paths | head -3` gives pictures that show it; JSON lines are the manifest's records, ranked."""
    top = shell(f"clipseg find {SAMPLES}/images/ -p 'a red circle' --print paths | head -3").stdout.splitlines()
    shown = shows_a_red_circle()
    assert len(top) == 3 and all(shown[Path(line).stem] for line in top)
    rows = [
        json.loads(line)
        for line in shell(f"clipseg find {SAMPLES}/images -p 'a red circle' --json -q").stdout.splitlines()
    ]
    presences = [row["masks"][0]["presence"] for row in rows]
    assert len(rows) == len(shown) and presences == sorted(presences, reverse=True)
    assert all(row["masks"][0]["path"] is None for row in rows), "nothing is written"


def test_find_leaves_out_what_is_below_and_says_what_failed(shell: Shell, tmp_path: Path) -> None:
    """`--min-presence` filters, a broken picture is told and exit code 3, and no output folder appears."""
    save(tmp_path / "imgs/disc.png", picture())
    Image.new("RGB", (96, 96), (200, 205, 210)).save(tmp_path / "imgs/blank.png")
    (tmp_path / "imgs/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = shell("clipseg find imgs -p 'a red circle' --min-presence 0.5 --print paths", expect=3)
    assert done.stdout.splitlines() == ["imgs/disc.png"] and "broken.png" in done.stderr
    assert not (tmp_path / "clipseg-out").exists()
    table = shell("clipseg find imgs/disc.png -p red -p circle --print none -q").stdout
    assert "presence" in table and "disc.png" in table and "circle" in table


def test_an_absent_object_leaves_its_mask_empty(shell: Shell, tmp_path: Path) -> None:
    """With `--min-presence` above its score a label's mask is all zero, or no file; its soft map stays."""
    save(tmp_path / "a.png", picture())
    shell("clipseg segment a.png -p 'a red circle' -p 'a green star' -f mask -f soft -o plain")
    disc, star = records(tmp_path / "plain/manifest.jsonl")[0]["masks"]
    assert disc["presence"] > star["presence"] and 0 <= star["presence"] <= star["score"] <= 1
    between = (disc["presence"] + star["presence"]) / 2
    ask = f"clipseg segment a.png -p 'a red circle' -p 'a green star' -t 0 --min-presence {between}"
    shell(f"{ask} -f mask -f soft -o out; {ask} -f mask --empty skip -o skipped")
    kept, gone = records(tmp_path / "out/manifest.jsonl")[0]["masks"]
    assert kept["area"] > 0 and gone["area"] == 0 and gone["bbox"] is None
    assert not cv2.imread(str(tmp_path / "out" / gone["path"]), 0).any()
    assert (tmp_path / "out" / gone["soft"]).read_bytes() == (tmp_path / "plain" / star["soft"]).read_bytes()
    assert records(tmp_path / "skipped/manifest.jsonl")[0]["masks"][1]["path"] is None


def test_presence_is_the_mean_of_the_surest_part() -> None:
    """Equal to a sort of all probabilities; one pixel that errs moves it little, an object moves it much."""
    rng = np.random.default_rng(3)
    logits = rng.normal(-4, 1, (224, 224)).astype(np.float32)
    count = round(soft_maps.PRESENCE_SHARE * logits.size)
    surest = np.sort(1 / (1 + np.exp(-logits.astype(np.float64))), axis=None)[-count:]
    assert soft_maps.presence(logits) == pytest.approx(surest.mean(), abs=1e-6)
    before = soft_maps.presence(logits)
    logits[0, 0] = 8
    assert soft_maps.presence(logits) < before + 0.02
    logits[50:90, 50:90] = 8
    assert soft_maps.presence(logits) > 0.99
    assert soft_maps.presence(np.full((1, 1), 2, np.float32)) == pytest.approx(0.8808, abs=1e-4)


def test_the_similarity_is_clips_own(shell: Shell, segmenter: Segmenter, tmp_path: Path) -> None:
    """`--similarity` adds the cosine of image and prompt embeddings to each record; expressions have none."""
    save(tmp_path / "a.png", picture())
    line = shell("clipseg segment a.png -p circle --expr 'red AND circle' --similarity --dtype fp32 --json").stdout
    plain, joined = json.loads(line)["masks"]
    image = np.asarray(Image.open(tmp_path / "a.png"))
    one, other = segmenter.embed_images([image]).values[0], segmenter.embed(["circle"]).values[0]
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert plain["similarity"] == pytest.approx(float(cosine), abs=2e-4) and "similarity" not in joined


def test_an_embedding_goes_through_a_pipe(shell: Shell, tmp_path: Path) -> None:
    """`embed | segment --embedding -` gives the masks that the prompts themselves give, byte for byte."""
    save(tmp_path / "imgs/a.png", picture())
    save(tmp_path / "ref.png", picture(200, 160, 5))
    what = "-p red --support disc=ref.png --support-box 60,40,80,80"
    shell(f"clipseg embed {what} | clipseg segment imgs --embedding - -f soft -o kept")
    shell(f"clipseg embed {what} -o e.safetensors; clipseg segment imgs --embedding e.safetensors -f soft -o filed")
    shell(f"clipseg segment imgs {what} -f soft -o direct")
    for path in ("soft/red/a.png", "soft/disc/a.png"):
        same = {(tmp_path / out / path).read_bytes() for out in ("kept", "filed", "direct")}
        assert len(same) == 1
    told = records(tmp_path / "kept/manifest.jsonl")[0]["masks"]
    assert [mask["prompt"] for mask in told] == ["red", "exemplar ref.png"]
    with safe_open(str(tmp_path / "e.safetensors"), "np") as file:
        assert file.get_tensor("embeddings").shape == (2, int(file.metadata()["dim"]))
        assert json.loads(file.metadata()["labels"]) == ["red", "disc"] and file.metadata()["model"] == "shapes"


def test_an_embedding_of_another_model_is_refused(shell: Shell, tmp_path: Path) -> None:
    """The message names both models; a copy of the model under another name fits; rubbish is told as such."""
    save(tmp_path / "a.png", picture())
    write_checkpoint(tmp_path / "other")
    shell("clipseg embed -p red -o e.safetensors")
    told = shell("clipseg segment a.png --embedding e.safetensors -m ./other", expect=2).stderr
    assert "shapes" in told and "./other" in told and not (tmp_path / "clipseg-out/masks").exists()
    shell('cp -r "$(clipseg models path shapes)" copy; clipseg segment a.png --embedding e.safetensors -m ./copy')
    shell("head -c 300 e.safetensors > cut.safetensors")
    for wrong in ("cut.safetensors", "a.png", "nothing.safetensors"):
        assert wrong in shell(f"clipseg segment a.png --embedding {wrong}", expect=2).stderr
    assert "given twice" in shell("clipseg segment a.png -p red --embedding e.safetensors", expect=2).stderr
    about = {"format": embedding_file.FORMAT, "labels": '["a"]', "sources": '["a"]', "model": "m", "clip": "c"}
    rows = {"embeddings": np.zeros((1, 4), np.float32)}
    assert embedding_file.unpack(packed(rows, about), "x")[0].label == "a"
    for missing in about:
        kept = {name: value for name, value in about.items() if name != missing}
        with pytest.raises(UsageError, match="not a file of `clipseg embed`"):
            embedding_file.unpack(packed(rows, kept), "x")


def test_templates_are_averaged(segmenter: Segmenter) -> None:
    """The embedding of a phrase is the mean over the templates; exemplars are not framed; {} must stand once."""
    frames = ("a photo of a {}", "the {}")
    wanted = query.build([Prompt("s", "star")], [], (), (), frames)
    mean = segmenter.embed(["a photo of a star", "the star"]).values.mean(0)
    np.testing.assert_allclose(embed(segmenter, wanted).values[0], mean, atol=1e-6)
    with pytest.raises(UsageError, match=r"\{\}"):
        query.build([Prompt("s", "star")], templates=["a photo"])


def test_labels_compete_for_each_pixel(shell: Shell, tmp_path: Path) -> None:
    """`--mode labels`: masks do not overlap, the surest label wins; `-f labels` is the same as one indexed picture."""
    save(tmp_path / "a.png", picture())
    ask = "clipseg segment a.png -p red -p circle -p 'a star' -f mask -f soft -f labels"
    shell(f"{ask} --mode labels -o out; {ask} -o both; {ask} --mode labels --background 0.99 -o sure")
    row = records(tmp_path / "out/manifest.jsonl")[0]
    index = np.asarray(Image.open(tmp_path / "out" / row["labels"]))
    softs = np.stack([cv2.imread(str(tmp_path / "out" / mask["soft"]), 0).astype(int) for mask in row["masks"]])
    cuts = softs > 255 * np.array([mask["threshold"] for mask in row["masks"]])[:, None, None]
    levels = np.where(cuts, softs, -1)
    expected = np.where(levels.max(0) >= 0, levels.argmax(0) + 1, 0)
    np.testing.assert_array_equal(index, expected)
    for number, mask in enumerate(row["masks"], 1):
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out" / mask["path"]), 0) > 0, index == number)
    names = (tmp_path / "out/labels/classes.txt").read_text().splitlines()
    assert names == ["background", "red", "circle", "a star"]
    overlapping = records(tmp_path / "both/manifest.jsonl")[0]
    assert overlapping["masks"][0]["area"] >= row["masks"][0]["area"]
    both = np.asarray(Image.open(tmp_path / "both" / overlapping["labels"]))
    np.testing.assert_array_equal(both, index)
    sure = np.asarray(Image.open(tmp_path / "sure" / row["labels"]))
    np.testing.assert_array_equal(sure, np.where(levels.max(0) > 255 * 0.99, expected, 0))
    (tmp_path / "many.txt").write_text("".join(f"thing {number}\n" for number in range(255)))
    assert "254" in shell("clipseg segment a.png -P many.txt -f voc", expect=2).stderr
    assert "--mode labels" in shell("clipseg segment a.png -p red --background 0.2", expect=2).stderr


def test_an_indexed_picture_has_the_overlays_colours(shell: Shell, tmp_path: Path) -> None:
    """Palette entry i + 1 is the colour that label i has elsewhere; entry 0 is black."""
    from clipseg_cli.outputs import drawing

    save(tmp_path / "a.png", picture())
    shell("clipseg segment a.png -p red -f labels -o out")
    with Image.open(tmp_path / "out/labels/a.png") as file:
        assert file.mode == "P" and file.getpalette()[:6] == [0, 0, 0, *drawing.colour(0)]


def test_the_tables_of_the_page_are_measured_through_the_program(segmenter: Segmenter) -> None:
    """`shapes.prompt_benchmark`: every recipe, number of exemplars and blend is scored; AP equals its definition."""
    from shapes import prompt_benchmark

    marks = prompt_benchmark.one_shot(segmenter, prompt_benchmark.one_shot_questions(2))
    assert list(marks["recipe"]) == list(highlight.RECIPES) and marks["exemplars"]["1"] == marks["text share"]["0.0"]
    assert all(0 <= value <= 1 for rows in marks.values() for value in rows.values())
    rng = np.random.default_rng(5)
    scores, shown = rng.normal(size=40), rng.random(40) < 0.3
    order = sorted(range(40), key=lambda index: -scores[index])
    hits = [sum(shown[order[: rank + 1]]) / (rank + 1) for rank in range(40) if shown[order[rank]]]
    assert prompt_benchmark.average_precision(scores, shown) == pytest.approx(np.mean(hits))
