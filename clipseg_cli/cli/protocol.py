"""`clipseg protocol`: repeats the paper's evaluations."""

from json import dumps

from clipseg_cli.cli.status import Json
from clipseg_cli.cli.terminal import say
from clipseg_cli.settings.evaluation import ProtocolOptions
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.run import ConsoleOptions


def protocol(evaluation: ProtocolOptions, model: ModelOptions, console: ConsoleOptions, json: Json = False) -> None:
    """Repeats the paper's evaluations.

    Scores a model on a data set of the paper, and prints the paper's numbers beside the scores.

    \b
    Examples:
      clipseg protocol phrasecut VGPhraseCut_v0/
      clipseg protocol pascal-5i VOCdevkit/VOC2012/ -m my-model --fold 0 --json
    """
    from tqdm import tqdm

    from clipseg_cli.evaluation import protocols
    from clipseg_cli.model.segmenter import Segmenter

    segmenter = Segmenter.load(model.model, device=model.device, dtype=model.dtype, offline=model.offline)
    with tqdm(unit=" samples", disable=True if console.quiet else None) as bar:
        result = protocols.run(segmenter, evaluation, bar.update)
    document = {"model": model.model} | result.document()
    say(dumps(document) if json else "\n".join(protocols.table(result, model.model)))
