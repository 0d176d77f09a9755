"""The best use of Hugging Face's modules on a GPU: `optimised_gpu.py MODEL FOLDER OUT THRESHOLD PROMPT...`.

float16, batches, each prompt embedded once, each image encoded once, one decoder pass for all prompts of a batch, masks
cut on the GPU. Threads load the next batch and write the last one meanwhile. Prints one line per image. The environment
names the DEVICE, where a CPU gets bfloat16, and a LIMIT of images.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

BATCH, THREADS = 32, 16

model_path, folder, out, threshold, *prompts = sys.argv[1:]
device, limit = os.environ["DEVICE"], int(os.environ["LIMIT"])
dtype = torch.bfloat16 if device == "cpu" else torch.float16
processor = CLIPSegProcessor.from_pretrained(model_path)
model = CLIPSegForImageSegmentation.from_pretrained(model_path, dtype=dtype).to(device)


def load(path: Path) -> tuple[torch.Tensor, tuple[int, int]]:
    """Returns the pixels that the model takes, and the height and width of the image."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    return processor(images=image, return_tensors="pt").pixel_values[0].to(dtype), (image.height, image.width)


def save(path: Path, masks: torch.Tensor) -> Path:
    """Writes the masks of an image, uint8 (P, H, W)."""
    for prompt, mask in zip(prompts, masks, strict=True):
        Image.fromarray(mask.numpy()).save(Path(out) / prompt / f"{path.stem}.png")
    return path


for prompt in prompts:
    (Path(out) / prompt).mkdir(parents=True, exist_ok=True)
paths = sorted(Path(folder).iterdir())[:limit]
batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
with torch.inference_mode(), ThreadPoolExecutor(THREADS) as pool:
    text = processor(text=prompts, padding=True, return_tensors="pt").to(device)
    conditional = model.get_conditional_embeddings(batch_size=len(prompts), **text)
    ahead = [pool.submit(load, path) for path in batches[0]]
    written: list = []
    for number, batch in enumerate(batches):
        loaded = [future.result() for future in ahead]
        ahead = [pool.submit(load, path) for path in batches[number + 1]] if number + 1 < len(batches) else []
        pixels = torch.stack([each for each, _ in loaded]).to(device)
        vision = model.clip.vision_model(pixels, output_hidden_states=True)
        states = [vision.hidden_states[layer + 1].repeat_interleave(len(prompts), 0) for layer in model.extract_layers]
        logits = model.decoder(states, conditional.repeat(len(batch), 1)).logits.float()
        logits = logits.view(len(batch), len(prompts), *logits.shape[-2:])
        for future in written:
            print(future.result(), flush=True)
        written = []
        for path, maps, (_, size) in zip(batch, logits, loaded, strict=True):
            large = torch.nn.functional.interpolate(maps[None], size, mode="bilinear")[0].sigmoid()
            masks = ((large > float(threshold)) * 255).byte().cpu()
            written.append(pool.submit(save, path, masks))
    for future in written:
        print(future.result(), flush=True)
