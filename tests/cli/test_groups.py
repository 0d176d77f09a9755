"""Commands made of option groups: their help, their flags, and the words that give the same options again."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer

from clipseg_cli.cli import cache, main, models
from clipseg_cli.cli.groups import PANELS, command
from clipseg_cli.errors import UsageError
from clipseg_cli.settings.evaluation import ProtocolOptions
from clipseg_cli.settings.flag import Flag, Option, fill, options, spelled
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.model import EncodeOptions, ModelOptions
from clipseg_cli.settings.outputs import OutputOptions
from clipseg_cli.settings.prompts import PromptOptions
from clipseg_cli.settings.run import ConsoleOptions, RunOptions
from clipseg_cli.settings.training import NewDecoder, Recipe
from pictures import Program

COMMANDS: dict[str, Any] = {
    f"{prefix}{each.name}": each.cls
    for prefix, app in (("", main.app), ("models ", models.app), ("cache ", cache.app))
    for each in app.registered_commands
}
# what a command line must have for its options to be read
REQUIRED = {
    "post": "run", "report": "run", "status": "run", "merge": "run", "eval": "pred gt", "calibrate": "run gt",
    "train": "data -o model", "protocol": "pascal-5i data", "models pull": "rd64",
}  # fmt: skip
ENABLING: dict[str, dict[str, Any]] = {"background": {"mode": "labels"}, "touching": {"instances": True}}
# a value for every option of every group that is not its default
VALUES: dict[type, dict[str, Any]] = {
    PromptOptions: {
        "prompt": ("a cat", "dog=a -dog", "-x"), "prompts_file": "p.csv", "expr": ("a AND NOT b",),
        "support": ("ref.png", "cat=c.png"), "support_mask": ("m.png", "n.png"), "support_box": ("1,2,3,4", "5,6,7,8"),
        "support_prompt": "a mug", "embedding": ("e.safetensors", "-"), "template": ("a photo of a {}", "the {}"),
        "highlight": "dim", "mix": 0.25, "show_exemplar": "seen.png",
    },
    InputOptions: {
        "inputs": ("imgs", "a b.jpg"), "files_from": "-", "null": True, "extensions": (".jpg", ".png"),
        "exclude": ("*.tmp", "-x"), "max_depth": 3, "follow": True, "hidden": True, "limit": 7, "shard": (2, 5),
        "frames": "1:9:2", "every": 2, "fps": 12.5, "start": 1.5, "end": 90.0, "smooth": 0.25,
        "raw": "develop", "bands": (4, 3, 2), "stretch": (2.5, 98.0), "max_pixels": 1000,
    },
    OutputOptions: {
        "out": "out", "formats": ("mask", "coco"), "json": True, "print_": "none", "report": True, "preview": True,
        "orientation": "stored", "palette": True, "polygons": True, "backdrop": (255, 0, 9),
        "decontaminate": True, "metadata": "keep",
        "codec": "vp9", "fsync": True, "images": "copy", "flat": True, "split": (0.5, 0.25, 0.25),
        "name": ("mask={label}/{dir}/{stem}.png", "overlay={dir}/{stem}.jpg"),
        "polarity": "black", "layout": "kohya", "keep": True,
    },
    MaskOptions: {
        "threshold": ("0.4", "cat=otsu"), "refine": "grabcut", "refine_model": "sam2.1-small", "refine_parts": 3,
        "refine_closer": True,
        "peak": 0.6, "open": 1, "close": 2, "fill_holes": "all",
        "min_area": 0.005, "keep_largest": 3, "grow": -4, "invert": True, "feather": 2.5, "min_presence": 0.1,
        "mode": "labels", "background": 0.3, "instances": True, "touching": "divided", "empty": "skip",
    },
    ModelOptions: {
        "model": "./mine", "offline": True, "device": "cuda:0,1", "dtype": "fp16", "backend": "transformers",
    },
    EncodeOptions: {
        "tile": 2, "flip": True, "size": 96, "batch_size": 5, "similarity": True, "features": "kept",
        "features_limit": 500_000_000,
    },
    RunOptions: {
        "resume": False, "dry_run": True, "max_errors": 4, "fail_fast": True, "jobs": 2, "engine": "ray",
        "ray_address": "here:1", "checksum": True,
    },
    ConsoleOptions: {
        "quiet": True, "verbose": True, "progress": "plain", "no_color": True, "debug": True, "config": "mine.toml",
    },
    Recipe: {
        "recipe": "paper",
        "steps": 9, "batch": 3, "rate": 0.01, "absent": 0.3, "blend": 0.4, "augment": "off", "hold": 0.2, "check": 5,
        "patience": 2, "replay_weight": 0.5, "seed": 6,
    },
    NewDecoder: {
        "from_clip": "openai/clip", "reduce_dim": 16, "feedforward": 512,
        "extract_layers": (3, 7, 9), "refined": True, "side": 224,
    },
    ProtocolOptions: {
        "protocol": "coco-20i", "data": Path("coco"), "folds": (2, 3), "split": "val", "seed": 1, "limit": 8,
    },
}  # fmt: skip


def taken(kind: Any) -> Iterator[Option]:
    """Yields the options that a command takes, from the annotations of its function."""
    hints = get_type_hints(kind.function, include_extras=True)
    for name, hint in hints.items():
        if is_dataclass(hint):
            yield from (option for option in options(hint) if option.name not in kind.without)
        elif name != "return":
            base, flag = get_args(hint)
            yield Option(name, base, flag, None, flag.panel, False)


def parsed(group: Any, words: list[str]) -> Any:
    """Returns the group that a command makes of these words."""
    found = []

    def run(options: Any) -> None:
        found.append(options)

    run.__annotations__["options"] = group
    app = typer.Typer()
    command(app, "run")(run)
    app(words, standalone_mode=False)
    return found[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_shows_every_option_once_under_its_panel(clipseg: Program, name: str) -> None:
    """And no other, the panels in a fixed order, each line within the screen's width."""
    sections: dict[str, list[str]] = {}
    for line in clipseg(f"clipseg {name} --help").stdout.splitlines():
        assert len(line) <= 110, line
        if title := re.fullmatch(r"(\w+):", line):
            assert title[1] not in sections
            sections[title[1]] = []
        elif sections and (row := re.match(r"  (\S.*?)(  |$)", line)):
            sections[list(sections)[-1]].append(row[1])
    panels = [each for each in sections if each in PANELS]
    assert panels == sorted(panels, key=PANELS.index)
    found = sorted((title, re.split(r"[ ,/]+", row)) for title, rows in sections.items() for row in rows)
    shown = [
        (title, next((word for word in words if word.startswith("--")), words[0].lower())) for title, words in found
    ]
    expected = [("Options", "--help")]
    for option in taken(COMMANDS[name]):
        row = (option.flag.metavar or option.name) if option.flag.argument else option.long()
        expected.append((option.panel or "Options", row.lower()))
    assert sorted(shown) == sorted(expected)


