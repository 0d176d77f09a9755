"""The command line as a shell sees it: real lines, real pipes, real exit codes. The model is the bundled `shapes`."""

import base64
import json
import os
import pty
import re
import shutil
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pictures import Shell, iou, picture, records, save


@pytest.fixture
def imgs(tmp_path: Path) -> Path:
    """Four pictures in a small tree."""
    for index, name in enumerate(("a.jpg", "b.png", "sub/c.jpg", "sub/deep/d.webp")):
        save(tmp_path / "imgs" / name, picture(160 + 16 * index, 120, index))
    return tmp_path / "imgs"


def test_a_folder_and_a_phrase_give_masks_overlays_and_a_manifest(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """The tree is mirrored; masks have the picture's size and only 0 and 255; the manifest and run.json tell it all."""
    done = shell("clipseg segment imgs -p 'a red circle' -p sky=blue")
    out = tmp_path / "clipseg-out"
    rows = records(out / "manifest.jsonl")
    assert [row["image"] for row in rows] == [f"imgs/{n}" for n in ("a.jpg", "b.png", "sub/c.jpg", "sub/deep/d.webp")]
    assert done.stdout.splitlines() == [f"clipseg-out/{mask['path']}" for row in rows for mask in row["masks"]]
    for row in rows:
        assert row["v"] == 1 and row["status"] == "ok"
        mask = cv2.imread(str(out / row["masks"][0]["path"]), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (row["height"], row["width"]) and set(np.unique(mask)) <= {0, 255}
        truth = cv2.circle(np.zeros_like(mask), (mask.shape[1] // 2, mask.shape[0] // 2), 30, 255, -1)
        assert iou(mask, truth) > 0.8
        first = row["masks"][0]
        assert first["area"] == np.count_nonzero(mask) and first["label"] == first["prompt"] == "a red circle"
        assert first["area_frac"] == pytest.approx(first["area"] / mask.size, abs=1e-6)
        assert row["masks"][1]["label"] == "sky" and row["masks"][1]["prompt"] == "blue"
        overlay = cv2.imread(str(out / row["overlay"]))
        assert overlay.shape == (*mask.shape, 3)
    assert (out / "masks/a-red-circle/sub/deep/d.png").is_file() and (out / "masks/sky/a.png").is_file()
    run = json.loads((out / "run.json").read_text())
    assert run["command"][:3] == ["clipseg", "segment", "imgs"] and run["model"]["name"] == "shapes"
    assert run["model"]["revision"] is None, "a commit id is never invented"
    assert done.stderr.count(" on cpu in ") == 1, "device and dtype are told once"


def test_two_runs_give_the_same_bytes(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """Everything but run.json is equal byte for byte between two runs of one command."""
    shell("for out in one two; do clipseg segment imgs -p circle -f mask -f soft -f overlay -o $out; done")
    one, two = (
        {p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()}
        for d in (tmp_path / "one", tmp_path / "two")
    )
    assert one.keys() == two.keys() and len(one) == 4 * 3 + 4
    assert {path for path in one if one[path] != two[path]} == {Path("run.json")}


def test_a_soft_map_is_the_mask_before_its_threshold(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """soft > 255 t is the mask, to the pixel, at any threshold."""
    shell("clipseg segment imgs/a.jpg -p circle -f mask,soft -t 0.37 -o out")
    row = records(tmp_path / "out/manifest.jsonl")[0]["masks"][0]
    mask, soft = (cv2.imread(str(tmp_path / "out" / row[key]), cv2.IMREAD_UNCHANGED) for key in ("path", "soft"))
    assert np.array_equal(mask > 0, soft > 255 * 0.37) and row["threshold"] == 0.37


def test_find_print0_feeds_a_null_separated_list(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """`find -print0 | clipseg segment --files-from - -0` takes any name, newlines and dashes and all."""
    for name in ("-dash.jpg", "new\nline.jpg", "*.jpg", "$(x).jpg", "%s.jpg"):
        shutil.copy(imgs / "a.jpg", imgs / name)
    shell("find imgs -name '*.jpg' -print0 | clipseg segment --files-from - -0 -p 'a circle' -o out")
    rows = records(tmp_path / "out/manifest.jsonl")
    assert {Path(row["image"]).name for row in rows} == {
        "a.jpg",
        "c.jpg",
        "-dash.jpg",
        "new\nline.jpg",
        "*.jpg",
        "$(x).jpg",
        "%s.jpg",
    }
    paths = [mask["path"] for row in rows for mask in row["masks"]]
    assert len(set(paths)) == 7 and all((tmp_path / "out" / path).is_file() and "\n" not in path for path in paths)


def test_json_goes_through_jq(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """`--json` prints the manifest's own lines on stdout and nothing else."""
    done = shell(
        "clipseg segment imgs -p circle -o out --json | tee all | jq -r '.masks[] | select(.area_frac > 0.1) | .path'"
    )
    assert (tmp_path / "all").read_text() == (tmp_path / "out/manifest.jsonl").read_text()
    assert all((tmp_path / "out" / path).is_file() for path in done.stdout.splitlines()) and done.stdout


def test_one_image_on_stdin_gives_its_mask_on_stdout(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """`- -o -` is a filter; with stdin and stdout piped it is the default, and nothing is left in the folder."""
    shell(
        "clipseg segment - -p 'a red circle' -o - < imgs/a.jpg > one.png\n"
        "clipseg segment -p 'a red circle' < imgs/a.jpg | cat > two.png"
    )
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as mask:
        assert mask.size == (160, 120) and mask.mode == "L"
    assert not (tmp_path / "clipseg-out").exists()


def test_one_image_to_one_file(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """-o FILE writes just that file: .png a mask, .jpg an overlay."""
    shell("clipseg segment imgs/a.jpg -p circle -o mask.png && clipseg segment imgs/a.jpg -p circle -p red -o seen.jpg")
    assert cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_UNCHANGED).shape == (120, 160)
    assert cv2.imread(str(tmp_path / "seen.jpg")).shape == (120, 160, 3)
    assert shell("clipseg segment imgs -p circle -o mask.png", expect=2).stderr.count("one image") == 1


def test_a_list_on_stdin(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """With no INPUTS and text on stdin, stdin is a list of paths; a missing one is a failed record, exit 3."""
    shell("printf 'imgs/a.jpg\\nimgs/none.jpg\\n' | clipseg segment -p circle -o out", expect=3)
    rows = records(tmp_path / "out/manifest.jsonl")
    assert [row["status"] for row in rows] == ["ok", "failed"] and rows[1]["error"]["class"] == "vanished"


def test_head_ends_both_ends_quietly(shell: Shell, imgs: Path) -> None:
    """`| head -1` closes our stdout: both ends exit 0 and stderr holds no traceback."""
    done = shell("clipseg segment imgs -p circle -o out | head -1; echo ${PIPESTATUS[@]}")
    assert done.stdout.splitlines() == ["out/masks/circle/a.png", "0 0"]
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr


def test_one_corrupt_file_costs_one_record(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """The others are done, the manifest says why, exit 3."""
    (imgs / "broken.jpg").write_bytes((imgs / "a.jpg").read_bytes()[:700])
    (imgs / "empty.png").touch()
    done = shell("clipseg segment imgs -p circle -o out", expect=3)
    rows = {row["image"]: row for row in records(tmp_path / "out/manifest.jsonl")}
    assert sum(row["status"] == "ok" for row in rows.values()) == 4 and len(rows) == 6
    assert (
        rows["imgs/broken.jpg"]["error"]["class"] == "corrupt" and rows["imgs/empty.png"]["error"]["class"] == "empty"
    )
    assert "imgs/broken.jpg" in done.stderr and not (tmp_path / "out/masks/circle/broken.png").exists()


def test_names_that_would_collide_keep_their_extension(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """`b.png` and `b.jpg` in one folder give four distinct outputs."""
    save(imgs / "b.jpg", picture(200, 120, 9))
    shell("clipseg segment imgs -p circle -o out")
    assert sorted(p.name for p in (tmp_path / "out/masks/circle").glob("*.png")) == ["a.png", "b.jpg.png", "b.png.png"]


def test_names_that_are_no_text_are_kept_exactly(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """A name that is not UTF-8 is processed, its bytes stand in the manifest, and the terminal is not altered."""
    raw = os.fsencode(tmp_path) + b"/imgs/\xff\x1b[31m.jpg"
    os.rename(os.fsencode(imgs / "a.jpg"), raw)
    done = shell("clipseg segment imgs -p circle -o out --limit 9")
    names = [
        base64.b64decode(row["image_b64"]) for row in records(tmp_path / "out/manifest.jsonl") if "image_b64" in row
    ]
    assert names == [b"imgs/\xff\x1b[31m.jpg"]
    assert "\x1b" not in done.stdout + done.stderr and all(
        (tmp_path / line).is_file() for line in done.stdout.splitlines()
    )


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("clipseg segment imgs", 2, "no prompt"),
        ("clipseg segment imgs -p ''", 2, "empty prompt"),
        ("clipseg segment imgs -p a -p a", 2, "twice"),
        ("clipseg segment imgs -p a -t 2", 2, "0 to 1"),
        ("clipseg segment imgs -p a -f gif", 2, "choose from mask, soft"),
        ("clipseg segment imgs -p a --no-such-flag", 2, "No such option"),
        ("clipseg segment imgs -p a -e tiff", 4, "no image"),
        ("mkdir none; clipseg segment none -p a", 4, "no image"),
        ("clipseg segment imgs -p \"$(printf 'word %.0s' {1..90})\" -o out", 2, "77"),
        ("clipseg segment imgs -p a -m /nowhere/at/all", 2, "shapes"),
        ("clipseg segment imgs -p a -m rd64", 1, "clipseg models pull"),
        ("clipseg segment imgs -p a -o imgs/a.jpg/out", 1, "cannot write"),
        ("clipseg segment imgs -p a --device cuda:7", 2, "cuda"),
        ("echo 'nonsense = 1' > clipseg.toml; clipseg segment imgs -p a", 2, "nonsense"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(shell: Shell, imgs: Path, line: str, code: int, says: str) -> None:
    """One clear message, the contract's exit code, no traceback."""
    done = shell(line, expect=code)
    assert says in done.stderr and "Traceback" not in done.stderr and not done.stdout


def test_a_terminal_on_stdin_is_not_waited_for(imgs: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """With no INPUTS and a terminal on stdin: usage error, exit 2, at once."""
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            ["clipseg", "segment", "-p", "a"],
            stdin=follower,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            timeout=20,
            check=False,
        )
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 2 and b"no input" in done.stderr


def test_a_preview_is_drawn_in_half_blocks(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """`--preview` on a terminal draws the overlay with 24-bit colours, no wider than it; piped, it draws nothing."""
    screen = "script -qec 'stty cols 60 rows 20; clipseg segment imgs --limit 1 -p red -o out --preview -q' /dev/null"
    drawn = [line for line in shell(screen).stdout.splitlines() if "▀" in line]
    assert 5 <= len(drawn) <= 18 and max(line.count("▀") for line in drawn) <= 60
    overlay = cv2.imread(str(tmp_path / "out/overlays/a.jpg"))
    colours = np.array(re.findall(r"38;2;(\d+);(\d+);(\d+)", "".join(drawn)), float)
    assert np.abs(colours.mean(0) - overlay[..., ::-1].reshape(-1, 3).mean(0)).max() < 12
    assert "▀" not in shell("clipseg segment imgs/a.jpg -p red -o piped --preview -q").stdout


def test_a_dry_run_names_what_it_would_write(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """-n lists every picture with its masks and touches nothing."""
    done = shell("clipseg segment imgs -p 'a cat' -n")
    assert done.stdout.splitlines()[0] == "imgs/a.jpg -> masks/a-cat/a.png" and len(done.stdout.splitlines()) == 4
    assert not (tmp_path / "clipseg-out").exists()


def test_flag_beats_variable_beats_file_beats_user(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """Precedence: flag > CLIPSEG_* > clipseg.toml > [tool.clipseg] > user config > default."""
    user = tmp_path / "config/clipseg/config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('threshold = "0.11"\nempty = "skip"\nlimit = 1\n')
    (tmp_path / "pyproject.toml").write_text('[tool.clipseg]\nthreshold = ["0.22"]\nprompt = ["circle"]\n')
    shell("clipseg segment imgs -o one")
    (tmp_path / "clipseg.toml").write_text('format = "mask"\n[segment]\nthreshold = ["0.33"]\n')
    shell("clipseg segment imgs -o two")
    shell("clipseg segment imgs -o three", CLIPSEG_THRESHOLD="0.44", CLIPSEG_PROMPT="a cat\nred")
    shell("clipseg segment imgs -o four -t 0.55 --empty write", CLIPSEG_THRESHOLD="0.44")
    found = {
        name: json.loads((tmp_path / name / "run.json").read_text())["settings"]
        for name in ("one", "two", "three", "four")
    }
    assert [[p["threshold"] for p in each["prompts"]] for each in found.values()] == [
        [0.22],
        [0.33],
        [0.44, 0.44],
        [0.55],
    ]
    assert [p["text"] for p in found["three"]["prompts"]] == ["a cat", "red"]
    assert found["one"]["empty"] == "skip" and "empty" not in found["four"], "defaults are left out"
    assert found["one"]["formats"] == ["mask", "overlay"] and found["two"]["formats"] == ["mask"]
    assert len(records(tmp_path / "one/manifest.jsonl")) == 1, "limit = 1 came from the user's file"


def test_an_absent_object_gets_an_empty_mask_or_none(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """An all-zero mask by default; with --empty skip no file and a null path; exit 0 both times."""
    shell(
        "clipseg segment imgs/a.jpg -p circle -t 1 -o one\n"
        "clipseg segment imgs/a.jpg -p circle -t 1 --empty skip -o two"
    )
    one, two = (records(tmp_path / name / "manifest.jsonl")[0]["masks"][0] for name in ("one", "two"))
    assert not cv2.imread(str(tmp_path / "one" / one["path"]), cv2.IMREAD_UNCHANGED).any()
    assert two["path"] is None and two["bbox"] is None and two["area"] == 0 and not (tmp_path / "two/masks").exists()


def test_a_run_never_segments_its_own_outputs(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """With the output inside the input, or the same folder, a second run finds the same four pictures."""
    for out in ("imgs/out", "imgs"):
        shell(f"clipseg segment imgs -p circle -o {out} && clipseg segment imgs -p circle -o {out}")
        assert len(records(tmp_path / out / "manifest.jsonl")) == 4


def test_an_interrupt_ends_with_130_and_143(imgs: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """SIGINT and SIGTERM end the run with their codes and without a traceback."""
    for index in range(60):
        shutil.copy(imgs / "a.jpg", imgs / f"more{index}.jpg")
    for signal, code in ((2, 130), (15, 143)):
        process = subprocess.Popen(
            ["clipseg", "segment", "imgs", "-p", "circle", "-o", f"out{code}", "-b", "1"],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()  # the first mask is there
        started = time.monotonic()
        process.send_signal(signal)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == code, errors
        assert "Traceback" not in errors and time.monotonic() - started < 5


def test_models_are_listed_and_found(shell: Shell) -> None:
    """`models list` names every alias; `models path` prints a folder, or says how to fetch the model, exit 1."""
    listed = shell("clipseg models list").stdout
    assert all(name in listed for name in ("rd64-refined", "rd64", "rd16", "shapes"))
    assert {row["name"] for row in json.loads(shell("clipseg models list --json").stdout)} >= {"rd64-refined", "shapes"}
    assert Path(shell("clipseg models path shapes").stdout.strip(), "config.json").is_file()
    assert "models pull" in shell("clipseg models path rd64", expect=1).stderr


def test_doctor_checks_the_numbers(shell: Shell) -> None:
    """`doctor` ends well where the bundled model finds a drawn disc on this machine's device and dtype."""
    told = shell("clipseg doctor").stdout
    assert "FAIL" not in told and "finds a drawn red circle" in told and "torch" in told


def test_the_help_is_quick_and_names_the_commands(shell: Shell) -> None:
    """`clipseg --help` and the bare command name every command."""
    told = shell("clipseg --help").stdout
    assert all(command in told for command in ("segment", "models", "doctor"))
