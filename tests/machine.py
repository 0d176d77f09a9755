"""A home directory with its own model cache, processes that look for models in it, and a disk that is full.

huggingface_hub reads its environment at import, so every call needs a new process. Starting one takes half a second;
`Forks` takes a few hundredths: it imports the other libraries once and forks.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]

LOCATE = """
import dataclasses, json, sys
from clipseg_cli.errors import ClipsegError
from clipseg_cli.model import checkpoint_files, hub, registry
hub.PAUSE = 0.01
options = json.loads(sys.argv[2])
if "kinds" in options:
    options["kinds"] = tuple(kind for kind in checkpoint_files.KINDS if kind.name in options["kinds"])
answers = []
for model in json.loads(sys.argv[1]):
    try:
        if model == "?":
            rows = registry.installed()
        else:
            rows = (registry.locate(model, **options),)
        answers.append([dataclasses.asdict(row) for row in rows])
    except ClipsegError as error:
        answers.append({"error": type(error).__name__, "message": str(error)})
print(json.dumps({"answers": answers, "torch": "torch" in sys.modules}, default=str))
"""

SERVER = """
import json, os, resource, signal, sys, traceback
import huggingface_hub.errors, huggingface_hub.utils
huggingface_hub.HfApi, huggingface_hub.hf_hub_url, huggingface_hub.get_session
assert "torch" not in sys.modules
for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
    del sys.modules[name]  # a child imports it again, and so reads the environment of its machine
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    if os.fork():
        continue
    job = json.loads(line)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(1, f"{json.dumps([job['index'], code])}\\n".encode())
        os._exit(0)
    code = 1
    try:
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(job["environment"])
        for number, file in (1, job["stdout"]), (2, job["stderr"]):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if job["limit"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
        sys.argv = ["-c", *job["arguments"]]
        exec(job["code"], {"__name__": "__main__"})
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
"""


class Forks:
    """Runs Python code in forks of one process, which have imported neither huggingface_hub nor torch."""

    def __enter__(self) -> Self:
        """Starts the process that forks."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self.server.communicate()

    def run(self, jobs: Sequence[dict[str, Any]]) -> list[int]:
        """Runs all jobs at the same time. Returns their exit codes."""
        assert self.server.stdin is not None and self.server.stdout is not None
        for index, job in enumerate(jobs):
            self.server.stdin.write(json.dumps(job | {"index": index}) + "\n")
        self.server.stdin.flush()
        codes = dict(json.loads(self.server.stdout.readline()) for _ in jobs)
        return [codes[index] for index in range(len(jobs))]


class Machine:
    """A home directory and the hub that its processes talk to. By default no hub listens at `url`."""

    def __init__(
        self, home: Path, url: str = "http://127.0.0.1:9", forks: Forks | None = None, **environment: str
    ) -> None:
        """`environment` is added to that of this process, less its HF_ and XDG_ variables. Without `forks`, every call
        starts a new process.
        """
        self.home, self.forks = home, forks
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
        folders = {"HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "xdg"), "HF_ENDPOINT": url}
        self.environment = {**inherited, "PYTHONPATH": str(ROOT), **folders, **environment}
        self.file_limit: int | None = None  # bytes: longer files cannot be written, as on a full disk
        self.torch = False  # whether the last process imported torch
        self.stderr = ""  # of the last process

    @property
    def cache(self) -> Path:
        """The cache of the hub's library."""
        return self.home / "hf" / "hub"

    def run(self, code: str, *arguments: str, **environment: str) -> str:
        """Runs Python code in one process. Returns its stdout."""
        if self.forks is not None:
            return self.run_together(code, *arguments, times=1, **environment)[0]
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command, env=self.environment | environment, capture_output=True, text=True, timeout=120, cwd=self.home
        )
        self.stderr = done.stderr
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run_together(self, code: str, *arguments: str, times: int, **environment: str) -> list[str]:
        """Runs the same code in several forks at the same time. Returns the stdout of each."""
        assert self.forks is not None
        job = {"code": code, "arguments": arguments, "environment": self.environment | environment}
        job |= {"folder": str(self.home), "limit": self.file_limit}
        outputs = [
            {name: str(self.home / f".{name}{index}") for name in ("stdout", "stderr")} for index in range(times)
        ]
        codes = self.forks.run([job | output for output in outputs])
        texts = [{name: Path(file).read_text() for name, file in output.items()} for output in outputs]
        self.stderr = "".join(text["stderr"] for text in texts)
        assert not any(codes), self.stderr
        return [text["stdout"] for text in texts]

    def ask(self, *models: str, **options: Any) -> list[Any]:
        """Returns the result of `locate` for each model in one process. "?" stands for a call of `installed`.

        The option `kinds` holds names of kinds.
        """
        answer = json.loads(self.run(LOCATE, json.dumps(models), json.dumps(options)))
        self.torch = answer["torch"]
        return list(answer["answers"])

    def ask_together(self, model: str, times: int) -> list[Any]:
        """Returns the results of `locate` for one model in several processes that run at the same time."""
        texts = self.run_together(LOCATE, json.dumps([model]), "{}", times=times)
        return [json.loads(text)["answers"] for text in texts]

    def find(self, model: str, **options: Any) -> dict[str, Any]:
        """Returns the checkpoint that `locate` finds. Nothing may be printed to stderr."""
        (rows,) = self.ask(model, **options)
        assert isinstance(rows, list), rows
        assert options.get("progress") or not self.stderr
        return dict(rows[0])

    def fail(self, model: str, **options: Any) -> str:
        """Returns the message of the ModelError, which is one line. Nothing may be printed to stderr."""
        (answer,) = self.ask(model, **options)
        assert isinstance(answer, dict) and answer["error"] == "ModelError", answer
        assert "\n" not in answer["message"] and not self.stderr
        return str(answer["message"])


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Lets this process write no file of more bytes, like a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