@pytest.mark.parametrize("group", VALUES, ids=lambda group: group.__name__)
def test_the_words_of_a_group_give_it_again(group: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`spelled` gives words that are parsed to an equal group: for every option alone, and for all together."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").touch()
    values = VALUES[group]
    known = {option.name: option for option in options(group)}
    assert values.keys() == known.keys(), "every option has a value in this test"
    needed = {name: values[name] for name, option in known.items() if option.default is MISSING}
    if needed.keys() == set():
        assert spelled(group()) == [] and parsed(group, []) == group()
    for name, value in values.items():
        assert value != known[name].default
        given = needed | {name: value} | ENABLING.get(name, {})
        assert parsed(group, spelled(fill(group, given))) == fill(group, given), name
    together = fill(group, {name: value for name, value in values.items() if name != "fps"})  # --every excludes it
    assert parsed(group, spelled(together)) == together


@pytest.mark.parametrize("text", ["0%", "0.5%", "7%", "0.7%", "33.3333333%", "100%", "12"])
def test_an_area_is_spelled_as_it_was_written(text: str) -> None:
    """A share of the image is a percentage again, to the bit."""
    area = parsed(MaskOptions, ["--min-area", text]).clean.min_area
    assert spelled(MaskOptions(clean=fill(MaskOptions, {"min_area": area}).clean))[1:] in ([text], [])


