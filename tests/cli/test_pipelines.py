"""Real shell lines: pipes, lists and several programs. The model is the bundled `shapes`."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from pictures import SAMPLES, Shell, picture, records, save


def test_find_print0_feeds_a_null_separated_list(quick_shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """`find -print0 | clipseg segment --files-from - -0` takes any name, also with newlines and dashes."""
    names = ("-dash.jpg", "new\nline.jpg", "*.jpg", "$(x).jpg", "%s.jpg")
    for name in names:
        shutil.copy(imgs / "a.jpg", imgs / name)
    quick_shell("find imgs -name '*.jpg' -print0 | clipseg segment --files-from - -0 -p 'a circle' -o out")
    rows = records(tmp_path / "out/manifest.jsonl")
    assert {Path(row["image"]).name for row in rows} == {"a.jpg", "c.jpg", *names}
    paths = [mask["path"] for row in rows for mask in row["masks"]]
    assert len(set(paths)) == 7 and all((tmp_path / "out" / path).is_file() and "\n" not in path for path in paths)


def test_json_goes_through_jq(quick_shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """`--json` prints the manifest's records on stdout and nothing else. Their paths exist from the working directory,
    also when the run is resumed; the manifest's own are relative to the output folder."""
    done = quick_shell(
        "clipseg segment imgs -p circle -o out --json | tee all | jq -r '.masks[] | select(.area_frac > 0.1) | .path'"
    )
    printed = (tmp_path / "all").read_text()
    assert printed.replace('"out/', '"') == (tmp_path / "out/manifest.jsonl").read_text()
    assert all((tmp_path / path).is_file() for path in done.stdout.splitlines()) and done.stdout
    assert done.stderr.count("model fake") == 1
    assert quick_shell("clipseg segment imgs -p circle -o out --json").stdout == printed


def test_paths_end_with_nul_for_xargs(quick_shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """`--null` ends printed paths with NUL, so that `xargs -0` gets names with quotes and spaces whole."""
    shutil.copy(imgs / "a.jpg", imgs / 'it\'s "b".jpg')
    done = quick_shell("clipseg segment imgs -p circle -0 -o ./out | xargs -0 -n 1 ls")
    assert './out/masks/circle/it\'s "b".png' in done.stdout.splitlines()
    found = quick_shell("clipseg find imgs -p circle -0 --print paths | xargs -0 ls")
    assert found.stdout.splitlines() == sorted(str(path.relative_to(tmp_path)) for path in imgs.rglob("*.*"))


def test_head_ends_both_ends_quietly(shell: Shell, imgs: Path) -> None:
    """`| head -1` closes stdout: both ends exit 0 and stderr has no traceback. Device and precision are shown once."""
    done = shell("clipseg segment imgs -p circle -o out | head -1; echo ${PIPESTATUS[@]}")
    assert done.stdout.splitlines() == ["out/masks/circle/a.png", "0 0"]
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr
    assert done.stderr.count("model shapes on cpu in ") == 1


@pytest.mark.slow
def test_one_image_goes_through_pipes(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """`- -o -` is a filter. With stdin and stdout piped it is the default, and nothing is left in the folder."""
    shell(
        "clipseg segment - -p 'a red circle' -o - < imgs/a.jpg > one.png\n"
        "clipseg segment -p 'a red circle' < imgs/a.jpg | cat > two.png"
    )
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as mask:
        assert mask.size == (160, 120) and mask.mode == "L"
    assert not (tmp_path / "clipseg-out").exists()


@pytest.mark.slow
def test_an_embedding_goes_through_a_pipe(shell: Shell, tmp_path: Path) -> None:
    """`embed | segment --embedding -` gives the masks that the prompts give, byte for byte."""
    save(tmp_path / "imgs/a.png", picture())
    save(tmp_path / "ref.png", picture(200, 160, 5))
    prompts = "-p red --support disc=ref.png --support-box 60,40,80,80"
    shell(f"clipseg embed {prompts} | clipseg segment imgs --embedding - -f soft -o piped")
    shell(f"clipseg segment imgs {prompts} -f soft -o direct")
    for path in ("soft/red/a.png", "soft/disc/a.png"):
        assert (tmp_path / "piped" / path).read_bytes() == (tmp_path / "direct" / path).read_bytes()


@pytest.mark.slow
def test_lists_feed_oneshot(shell: Shell, tmp_path: Path) -> None:
    """`oneshot --support ref.png < list.txt`, and a NUL-separated list of `find`."""
    save(tmp_path / "ref.png", picture(200, 160, 5))
    save(tmp_path / "imgs/new\nline.jpg", picture())
    save(tmp_path / "imgs/a.jpg", picture())
    shell("echo imgs/a.jpg > list.txt; clipseg oneshot --support ref.png -o one < list.txt")
    shell("find imgs -type f -print0 | clipseg oneshot --support ball=ref.png --files-from - -0 -o two")
    assert len(records(tmp_path / "one/manifest.jsonl")) == 1 and len(records(tmp_path / "two/manifest.jsonl")) == 2


@pytest.mark.slow
def test_the_best_images_are_the_head_of_find(shell: Shell) -> None:
    """`clipseg find ... --print paths | head -3`."""
    line = f"clipseg find {SAMPLES}/images/ -p 'a red circle' --print paths"
    assert shell(f"{line} | head -3").stdout.splitlines() == shell(line).stdout.splitlines()[:3]


@pytest.mark.slow
def test_a_score_decides_in_jq(shell: Shell, tmp_path: Path) -> None:
    """`clipseg eval out gt --json | jq -e '.miou > 0.6'`."""
    shell(f"clipseg segment {SAMPLES}/images -p a-red-circle='a red circle' -p a-blue-star='a blue star' -o out -q")
    shell(f"clipseg eval out {SAMPLES}/masks --json | jq -e '.miou > 0.6'")
    shell(f"clipseg eval out {SAMPLES}/masks --json | jq -e '.miou > 0.999'", expect=1)
