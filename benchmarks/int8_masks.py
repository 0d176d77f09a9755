"""Compares the masks of int8 with those of fp32 on drawn scenes: `int8_masks.py SCENES`.

Prints a JSON object: `levels` (of an activation, see `clipseg_cli.model.int8`), `iou` of all masks, and `presence_ap`
by precision: how well the soft maps' maxima rank images by whether they show a prompt. The bundled model, on scenes
that it was not trained on.
"""

import json
import sys

import numpy as np

from clipseg_cli import Segmenter
from clipseg_cli.evaluation.metrics import peak_histogram, presence_ap
from clipseg_cli.model import int8
from shapes.evaluation_set import build_evaluation_set

SEED = 3_000_017


def main() -> None:
    """Runs the command line."""
    scenes = build_evaluation_set(int(sys.argv[1]), SEED)
    questions = [each for each in scenes.questions if each.exemplar is None]
    masks, scores = {}, {}
    for dtype in ("fp32", "int8"):
        segmenter = Segmenter.load("shapes", device="cpu", dtype=dtype)  # type: ignore[arg-type]
        features = segmenter.encode(list(scenes.images))
        soft = [segmenter.decode(features[each.image], [each.text])[0, 0] for each in questions]
        pairs = zip(soft, questions, strict=True)
        bins = np.sum([peak_histogram(each, bool(question.ground_truth.any())) for each, question in pairs], 0)
        masks[dtype], scores[dtype] = np.stack(soft) > segmenter.threshold, round(presence_ap(bins), 5)
    both, either = masks["fp32"] & masks["int8"], masks["fp32"] | masks["int8"]
    iou = np.count_nonzero(both) / np.count_nonzero(either)
    print(
        json.dumps({"levels": int8.levels(), "questions": len(questions), "iou": round(iou, 5), "presence_ap": scores})
    )


if __name__ == "__main__":
    main()
