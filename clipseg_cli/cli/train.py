"""`clipseg train`: trains a decoder on the user's data."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from clipseg_cli.cli import streams
from clipseg_cli.cli.terminal import say
from clipseg_cli.settings.flag import Flag, local_path
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.run import ConsoleOptions
from clipseg_cli.settings.training import NewDecoder, Recipe

if TYPE_CHECKING:
    from clipseg_cli.training.train import Progress


def train(
    data: Annotated[
        Path,
        Flag(
            "A folder with images/ and masks/<label>/, a .csv or .jsonl file (image, mask, prompt), a COCO file, or "
            "VGPhraseCut_v0/.",
            metavar="DATA",
            parse=local_path,
            argument=True,
            panel="Input",
        ),
    ],
    out: Annotated[
        Path,
        Flag("Write the new model to this folder.", ("--out", "-o"), "MODEL_DIR", parse=local_path, panel="Output"),
    ],
    model: ModelOptions,
    recipe: Recipe,
    new: NewDecoder,
    console: ConsoleOptions,
    replay: Annotated[
        str | None,
        Flag("Keep the masks of the prompts in this prompts file as they are.", metavar="FILE", panel="Training"),
    ] = None,
    template: Annotated[
        tuple[str, ...],
        Flag(
            "Put prompts into this sentence. Repeatable: each example gets a random one.",
            metavar="'a photo of a {}'",
            default="the paper's",
            panel="Training",
        ),
    ] = (),
) -> None:
    """Trains a model's decoder on your own data.

    Takes images with masks and prompts. CLIP itself does not change.

    \b
    Examples:
      clipseg train data/ -o my-model && clipseg segment photos/ -m my-model -p "a gasket"
      clipseg train pairs.csv -m shapes -o my-model --replay old-prompts.txt
      clipseg train data/ --from-clip openai/clip-vit-base-patch16 -o my-model
      clipseg train VGPhraseCut_v0/ --from-clip openai/clip-vit-base-patch16 --recipe paper -o my-model
    """
    from clipseg_cli.prompts import text
    from clipseg_cli.training import train as training

    replayed = [each.text for each in text.read_file(replay)] if replay else []
    usual = training.PAPERS if recipe.recipe == "paper" else training.TEMPLATES
    for now in training.train(data, out, model, recipe, replayed, template or usual, new):
        if not console.quiet:
            _tell(now)
    say(str(out))


def _tell(now: "Progress") -> None:
    """Shows progress on stderr: on a terminal one line that is overwritten, otherwise one line per check."""
    line = {
        "features": f"features {now.at} of {now.of} images",
        "step": f"step {now.at} of {now.of}, loss {now.loss:.4f}{_left(now.left)}",
        "check": f"step {now.at} of {now.of}: loss {now.loss:.4f}, held-out mIoU {now.miou:.3f}, best {now.best:.3f}"
        + _left(now.left),
        "done": f"best at step {now.at}: held-out mIoU {now.best:.3f} at threshold {now.threshold:.2f}",
    }[now.stage]
    if streams.stderr().isatty():
        streams.tell(f"\r\x1b[K{line}" + ("\n" if now.stage in ("check", "done") else ""))
    elif now.stage in ("check", "done") or (now.stage == "features" and now.at == now.of):
        streams.tell(f"{line}\n")


def _left(seconds: float) -> str:
    """Returns the time that a training still needs, in words after a comma; nothing before its first step."""
    if not math.isfinite(seconds):
        return ""
    minutes = math.ceil(seconds / 60)
    return f", {minutes // 60} h {minutes % 60} min left" if minutes >= 60 else f", {minutes} min left"
