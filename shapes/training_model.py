"""The model as it is trained: with heads that only training uses, and a forward pass that returns the loss terms."""

import torch
from torch import Tensor, nn
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from clipseg_cli.training.fit import loss_terms
from shapes import architecture, losses
from shapes.batches import Batch

LOSS_WEIGHTS = {"entropy": 4.0, "dice": 1.4, "presence": 0.7, "contrast": 0.2, "patch": 0.1, "scale": 0.02}


def normalise(images: Tensor) -> Tensor:
    """Returns images uint8 (N, S, S, 3) as normalised float32 (N, 3, S, S)."""
    return (images.permute(0, 3, 1, 2).float() / 255 - losses.MEAN.to(images.device)) / losses.STD.to(images.device)


class TrainingModel(nn.Module):
    """The model and its patch heads. With `detach_heads` the heads learn, but send no gradient to the vision tower."""

    def __init__(self, model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.detach_heads = False
        width = model.config.vision_config.hidden_size
        self.heads = nn.ModuleList(losses.PatchHeads(width) for _ in range(2))

    def embed_texts(self, texts: list[str], device: torch.device) -> Tensor:
        """Returns text embeddings (T, projection). Each distinct text is embedded once."""
        distinct = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        ids = self.tokenizer(list(distinct), padding=True, return_tensors="pt").input_ids.to(device)
        embedded = self.model.clip.get_text_features(ids).pooler_output
        return torch.as_tensor(embedded)[[distinct[text] for text in texts]]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss terms of a batch by name, without their weights."""
        device = self.model.device
        batch = batch.to(device)
        count, depth = len(batch.images), len(self.model.extract_layers)
        exemplars = batch.exemplars.permute(0, 3, 1, 2)
        with torch.autocast(device.type, torch.bfloat16):
            images = torch.cat((normalise(batch.images), exemplars))
            states, visual = architecture.encode(self.model, images)
            texts = self.embed_texts(batch.texts + batch.kind_texts, device)
            prompts, kind_texts = texts[: len(batch.texts)], texts[len(batch.texts) :]
            weight = batch.text_weight[:, None]
            blend = weight * prompts + (1 - weight) * visual[count:][batch.exemplar_of.clamp(min=0)]
            condition = torch.where((batch.exemplar_of >= 0)[:, None], blend, prompts)
            # the decoder trains in float32: in bfloat16 its gradients can be mere noise
            with torch.autocast(device.type, enabled=False):
                reduced = [state.float() for state in states[:depth]]
                logits, inputs = architecture.decode(self.model, reduced, batch.image_of, condition.float())
            instances = architecture.patch_order(batch.instances)
            patch = self.patch_loss([state[:count] for state in states[depth:]], instances, batch)
        target = torch.gather(batch.targets, 1, instances[batch.image_of].flatten(1).long())
        entropy, dice, presence = loss_terms(logits.flatten(1), target)
        scale = self.model.clip.logit_scale
        contrast = losses.contrastive_loss(visual[count:], kind_texts, batch.kinds, scale)
        return {
            "entropy": entropy,
            "dice": dice,
            "presence": presence,
            "contrast": contrast,
            "patch": patch,
            "scale": losses.scale_loss(inputs),
        }

    def patch_loss(self, states: list[Tensor], instances: Tensor, batch: Batch) -> Tensor:
        """Returns the loss of the heads. states: vision tokens (N, 1 + patches, width) for each head."""
        patches = losses.patch_instances(instances)
        tokens = [state.detach() if self.detach_heads else state for state in states]
        predicted = [head(state) for head, state in zip(self.heads, tokens, strict=True)]
        per_head = [losses.patch_loss(each, patches, batch.classes, batch.measures) for each in predicted]
        return torch.stack(per_head).sum()
