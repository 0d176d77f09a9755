"""Any sequence of runs, kills, losses and changes ends, after one more run, where a fresh run ends. The network is
`red`'s, and a kill is an exception that nothing catches; tests/test_crash.py has the real ones."""

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

import red
from clipseg_cli.errors import OutputError
from clipseg_cli.inputs.discovery import discover
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run import embeddings, engines, segment, work
from clipseg_cli.run.exemplars import Show
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.outputs import OutputOptions
from pictures import picture, records, save

NAMES = ("a.png", "a.jpg", "sub/b.png", "sub/c.jpg", "\u00e9.png", "-x.jpg", "sub/deep/d.png")
THRESHOLDS = ("0.2", "0.5", "0.8")


class Killed(BaseException):
    """Ends everything here and now."""


def die() -> None:
    """What `red.arm` calls."""
    raise Killed


class Folder(RuleBasedStateMachine):
    """A folder of pictures, its output directory, and what may happen to them."""

    @initialize()
    def begin(self) -> None:
        """Two pictures, nothing done."""
        self.place = Path(tempfile.mkdtemp())
        self.imgs, self.out, self.threshold, self.spoilt = self.place / "imgs", self.place / "out", "0.5", set[str]()
        for seed, name in enumerate(NAMES[:2]):
            save(self.imgs / name, picture(40, 32, seed))

    def teardown(self) -> None:
        """Leaves nothing."""
        red.disarm()
        shutil.rmtree(self.place)

    def segment(self, out: Path, threshold: str, resume: bool = True) -> None:
        """One run of the program in this process."""
        wanted = embeddings.want([Prompt("red", "red")])
        inputs = InputOptions((str(self.imgs),))
        request = segment.Request(
            ModelOptions("shapes"),
            wanted,
            (threshold,),
            MaskOptions(wanted.prompts, (), wanted.rules, wanted.texts),
            False,
            OutputOptions(str(out), ("mask", "overlay"), resume),
            inputs,
            (),
            Show(),
        )
        sources = discover(inputs, None, str(out))
        for _ in segment.segment(request, sources, lambda line: None, io.BytesIO()):
            pass

    def outputs(self) -> list[Path]:
        """Masks and overlays under their final names."""
        found = [path for kind in ("masks", "overlays") for path in (self.out / kind).rglob("*") if path.is_file()]
        return sorted(path for path in found if not path.name.startswith(".clipseg-tmp-"))

    @rule(name=st.sampled_from(NAMES), seed=st.integers(0, 9), corrupt=st.booleans())
    def add(self, name: str, seed: int, corrupt: bool) -> None:
        """A new picture, or another in its place; perhaps a broken one."""
        path = save(self.imgs / name, picture(40 + seed, 32, seed))
        if corrupt:
            path.write_bytes(path.read_bytes()[:60])

    @rule(which=st.integers(0, 50), delete=st.booleans())
    def lose(self, which: int, delete: bool) -> None:
        """An output is deleted, or cut short."""
        if found := self.outputs():
            path = found[which % len(found)]
            self.spoilt.add(str(path))
            if delete:
                path.unlink()
            else:
                os.truncate(path, path.stat().st_size // 2)

    @rule(line=st.sampled_from(["{", '{"v":1,"image":"imgs/a.p', "\u00e9\n", "[]\n"]), name=st.sampled_from(["m", "j"]))
    def scribble(self, line: str, name: str) -> None:
        """Somebody edits the manifest or the journal, or it ends in half a line."""
        path = self.out / ("manifest.jsonl" if name == "m" else ".clipseg-journal.jsonl")
        if path.exists():
            with path.open("a", encoding="utf-8") as file:
                file.write(line)

    @rule(point=st.sampled_from([*red.FILE_POINTS, *red.LINE_POINTS]), number=st.integers(1, 6))
    def kill(self, point: str, number: int) -> None:
        """A run that is killed, unless there is less to do than that."""
        red.arm(point, number, die)
        try:
            self.segment(self.out, self.threshold)
        except Killed:
            pass
        finally:
            red.disarm()

    @rule(threshold=st.sampled_from(THRESHOLDS))
    def change(self, threshold: str) -> None:
        """Other settings: refused and nothing touched where there is a run, then done over it."""
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
        """A run to its end."""
        self.segment(self.out, self.threshold)
        self.check()

    def check(self) -> None:
        """One row an image; rows, masks and overlays are those of a fresh run; nothing temporary is left."""
        fresh = self.place / "fresh"
        self.segment(fresh, self.threshold)
        rows, wanted = records(self.out / "manifest.jsonl"), records(fresh / "manifest.jsonl")
        assert sorted(map(str, rows)) == sorted(map(str, wanted))
        for row in wanted:
            for path in [mask["path"] for mask in row.get("masks", ())] + [row.get("overlay")]:
                assert path is None or (self.out / path).read_bytes() == (fresh / path).read_bytes(), path
        shutil.rmtree(fresh)
        self.spoilt.clear()
        assert not [*self.out.rglob(".clipseg-tmp-*")]

    @invariant()
    def whole(self) -> None:
        """Whatever happened, a file under a final name is whole, unless somebody else cut it."""
        for path in self.outputs() if hasattr(self, "out") else ():
            if str(path) not in self.spoilt:
                with Image.open(path) as image:
                    image.load()


def test_any_history_ends_in_the_same_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random histories of twelve events each."""
    monkeypatch.setattr(work, "load_model", red.model)
    monkeypatch.setitem(engines.ENGINES, "local", engines.inline)
    machine = Folder.TestCase
    machine.settings = settings(
        max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    machine().runTest()
