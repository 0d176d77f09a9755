"""`run.json`: its settings decide whether a run may be resumed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clipseg_cli.errors import OutputError
from clipseg_cli.model import registry
from clipseg_cli.outputs.manifest import MANIFEST, RUN
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run import run_file
from clipseg_cli.run.query.terms import build
from clipseg_cli.run.request import Request
from clipseg_cli.run.work import make_job
from clipseg_cli.settings.flag import fill
from clipseg_cli.settings.inputs import DecodeOptions, InputOptions
from clipseg_cli.settings.masks import CleanUp, MaskOptions
from clipseg_cli.settings.model import EncodeOptions, ModelOptions
from clipseg_cli.settings.outputs import ExportOptions, OutputOptions
from clipseg_cli.settings.run import RunOptions, WorkerOptions
from clipseg_cli.storage import store
from output_folder import temporary_files
from pictures import Program, picture, save

PLAIN = Request(build([Prompt("cat", "a cat")]), ModelOptions("shapes"))
ALWAYS = {"model", "weights", "prompts", "formats"}


def settings_of(request: Request) -> dict[str, object]:
    """Returns the settings in run.json, as they are read back."""
    checkpoint = registry.locate(request.model.model)
    job = make_job(request, checkpoint, request.output.formats or ("mask", "overlay"))
    document = run_file.describe(request, job, checkpoint)
    read: dict[str, object] = json.loads(run_file.to_json(document))["settings"]
    return read


def test_options_at_their_defaults_are_left_out() -> None:
    """Model, prompts with their thresholds, and formats are always there, so that an option with a new default does
    not change the settings of earlier runs."""
    found = settings_of(PLAIN)
    assert found.keys() == ALWAYS and found["model"] == "shapes" and found["formats"] == ["mask", "overlay"]
    assert found["prompts"] == [{"label": "cat", "text": "a cat", "threshold": registry.locate("shapes").threshold}]


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"model": ModelOptions("shapes", dtype="bf16", backend="transformers")},
         {"dtype": "bf16", "backend": "transformers"}),
        ({"encode": EncodeOptions(tile=2, flip=True, size=96, similarity=True)},
         {"tile": 2, "flip": True, "size": 96, "similarity": True}),
        ({"masks": MaskOptions(clean=CleanUp("guided", fill_holes="all"), min_presence=0.2, empty="skip")},
         {"refine": "guided", "fill_holes": "all", "min_presence": 0.2, "empty": "skip"}),
        ({"output": OutputOptions(export=ExportOptions(polygons=True, backdrop=(1, 2, 3)))},
         {"polygons": True, "backdrop": [1, 2, 3]}),
        ({"inputs": InputOptions(decoding=DecodeOptions(max_pixels=99)), "run": RunOptions(checksum=True)},
         {"max_pixels": 99, "checksum": True}),
    ],
)  # fmt: skip
def test_options_that_change_the_outputs_are_settings(changes: dict[str, object], settings: dict[str, object]) -> None:
    """Each stands under its own name, without groups."""
    found = settings_of(replace(PLAIN, **changes))
    assert {key: value for key, value in found.items() if key not in ALWAYS} == settings


def test_options_that_do_not_change_the_outputs_are_no_settings(tmp_path: Path) -> None:
    """The batch size, kept features, inputs, workers and what is printed may differ when a run is resumed."""
    other = replace(
        PLAIN,
        encode=EncodeOptions(batch_size=1, features=str(tmp_path / "kept")),
        inputs=InputOptions(("a.jpg",), limit=3, shard=(1, 4)),
        model=ModelOptions("shapes", offline=True, device="cpu"),
        output=OutputOptions(str(tmp_path), report=True, fsync=True),
        run=RunOptions(resume=False, max_errors=3, workers=WorkerOptions(2)),
    )
    assert settings_of(other) == settings_of(PLAIN)


def test_thresholds_and_expressions_are_recorded_with_their_prompts() -> None:
    """An expression is marked as such."""
    query = build([Prompt("cat", "a cat", 0.7)], [Prompt("none", "NOT a cat")])
    found = settings_of(replace(PLAIN, query=query, masks=MaskOptions(("0.2",))))
    assert found["prompts"] == [
        {"label": "cat", "text": "a cat", "threshold": 0.7},
        {"label": "none", "text": "NOT a cat", "threshold": 0.2, "boolean": True},
    ]


def test_the_inputs_are_recorded_for_status() -> None:
    """All input options, the command, and where and when it ran."""
    request = replace(PLAIN, command=("segment", "imgs"), inputs=InputOptions(("imgs",), limit=3))
    checkpoint = registry.locate("shapes")
    found = run_file.describe(request, make_job(request, checkpoint, ()), checkpoint)
    assert fill(InputOptions, found["inputs"]) == request.inputs and found["inputs"]["raw"] == "preview"
    assert found["command"] == ["clipseg", "segment", "imgs"]
    assert found["model"] == {"name": "shapes", "repo": None, "revision": None, "path": str(registry.BUNDLED)}
    assert {"versions", "started", "directory", "host", "pid"} <= found.keys()


def test_a_folder_is_admitted_or_refused(tmp_path: Path) -> None:
    """Admits an empty folder and one of equal settings. Refuses other settings, showing both values, and a manifest
    without its run.json. Without `resume` the earlier run is forgotten."""
    document = {"settings": {"flip": True, "tile": 2}}
    assert run_file.admit(tmp_path, document, resume=True)
    (tmp_path / RUN).write_bytes(run_file.to_json(document | {"seconds": 3.0}))
    assert run_file.admit(tmp_path, document, resume=True)
    with pytest.raises(OutputError) as caught:
        run_file.admit(tmp_path, {"settings": {"tile": 3, "flip": True}}, resume=True)
    assert str(caught.value).splitlines()[1:-1] == ["  tile: 2 there, 3 now"] and "--overwrite" in str(caught.value)
    for damaged in ("", "[]", '{"settings": 3}', "{"):
        (tmp_path / RUN).write_text(damaged)
        with pytest.raises(OutputError, match="damaged or lost"):
            run_file.admit(tmp_path, document, resume=True)
    (tmp_path / RUN).unlink()
    (tmp_path / MANIFEST).touch()
    with pytest.raises(OutputError, match="damaged or lost"):
        run_file.admit(tmp_path, document, resume=True)
    assert not run_file.admit(tmp_path, document, resume=False) and not (tmp_path / MANIFEST).exists()


def test_an_error_shows_at_most_ten_differences(tmp_path: Path) -> None:
    """One for each prompt, not one of all prompts, and how many more there are. No label reaches the terminal raw."""
    rows = [{"label": f"p\x1b{number}", "text": "x", "threshold": 0.5} for number in range(40)]
    (tmp_path / RUN).write_bytes(run_file.to_json({"settings": {"prompts": rows}}))
    for now, lines, last in (([], 13, "... and 30 more differences"), (rows[::-1], 3, "prompts: in another order")):
        with pytest.raises(OutputError) as caught:
            run_file.admit(tmp_path, {"settings": {"prompts": now}}, resume=True)
        message = str(caught.value).splitlines()
        assert len(message) == lines and message[-2] == f"  {last}" and "\x1b" not in str(caught.value)


def settle(folder: Path, settings: object, **more: object) -> None:
    """Writes the run.json of a run."""
    folder.mkdir(exist_ok=True)
    (folder / RUN).write_bytes(run_file.to_json({"settings": settings, **more}))


def test_a_folder_is_chosen(tmp_path: Path) -> None:
    """The folder of the same run, wherever it is; otherwise the first that holds none. A damaged run.json, a manifest
    without one and a file of that name are not free; an empty folder is. Other names do not count."""
    base = str(tmp_path / "out")

    def choose(tile: int) -> tuple[str, bool]:
        return run_file.choose_folder(base, lambda there, _: there.get("settings") == {"tile": tile})

    assert choose(1) == (base, False)
    settle(tmp_path / "out", {"tile": 1}, seconds=3.0)
    assert choose(1) == (base, True) and choose(2) == (f"{base}-2", False)
    settle(tmp_path / "out-7", {"tile": 2})
    assert choose(2) == (f"{base}-7", True) and choose(3) == (f"{base}-2", False)
    (tmp_path / "out-2").mkdir()
    assert choose(3) == (f"{base}-2", False)
    (tmp_path / "out-2" / MANIFEST).touch()
    (tmp_path / "out-3").touch()
    (tmp_path / "out-4").mkdir()
    (tmp_path / "out-4" / RUN).write_text("{")
    for name in ("out-05", "out-1", "out-x", "out-\u0665", "outer"):
        settle(tmp_path / name, {"tile": 3})
    assert choose(3) == (f"{base}-5", False)
    assert run_file.choose_folder(base + "/", lambda there, out: out == base) == (base, True)
    for elsewhere in ("s3://bucket/out", str(tmp_path / "none/out")):
        assert run_file.choose_folder(elsewhere, lambda there, _: True) == (elsewhere, False)


def test_a_folder_that_is_taken_holds_the_run(tmp_path: Path) -> None:
    """From then on others see it. The note says where a run goes if that is not the first folder."""
    base = str(tmp_path / "out")
    assert run_file.take_folder(base, {"settings": {"tile": 1}}, True) == (base, "")
    assert json.loads((tmp_path / "out" / RUN).read_bytes())["settings"] == {"tile": 1}
    out, told = run_file.take_folder(base, {"settings": {"tile": 2}}, True)
    assert out == f"{base}-2" and told == f"{base} holds a run with other settings: this run goes to {out}"
    assert run_file.take_folder(base, {"settings": {"tile": 2}}, True) == (out, f"this run is in {out}")
    assert run_file.take_folder(base, {"settings": {"tile": 2}}, False)[0] == out
    assert run_file.take_folder(base, {"settings": {"tile": 3}}, False) == (base, "")
    assert not temporary_files(tmp_path)


def test_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    """A run.json without `seconds` is that of a run that did not end: its temporary files are deleted."""
    (tmp_path / RUN).write_bytes(run_file.to_json({"settings": {}}))
    (tmp_path / "masks").mkdir()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (tmp_path / "masks" / f"{store._prefix(int(dead.stdout))}a.png").touch()
    assert temporary_files(tmp_path)
    assert not run_file.admit(tmp_path, {"settings": {}}, resume=True)
    assert not temporary_files(tmp_path)


def test_a_run_is_resumed_with_another_batch_size_and_not_in_another_precision(
    quick_clipseg: Program, tmp_path: Path
) -> None:
    """The former gives the same files, the latter may not."""
    save(tmp_path / "a.png", picture(48, 40))
    quick_clipseg("clipseg segment a.png -p red -o out")
    assert "(1 before)" in quick_clipseg("clipseg segment a.png -p red -o out -b 1 --features kept -j 2").stderr
    message = quick_clipseg("clipseg segment a.png -p red -o out --dtype bf16", expect=1).stderr
    assert 'dtype: null there, "bf16" now' in message
