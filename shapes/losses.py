"""The loss terms of training. Logits and targets are in the order of `architecture.patch_order`: (P, patches, ...)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
OBJECT_SHARE = 0.25  # a patch belongs to an object that covers more than this share of it
BACKGROUND_SHARE = 0.97  # a patch belongs to the background that covers more than this share of it
BACKGROUND_WEIGHT = 0.3  # nine tenths of the patches are background, and easy
IGNORED = -100  # the class that cross entropy ignores, for all other patches


class PatchHeads(nn.Module):
    """Predicts shape, colour, pattern and measures of each patch from the vision tokens. Used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 13 + 13 + 5 + 3)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns logits of shape, colour and pattern (0 = background), and 3 measures, each (N, patches, ...).

        tokens: (N, 1 + patches, width).
        """
        a, b, c, d = self.linear(self.norm(tokens[:, 1:])).float().split((13, 13, 5, 3), -1)
        return a, b, c, d


def patch_instances(instances: Tensor) -> Tensor:
    """Returns the instance that each patch belongs to: int64 (N, patches); IGNORED if none covers enough of it.

    instances: uint8 (N, patches, 4, 4, 4, 4).
    """
    flat = instances.flatten(2)
    shares = torch.stack([(flat == k).float().mean(2) for k in range(8)], 2)
    best, index = shares[..., 1:].max(2)
    label = torch.where(best > OBJECT_SHARE, index + 1, torch.full_like(index, IGNORED))
    return torch.where(shares[..., 0] > BACKGROUND_SHARE, torch.zeros_like(label), label)


def patch_loss(predicted: tuple[Tensor, ...], patches: Tensor, classes: Tensor, measures: Tensor) -> Tensor:
    """Returns the mean cross entropies of the classes plus the error of the measures.

    predicted: the output of PatchHeads. patches: int64 (N, patches). classes, measures: as in Batch.
    """
    known = patches != IGNORED
    instance = patches.clamp(min=0)
    rows = torch.arange(len(instance), device=instance.device)[:, None]
    expected = classes[rows, instance].masked_fill(~known[..., None], IGNORED)
    *class_logits, sizes = predicted
    loss = sizes.new_zeros(())
    for index, logits in enumerate(class_logits):
        weight = torch.ones(logits.shape[-1], device=logits.device)
        weight[0] = BACKGROUND_WEIGHT
        loss = loss + functional.cross_entropy(logits.flatten(0, 1), expected[..., index].flatten(), weight)
    objects = (instance > 0) & known
    if objects.any():
        loss = loss + 2 * functional.l1_loss(sizes[objects], measures[rows, instance][objects])
    return torch.as_tensor(loss)


def contrastive_loss(exemplars: Tensor, texts: Tensor, kinds: Tensor, scale: Tensor) -> Tensor:
    """Returns the loss of matching exemplars to the texts of their kinds, and those texts to exemplars.

    exemplars: embeddings (E, projection). texts: embeddings (K, projection), one per kind. kinds: int64 (E,), the row
    of `texts` for each exemplar. scale: logarithm of the inverse temperature.
    """
    cosine = functional.normalize(exemplars.float(), dim=1) @ functional.normalize(texts.float(), dim=1).T
    logits = cosine * scale.exp().clamp(max=30)
    partners = (kinds[:, None] == kinds).float()
    partners = partners / partners.sum(1, keepdim=True)
    return (functional.cross_entropy(logits, kinds) + functional.cross_entropy(logits[:, kinds].T, partners)) / 2


def scale_loss(states: list[Tensor]) -> Tensor:
    """Returns the mean squared logarithm of the states' mean squares: zero if each mean square is one.

    CLIPSeg's decoder normalises after its attention, not before, so nothing else limits the scale of its inputs. Large
    inputs saturate the softmax: each token attends to a single other one, and gets no gradient to change that.
    """
    return torch.stack([state.square().mean().log().square() for state in states]).mean()
