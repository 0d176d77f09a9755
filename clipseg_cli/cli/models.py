"""`clipseg models`: lists models and downloads their weights."""

from collections.abc import Iterator
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipseg_cli.cli import streams
from clipseg_cli.cli.groups import Group, command
from clipseg_cli.cli.status import Json
from clipseg_cli.cli.terminal import as_text, say
from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import Flag, local_path

if TYPE_CHECKING:
    from clipseg_cli.model.architecture import Tower
    from clipseg_cli.model.description import Description
    from clipseg_cli.model.onnx_export import Deviation

app = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode=None, help="Lists and downloads models.")


@command(app, "list")
def models_list(json: Json = False) -> None:
    """Lists the known models.

    Shows a description, whether the weights are on this machine, and their licence.
    """
    from clipseg_cli.model import registry

    rows = registry.installed()
    if json:
        say(dumps([asdict(row) for row in rows], default=str, indent=1))
        return
    from rich.table import Table

    table = Table("model", "description", "weights", "licence of the weights", box=None, pad_edge=False)
    for row in rows:
        here = f"on this machine, {row.size / 1e6:.0f} MB" if row.path else f"clipseg models pull {row.name}"
        licence = registry.ALIASES[row.name].licence if row.name in registry.ALIASES else "see its page on the hub"
        table.add_row(row.name, row.about, here, licence)
    say(as_text(table))


@command(app, "pull")
def models_pull(
    model: Annotated[str, Flag("An alias, or a Hugging Face id org/name[@revision].", argument=True)],
) -> None:
    """Downloads the weights of a model.

    Updates weights that are already on this machine if they are out of date. Prints their folder.
    """
    from clipseg_cli.model import registry
    from clipseg_cli.model.checkpoint_files import KINDS

    say(str(registry.locate(model, refresh=True, progress=True, kinds=KINDS).path))


@command(app, "path")
def models_path(
    model: Annotated[str, Flag("An alias, a Hugging Face id, or a directory.", argument=True)] = "rd64-refined",
) -> None:
    """Prints the folder of a model.

    Exits 1 if it is not on this machine.
    """
    from clipseg_cli.model import registry
    from clipseg_cli.model.checkpoint_files import KINDS

    say(str(registry.locate(model, offline=True, kinds=KINDS).path))


@command(app, "info")
def models_info(
    model: Annotated[str, Flag("An alias, a Hugging Face id, or a directory.", argument=True)] = "rd64-refined",
    json: Json = False,
) -> None:
    """Describes a model that is on this machine.

    Shows its towers and decoder, default threshold, licence, commit, size and folder. Downloads nothing.

    \b
    Example:
      clipseg models info shapes
    """
    from clipseg_cli.model.description import describe

    found = describe(model)
    if json:
        say(dumps(asdict(found), default=str, indent=1))
        return
    for key, value in _rows(found):
        say(f"{key:11} {value}")


def _rows(found: "Description") -> Iterator[tuple[str, str]]:
    """Yields what `models info` shows, line by line."""
    from clipseg_cli.model.checkpoint_files import KINDS

    uses = {"CLIP": " without a decoder: train one with `clipseg train --from-clip`", "SAM 2": ", for --refine sam"}
    name = next((kind.name for kind in KINDS if found.kind in kind.types), found.kind)
    yield "model", f"{found.repo or found.model}, {name}{uses.get(name, '')}"
    yield "folder", str(found.path)
    if found.commit:
        yield "commit", found.commit
    weights = f", {found.parameters / 1e6:.1f} million parameters, {found.dtype}" if found.parameters else ""
    yield "size", f"{found.size / 1e6:.0f} MB{weights}"
    yield (
        "licence",
        "; ".join(filter(None, (found.licence and f"{found.licence} (its card)", found.terms))) or "no card",
    )
    if found.missing:
        yield "incomplete", f"it has no {found.missing}"
    if (clip := found.clip) is not None:
        trained = f"patches of {clip.patch} pixels, trained on {clip.trained_side} x {clip.trained_side} pixels"
        yield "vision", f"{_size(clip.vision)}; {trained}"
        yield "text", f"{_size(clip.text)}; {clip.vocabulary} tokens, at most {clip.positions} in a prompt"
        yield "embedding", f"{clip.dim} channels"
    if (decoder := found.decoder) is not None:
        layers = ", ".join(map(str, decoder.extract))
        count = f"; {decoder.parameters / 1e6:.2f} million parameters" if decoder.parameters else ""
        yield "decoder", f"reads vision layers {layers}, counted from 0; {decoder.reduce_dim} channels{count}"
        yield "upsampling", "refined" if decoder.refined else "plain"
        yield "images", f"warped to {decoder.side} x {decoder.side} pixels"
        yield "threshold", f"{decoder.threshold:g}"


def _size(tower: "Tower") -> str:
    return f"{tower.depth} layers, width {tower.width}, {tower.heads} heads"


@command(app, "export")
def models_export(
    model: Annotated[str, Flag("An alias, a Hugging Face id, or a directory.", argument=True)],
    out: Annotated[
        Path, Flag("Write the files to this folder.", ("--out", "-o"), "DIR", parse=local_path, panel="Output")
    ],
    onnx: Annotated[bool, Flag("Write ONNX files, which run without torch.", panel="Output")] = False,
    int8: Annotated[
        bool, Flag("Store the weights of CLIP as 8-bit integers: a quarter of the size.", panel="Output")
    ] = False,
) -> None:
    """Writes a model as ONNX files.

    The folder gets image.onnx, text.onnx, exemplar.onnx and decoder.onnx, a tokenizer and preprocess.json.
    ONNX Runtime's results are compared with this program's; if logits differ by more than 0.0001, nothing is written.

    \b
    Example:
      clipseg models export rd64-refined -o onnx --onnx
    """
    from clipseg_cli.model import onnx_export, registry

    if not onnx:
        raise UsageError("models export: say which files to write: --onnx")
    onnx_export.require()
    exact, rough = onnx_export.export(registry.locate(model, progress=True), out, int8)
    _tell("float32 files", exact)
    if rough is not None:
        _tell("int8 files", rough)
    say(str(out))


def _tell(files: str, deviation: "Deviation") -> None:
    streams.tell(
        f"{files}: embeddings differ from this program's by at most {deviation.embedding:.2g}, "
        f"logits by at most {deviation.logit:.2g} (mean {deviation.mean_logit:.2g}); "
        f"{deviation.pixels:.2%} of the mask pixels of two drawn images differ\n"
    )