def bounded() -> Iterator[tuple[str, Option]]:
    """Yields each option with a range, with one command that takes it."""
    seen = set()
    for name, kind in COMMANDS.items():
        for option in taken(kind):
            key = (option.long(), option.flag.low, option.flag.high)
            if (option.flag.low, option.flag.high) != (None, None) and key not in seen:
                seen.add(key)
                yield name, option


@pytest.mark.parametrize(
    ("name", "option"), list(bounded()), ids=lambda each: each if isinstance(each, str) else each.long()
)
def test_a_number_out_of_range_is_a_usage_error(clipseg: Program, name: str, option: Option) -> None:
    """Exit 2 with the name of the flag, before anything is read."""
    kind = next((each for each in get_args(option.type) if each is not type(None)), option.type)
    step = 0.5 if kind is float else 1
    wrong = [option.flag.low - step] if option.flag.low is not None else []
    wrong += [option.flag.high + step] if option.flag.high is not None else []
    wrong += [float("nan")] if kind is float else []
    for value in wrong:
        line = f"clipseg {name} {REQUIRED.get(name, '')} {option.long()} {value:g}"
        message = clipseg(line, expect=2).stderr
        assert f"{option.long()} {value}" in message and "give a number" in message


def test_a_command_may_leave_out_options(tmp_path: Path) -> None:
    """They are no flags, and keep their defaults."""
    assert {option.name for option in taken(COMMANDS["embed"])}.isdisjoint({"expr", "embedding", "show_exemplar"})
    found = []

    def run(console: ConsoleOptions) -> None:
        found.append(console)

    app = typer.Typer()
    command(app, without=("debug", "config"))(run)
    app(["--quiet"], standalone_mode=False)
    assert found == [ConsoleOptions(quiet=True)]
    with pytest.raises(Exception, match="No such option"):
        app(["--debug"], standalone_mode=False)


def test_a_value_that_cannot_be_parsed_names_its_flag() -> None:
    """Before the function runs."""
    for words in (["--shard", "4/4"], ["--max-depth", "0"]):
        with pytest.raises(UsageError, match=words[0]):
            parsed(InputOptions, words)
    assert Flag("").parse is None


def test_usual_options_are_read_without_pydantic() -> None:
    """Texts, choices and defaults need no conversion by typer: a fresh process answers without importing pydantic."""
    code = (
        "import sys; from clipseg_cli.cli import main; "
        "sys.argv = ['clipseg', 'segment', 'no-such.jpg', '-p', 'a cat', '--dtype', 'fp32', '-f', 'mask', '-n']\n"
        "try: main.main()\n"
        "except SystemExit: print('pydantic' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr.split()[-1] == "False", done.stderr
    assert "no-such.jpg -> " in done.stdout


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--dtype", "int4", "is not one of"),
        ("--batch-size", "two", "valid integer"),
        ("--mix", "x", "valid number"),
        ("--refine", "SAM", "is not one of"),
    ],
)
def test_what_cannot_be_converted_is_a_usage_error(flag: str, value: str, message: str, clipseg: Program) -> None:
    """Values that are neither text nor a choice go through typer, which refuses them."""
    shown = clipseg(f"clipseg segment a.jpg -p a {flag} {value}", expect=2).stderr
    assert message in shown and flag in shown
