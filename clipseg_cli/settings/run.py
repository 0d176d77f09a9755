"""How a run is carried out. No option here changes a mask."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import Flag

Engine = Literal["local", "ray"]
Progress = Literal["auto", "bar", "plain", "none"]


def _jobs(text: str) -> int | None:
    """Parses --jobs. None means auto. Raises UsageError."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UsageError(f"--jobs {text}: give auto, or a number of at least 1")
    return int(text)


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How many worker processes a run uses, and where they run."""

    PANEL: ClassVar[str] = "Run"

    jobs: Annotated[
        int | None,
        Flag(
            "Number of worker processes, each with its own copy of the model. auto: by cores and free memory.",
            ("--jobs", "-j"),
            "N|auto",
            parse=_jobs,
            default="auto",
        ),
    ] = None
    engine: Annotated[
        Engine, Flag("local: workers are processes of this machine. ray: actors of a Ray cluster.", panel="Advanced")
    ] = "local"
    ray_address: Annotated[
        str | None,
        Flag(
            "Address of the Ray cluster, like HOST:PORT.",
            metavar="ADDRESS",
            default="RAY_ADDRESS, else a local Ray",
            panel="Advanced",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Whether to resume an earlier run, and when to stop."""

    PANEL: ClassVar[str] = "Run"

    resume: Annotated[
        bool,
        Flag("Skip finished images, or start again and overwrite the run.", ("--resume/--overwrite",)),
    ] = True
    dry_run: Annotated[bool, Flag("Show what would be done; write nothing.", ("--dry-run", "-n"))] = False
    max_errors: Annotated[int | None, Flag("Stop once N images have failed.", metavar="N", low=1)] = None
    fail_fast: Annotated[bool, Flag("Stop at the first image that fails.")] = False
    workers: WorkerOptions = field(default_factory=WorkerOptions)
    checksum: Annotated[
        bool,
        Flag("Detect changed images by content instead of size and time.", panel="Advanced", decides=True),
    ] = False

    @property
    def most_errors(self) -> int | None:
        """The number of failed images at which the run stops; None: no limit."""
        return 1 if self.fail_fast else self.max_errors


@dataclass(frozen=True, slots=True)
class ConsoleOptions:
    """What is shown on stderr."""

    PANEL: ClassVar[str] = "Run"

    quiet: Annotated[bool, Flag("Show only errors on stderr.", ("--quiet", "-q"))] = False
    verbose: Annotated[
        bool,
        Flag("Show a line per image on stderr: each label's share of it and presence score.", ("--verbose", "-v")),
    ] = False
    progress: Annotated[Progress, Flag("Progress on stderr. auto: a bar on a terminal, else plain lines.")] = "auto"
    no_color: Annotated[bool, Flag("No colours on stderr. NO_COLOR=1 does the same.", panel="Advanced")] = False
    debug: Annotated[bool, Flag("Show the traceback of an error.", panel="Advanced")] = False
    config: Annotated[
        str | None,
        Flag("Read defaults from this file only.", metavar="FILE", default="clipseg.toml and others", panel="Advanced"),
    ] = None
