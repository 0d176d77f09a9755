"""The optimisers of training: Muon for the transformers' matrices, AdamW for everything else."""

from functools import partial
from typing import Any

import torch

from shapes.training_model import TrainingModel

HEADS_RATE = 1.5e-3
NEW_MATRIX_RMS = 0.1  # root mean square of a newly initialised matrix of the decoder


def create_optimisers(training: TrainingModel, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices inside the transformers, and AdamW for the rest of the model and for the heads.

    Each parameter group has a factor `share` of the learning rate. It is 1, except for the decoder's layers that bring
    activations and prompts to a scale of one: where their weights are small, they learn more slowly by the same factor.
    """
    matrices: list[dict[str, Any]] = [{"params": [], "share": 1.0}]  # then one group per layer that may be small
    rest: list[dict[str, Any]] = [{"params": [], "share": 1.0}]
    for name, parameter in training.model.named_parameters():
        inside = ".layers." in name or "reduces" in name or "_projection" in name
        groups = matrices if inside and parameter.ndim == 2 else rest
        if "reduces" in name or "film" in name:
            rms = float(parameter.detach().square().mean().sqrt())
            groups.append({"params": [parameter], "share": min(1.0, rms / NEW_MATRIX_RMS)})
        else:
            groups[0]["params"].append(parameter)
    muon = torch.optim.Muon(matrices, lr=muon_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw", ns_steps=4)
    adam = partial(torch.optim.AdamW, weight_decay=0.01, betas=(0.9, 0.98), eps=1e-7)
    heads = [{"params": list(training.heads.parameters()), "share": 1.0}]
    return [muon, adam(rest, lr=adam_rate), adam(heads, lr=HEADS_RATE)]
