"""The request for a run: the filled option groups, checked as far as possible without a model."""

import importlib.util
import os
import re
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

from clipseg_cli.errors import UsageError
from clipseg_cli.inputs.finding import folders
from clipseg_cli.inputs.kinds import EXTENSIONS
from clipseg_cli.masks import matting
from clipseg_cli.masks.refine import REFINEMENTS
from clipseg_cli.outputs import names
from clipseg_cli.outputs.names import Names
from clipseg_cli.outputs.writers import one_file
from clipseg_cli.outputs.writers.one_file import OneFile
from clipseg_cli.prompts.slugs import unique_slugs
from clipseg_cli.prompts.thresholds import resolve_thresholds
from clipseg_cli.run.engines import gpus
from clipseg_cli.run.query.terms import Query
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.model import EncodeOptions, ModelOptions, devices
from clipseg_cli.settings.names import patterns, split, templates
from clipseg_cli.settings.outputs import Format, OutputOptions, complete
from clipseg_cli.settings.run import RunOptions

OUT = "clipseg-out"  # the default output folder


@dataclass(frozen=True, slots=True)
class Request:
    """The options of a run. Raises UsageError if they do not fit together."""

    query: Query
    model: ModelOptions
    command: tuple[str, ...] = ()  # the words of the command line, for run.json
    inputs: InputOptions = field(default_factory=InputOptions)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    masks: MaskOptions = field(default_factory=MaskOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        resolve_thresholds(self.masks.threshold, self.query.prompts, 0)
        REFINEMENTS[self.masks.clean.refine].check()
        if self.output.export.decontaminate:
            matting.check("--decontaminate")
        _check_engine(self)
        if self.output.name or self.output.layout:
            _check_names(self)
        if self.to_stdout and self.output.printing.json:
            raise UsageError(
                f"-o {self.out} and --json both write to stdout: name a folder with -o DIR, or leave one out"
            )

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats that an output folder gets."""
        return complete(self.output.formats)

    @property
    def names(self) -> Names:
        """How the files of an output folder are named."""
        return Names.of(self.output.name, self.formats)

    @property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """What --name and --layout call files, as paths below the output folder."""
        labels = [prompt.label for prompt in self.query.prompts]
        return patterns(self.output.name, labels, self.formats, self.output.export.images)

    @property
    def out(self) -> str:
        """Where the outputs go: a folder, a URL, a file, or stdout ("-", "-.pgm")."""
        return (self.output.out or OUT).removeprefix("file://")

    @property
    def file(self) -> OneFile | None:
        """The single file to write, or None if the output is a folder. Raises UsageError if it cannot be written."""
        return one_file.choose(self.out, self.output.formats, len(self.query.prompts), self.output.export)

    @property
    def to_stdout(self) -> bool:
        """Whether the outputs follow one another on stdout. Raises UsageError if `file` does."""
        file = self.file
        return file is not None and file.path == one_file.STDOUT

    def to(self, out: str) -> "Request":
        """Returns this request with another output."""
        return replace(self, output=replace(self.output, out=out))

    def per_device(self) -> list["Request"]:
        """Returns this request once per device, each time with that device alone.

        `cuda` is every GPU that this process may use, except for Ray, which assigns them itself.
        """
        names = devices(self.model.device)
        if names == ("cuda",) and self.run.workers.engine == "local":
            names = tuple(f"cuda:{number}" for number in range(len(gpus.memories()))) or names
        return [replace(self, model=replace(self.model, device=device)) for device in names]

    def per_worker(self, processes: int) -> list["Request"]:
        """Returns this request once per worker process, each time with one device, in turn."""
        return [*islice(cycle(self.per_device()), processes)]


def _check_names(request: Request) -> None:
    if request.file is not None:
        raise UsageError(
            f"-o {request.out} is the name of the output: leave out --name and --layout, or name a folder with -o DIR"
        )
    slugs = unique_slugs(prompt.label for prompt in request.query.prompts)
    names.check(request.output.name, request.formats, slugs, one_file.NAMED)
    if any(folders.same(path, request.out) for path in request.inputs.inputs):
        for form, template in templates(request.output.name).items():
            root, suffix = os.path.splitext(template)
            if suffix in EXTENSIONS and len(split(root)[0]) > 1 and not "".join(split(root)[-1][::2]):
                raise UsageError(
                    f"--name {form}={template}: -o {request.out} is an input folder, and such files could be taken "
                    f"for images; add to the name, like {root}_{form}{suffix}, or name another folder"
                )


def _check_engine(request: Request) -> None:
    workers, device = request.run.workers, request.model.device
    several = len(devices(device)) > 1
    if workers.engine == "ray":
        spec = importlib.util.find_spec("ray")
        if spec is None or spec.origin is None:  # no origin: only a folder called ray
            raise UsageError("--engine ray needs one more package: pip install 'clipseg-cli[ray]'")
        if several or ":" in device:
            raise UsageError(f"--device {device}: Ray assigns GPUs to actors; use --device cuda, and -j N for N actors")
    elif workers.ray_address is not None:
        raise UsageError("--ray-address needs --engine ray")
