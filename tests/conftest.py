"""What every test may use: the program inside this process or in a shell, and a browser."""

import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pictures import Program, Shell

# before anything loads torch: on a busy machine its threads would spin away the time that they wait for
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test uses what runs of the user have kept, or adds to it."""
    os.environ |= {"CLIPSEG_CACHE": str(tmp_path_factory.mktemp("cache")), "CLIPSEG_FEATURES": "none"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `clipseg` is this checkout's (or wheel's) and no configuration of the user counts."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CLIPSEG_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    home = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    # a cache of its own, which it must ask for: a run that keeps nothing is quicker
    cache = {"CLIPSEG_CACHE": str(tmp_path / "cache"), "CLIPSEG_FEATURES": "none"}
    return kept | home | cache | {"PATH": path, "CLIPSEG_MODEL": "shapes"}


@pytest.fixture
def shell(tmp_path: Path, environment: dict[str, str]) -> Shell:
    """Runs a real shell line in an empty folder, with `clipseg` on the path and `shapes` as the model."""
    return _shell(tmp_path, environment)


@pytest.fixture
def quick_environment(environment: dict[str, str]) -> dict[str, str]:
    """An environment in which `clipseg` has the fake network, and fails as `fake_network` describes."""
    import fake_network

    return environment | {"PYTHONPATH": fake_network.python_path()}


@pytest.fixture
def quick_shell(tmp_path: Path, quick_environment: dict[str, str]) -> Shell:
    """Runs a real shell line in which `clipseg` has the fake network: one second a run, not ten."""
    return _shell(tmp_path, quick_environment)


def _shell(folder: Path, environment: dict[str, str]) -> Shell:
    def run(line: str, expect: int | None = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-c", "set -o pipefail; " + line],
            cwd=folder,
            env=environment | extra,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=600,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def loaded() -> dict[Any, Any]:
    """The models that tests have loaded in this process, by what they were loaded with."""
    return {}


@pytest.fixture
def clipseg(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, loaded: dict[Any, Any]
) -> Program:
    """Runs a command line inside this process, in an empty folder: all is real but the start of a new process.

    A run has no worker processes, and a model is loaded once for all tests. Where a process itself is tested (signals,
    pipes, workers, imports), use `shell`.
    """
    from clipseg_cli.cli.main import main
    from clipseg_cli.model.sam import Sam
    from clipseg_cli.model.segmenter import Segmenter
    from clipseg_cli.run.engines import table as engines

    def once(load: Any, model: Any, **options: Any) -> Any:
        key = (load.__self__, str(model), *sorted(options.items()))
        if key not in loaded:
            loaded[key] = load(model, **options)
        return loaded[key]

    for network in (Segmenter, Sam):
        monkeypatch.setattr(network, "load", partial(once, network.load))
    monkeypatch.setitem(engines.ENGINES, "local", engines.inline)
    monkeypatch.chdir(tmp_path)

    def run(line: str, expect: int | None = 0, stdin: bytes = b"", **extra: str) -> subprocess.CompletedProcess[str]:
        program, *arguments = shlex.split(line)
        assert program == "clipseg"
        handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        streams = {name: io.TextIOWrapper(io.BytesIO(), errors="surrogateescape") for name in ("stdout", "stderr")}
        with monkeypatch.context() as patch:
            for name in os.environ.keys() - environment.keys():
                patch.delenv(name)
            for name, value in (environment | extra).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["clipseg", *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            try:
                main()
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
            finally:
                for name, handler in handlers.items():
                    signal.signal(name, handler)
        said = {}
        for name, stream in streams.items():
            stream.flush()
            said[name] = stream.buffer.getvalue().decode(errors="surrogateescape")  # type: ignore[attr-defined]
        if expect is not None:
            assert code == expect, f"exit {code}\n{said['stdout']}\n{said['stderr']}"
        return subprocess.CompletedProcess(line, code, said["stdout"], said["stderr"])

    return run


@pytest.fixture
def quick_clipseg(clipseg: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Runs a command line inside this process with the fake network."""
    import fake_network

    fake_network.use(monkeypatch)
    return clipseg


SLOW = 120_000  # milliseconds that a browser may take on a busy machine


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; without one on the path its tests are skipped, and pytest's summary says so."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("the pages are not tested: no Chromium on the path (Debian: apt install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=[*flags, "--disable-sync"], timeout=SLOW)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose test fails on a console error, on a dialog and on any request that leaves the machine."""
    context = browser.new_context(accept_downloads=True, viewport={"width": 1200, "height": 900})
    context.set_default_timeout(SLOW)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))

    def watch(request: Any) -> None:
        if request.url.startswith(("http", "ws")) and not request.url.startswith("http://127.0.0.1:"):
            wrong.append(request.url)

    page.on("request", watch)
    yield page
    page.evaluate("0")  # what has happened until here is told; what leaving the page breaks off does not count
    found = list(wrong)
    context.close()
    assert not found
