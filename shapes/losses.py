"""What training minimises, term by term. Logits and targets are in `architecture.unfold`'s order: (P, patches, ...)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
OWNED, CLEAR = 0.25, 0.03  # share of a patch that one thing must cover to name it; below CLEAR it is ground
GROUND_WEIGHT = 0.3  # ground is nine tenths of the patches, and easy
UNSURE = -100  # cross entropy's label for a patch that is neither


class PatchHeads(nn.Module):
    """Reads shape, colour, pattern and measures off the vision tokens. Used in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, 13 + 13 + 5 + 3)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """tokens: (N, 1 + patches, width). Logits of 13 shapes, 13 colours, 5 patterns (0 = ground), and 3 measures."""
        a, b, c, d = self.read(self.norm(tokens[:, 1:])).float().split((13, 13, 5, 3), -1)
        return a, b, c, d


def patch_owner(owners: Tensor) -> Tensor:
    """Which owner each patch belongs to: int64 (N, patches), UNSURE where no one covers enough of it.

    owners: uint8 (N, patches, 4, 4, 4, 4).
    """
    flat = owners.flatten(2)
    shares = torch.stack([(flat == k).float().mean(2) for k in range(8)], 2)
    best, index = shares[..., 1:].max(2)
    label = torch.where(best > OWNED, index + 1, torch.full_like(index, UNSURE))
    return torch.where(shares[..., 0] > 1 - CLEAR, torch.zeros_like(label), label)


def patch_loss(told: tuple[Tensor, ...], belongs: Tensor, labels: Tensor, measures: Tensor) -> Tensor:
    """How well what the heads told fits what lies under them: mean cross entropies plus the error of the measures."""
    sure = belongs != UNSURE
    owner = belongs.clamp(min=0)
    rows = torch.arange(len(owner), device=owner.device)[:, None]
    answers = labels[rows, owner].masked_fill(~sure[..., None], UNSURE)
    *guesses, sizes = told
    loss = sizes.new_zeros(())
    for index, guess in enumerate(guesses):
        weight = torch.ones(guess.shape[-1], device=guess.device)
        weight[0] = GROUND_WEIGHT
        loss = loss + functional.cross_entropy(guess.flatten(0, 1), answers[..., index].flatten(), weight)
    on = (owner > 0) & sure
    if on.any():
        loss = loss + 2 * functional.l1_loss(sizes[on], measures[rows, owner][on])
    return torch.as_tensor(loss)


def mask_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy per pixel, Dice of the prompts that denote something, and the error of presence.

    logits: float32 (P, n). target: bool (P, n). Presence is the map's highest value: over the target where there is
    one, over everything where there is none. The latter is what makes the map of an absent thing empty.
    """
    want = target.float()
    entropy = functional.binary_cross_entropy_with_logits(logits, want)
    present = target.any(1)
    probability = logits[present].sigmoid()
    wanted = want[present]
    overlap = 2 * (probability * wanted).sum(1) + 1
    dice = (1 - overlap / (probability.sum(1) + wanted.sum(1) + 1)).sum() / max(1, len(logits))
    over = torch.where(present[:, None] & ~target, torch.full_like(logits, -30.0), logits)
    peak = over.amax(1)
    presence = functional.softplus(torch.where(present, -peak, peak)).mean()
    return entropy, dice, presence


def contrast(seen: Tensor, said: Tensor, kinds: Tensor, scale: Tensor) -> Tensor:
    """Pulls each exemplar's embedding to the words for its kind and away from all others, and those words to it.

    seen: (E, projection). said: (K, projection), words for every kind. kinds: int64 (E,), rows of `said`.
    """
    cosine = functional.normalize(seen.float(), dim=1) @ functional.normalize(said.float(), dim=1).T
    logits = cosine * scale.exp().clamp(max=30)
    partners = (kinds[:, None] == kinds).float()
    partners = partners / partners.sum(1, keepdim=True)
    return (functional.cross_entropy(logits, kinds) + functional.cross_entropy(logits[:, kinds].T, partners)) / 2


def loudness(states: list[Tensor]) -> Tensor:
    """How far states are from mean square one: the mean squared logarithm of it.

    CLIPSeg's decoder normalises after its attention, not before. Nothing else holds what it reads to a size, and loud
    states saturate its softmax: each token then sees one other, and no gradient says which.
    """
    return torch.stack([state.square().mean().log().square() for state in states]).mean()
