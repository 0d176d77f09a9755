"""The live page's server: in a thread of the test, shared by a module, or as a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from live import Process, Server, Start, fill, serving


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves two samples, one image more and a broken one in a thread, all encoded."""
    with serving(fill(tmp_path_factory.mktemp("small") / "photos", 2)) as server:
        server.until_encoded()
        yield server


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves all samples, one image more and a broken one in a thread, all encoded."""
    with serving(fill(tmp_path_factory.mktemp("samples") / "photos")) as server:
        server.until_encoded()
        yield server


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Iterator[Start]:
    """Starts `clipseg ui` on tmp_path/photos, with extra environment variables.

    Ask for it before `page`: a page must not outlive its server.
    """
    servers: list[Process] = []

    def begin(**variables: str) -> Process:
        servers.append(Process(tmp_path / "photos", environment | variables))
        return servers[-1]

    yield begin
    for server in servers:
        assert server.stop() == 130 and server.stderr == "", server.stderr


@pytest.fixture
def process(start: Start, tmp_path: Path) -> Process:
    """`clipseg ui` as a process, on all samples, one image more and a broken one."""
    fill(tmp_path / "photos")
    return start()
