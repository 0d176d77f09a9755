"""Any sequence of runs, kills, losses and changes ends, after one more run, where a fresh run ends.

The network is fake, and a kill is an exception that nothing catches; test_crash.py has the real ones.
"""

import io
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from PIL import Image

import fake_network
import kill_points
from clipseg_cli.errors import OutputError
from clipseg_cli.inputs.finding.discovery import discover
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run import segment
from clipseg_cli.run.engines import table as engines
from clipseg_cli.run.query import terms
from clipseg_cli.run.request import Request
from clipseg_cli.run.summary import Summary
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.model import EncodeOptions, ModelOptions
from clipseg_cli.settings.outputs import OutputOptions
from clipseg_cli.settings.run import RunOptions
from output_folder import temporary_files
from pictures import picture, records, save

NAMES = ("a.png", "a.jpg", "sub/b.png", "sub/c.jpg", "\u00e9.png", "-x.jpg", "sub/deep/d.png")
THRESHOLDS = ("0.2", "0.5", "0.8")


class Killed(BaseException):
    """Ends everything here and now."""


def die() -> None:
    """Takes the place of SIGKILL."""
    raise Killed


class History(RuleBasedStateMachine):
    """A folder of images, its output folder, and what may happen to them."""

    @initialize()
    def begin(self) -> None:
        """Starts with two images and no run."""
        self.folder = Path(tempfile.mkdtemp())
        self.imgs, self.out, self.threshold = self.folder / "imgs", self.folder / "out", "0.5"
        self.damaged = set[str]()
        for seed, name in enumerate(NAMES[:2]):
            save(self.imgs / name, picture(40, 32, seed))

    def teardown(self) -> None:
        """Removes everything."""
        kill_points.disarm()
        shutil.rmtree(self.folder)

    def segment(self, out: Path, threshold: str, resume: bool = True) -> None:
        """Runs the program once in this process."""
        inputs = InputOptions((str(self.imgs),))
        request = Request(
            terms.build([Prompt("red", "red")]),
            ModelOptions("shapes"),
            inputs=inputs,
            encode=EncodeOptions(features="none"),
            masks=MaskOptions((threshold,)),
            output=OutputOptions(str(out), ("mask", "overlay")),
            run=RunOptions(resume=resume),
        )
        sources = discover(inputs, None, str(out))
        for _ in segment.segment(request, sources, lambda line, passing=False: None, io.BytesIO(), Summary()):
            pass

    def outputs(self) -> list[Path]:
        """Returns the masks and overlays under their final names."""
        found = [path for kind in ("masks", "overlays") for path in (self.out / kind).rglob("*") if path.is_file()]
        return sorted(path for path in found if not path.name.startswith(".clipseg-tmp-"))

    @rule(name=st.sampled_from(NAMES), seed=st.integers(0, 9), corrupt=st.booleans())
    def add(self, name: str, seed: int, corrupt: bool) -> None:
        """Writes a new image, or another in its place, perhaps a corrupt one."""
        path = save(self.imgs / name, picture(40 + seed, 32, seed))
        if corrupt:
            path.write_bytes(path.read_bytes()[:60])

    @rule(which=st.integers(0, 50), delete=st.booleans())
    def lose(self, which: int, delete: bool) -> None:
        """Deletes an output, or cuts it short."""
        if found := self.outputs():
            path = found[which % len(found)]
            self.damaged.add(str(path))
            if delete:
                path.unlink()
            else:
                os.truncate(path, path.stat().st_size // 2)

    @rule(line=st.sampled_from(["{", '{"v":2,"image":"imgs/a.p', "\u00e9\n", "[]\n"]), name=st.sampled_from(["m", "j"]))
    def scribble(self, line: str, name: str) -> None:
        """Adds rubbish or half a line to the manifest or the journal."""
        path = self.out / ("manifest.jsonl" if name == "m" else ".clipseg-journal.jsonl")
        if path.exists():
            with path.open("a", encoding="utf-8") as file:
                file.write(line)

    @rule(point=st.sampled_from(kill_points.POINTS), number=st.integers(1, 6))
    def kill(self, point: str, number: int) -> None:
        """Runs, and is killed unless there is less to do than that."""
        kill_points.arm(point, number, die)
        try:
            self.segment(self.out, self.threshold)
        except Killed:
            pass
        finally:
            kill_points.disarm()

    @rule(threshold=st.sampled_from(THRESHOLDS))
    def change(self, threshold: str) -> None:
        """Other settings are refused and nothing is touched if there is a run. Then overwrites it."""
        if threshold != self.threshold and (self.out / "run.json").exists():
            before = {path: path.read_bytes() for path in self.out.rglob("*") if path.is_file()}
            with pytest.raises(OutputError, match="other settings"):
                self.segment(self.out, threshold)
            assert before == {path: path.read_bytes() for path in self.out.rglob("*") if path.is_file()}
        self.threshold = threshold
        self.segment(self.out, threshold, resume=False)
        self.check()

    @rule()
    def finish(self) -> None:
        """Runs to the end."""
        self.segment(self.out, self.threshold)
        self.check()

    def check(self) -> None:
        """Asserts one row per image; rows, masks and overlays of a fresh run; and no temporary file."""
        fresh = self.folder / "fresh"
        self.segment(fresh, self.threshold)
        rows, expected = records(self.out / "manifest.jsonl"), records(fresh / "manifest.jsonl")
        assert sorted(map(str, rows)) == sorted(map(str, expected))
        for row in expected:
            for path in [mask["path"] for mask in row["masks"]] + [row["files"].get("overlay")]:
                assert not path or (self.out / path).read_bytes() == (fresh / path).read_bytes(), path
        # a run that was overwritten may leave files that no record names any more
        self.damaged = {path for path in self.damaged if not (fresh / os.path.relpath(path, self.out)).exists()}
        shutil.rmtree(fresh)
        assert not temporary_files(self.out)

    @invariant()
    def whole(self) -> None:
        """Whatever happened, a file under a final name is whole, unless `lose` damaged it."""
        for path in self.outputs() if hasattr(self, "out") else ():
            if str(path) not in self.damaged:
                with Image.open(path) as image:
                    image.load()


@pytest.mark.parametrize("examples", [5, pytest.param(25, marks=pytest.mark.slow)])
def test_any_history_ends_in_the_same_tree(monkeypatch: pytest.MonkeyPatch, examples: int) -> None:
    """Random histories of twelve events each."""
    fake_network.use(monkeypatch)
    monkeypatch.setitem(engines.ENGINES, "local", engines.inline)
    machine = History.TestCase
    machine.settings = settings(
        max_examples=examples,
        stateful_step_count=12,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    machine().runTest()
