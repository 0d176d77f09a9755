"""The script that Hugging Face's documentation suggests: `baseline.py MODEL FOLDER OUT THRESHOLD PROMPT...`.

float32, one image at a time, encoded again for every prompt. Prints one line per image. The environment may name
another DEVICE than the CPU, and a LIMIT of images.
"""

import os
import sys
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

model_path, folder, out, threshold, *prompts = sys.argv[1:]
processor = CLIPSegProcessor.from_pretrained(model_path)
device, limit = os.environ.get("DEVICE", "cpu"), int(os.environ.get("LIMIT", "1000000000"))
model = CLIPSegForImageSegmentation.from_pretrained(model_path).to(device)
for path in sorted(Path(folder).iterdir())[:limit]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    inputs = processor(text=prompts, images=[image] * len(prompts), padding=True, return_tensors="pt").to(device)
    with torch.no_grad():
        logits = model(**inputs).logits
    size = image.height, image.width
    probabilities = torch.nn.functional.interpolate(logits.unsqueeze(1), size, mode="bilinear").sigmoid()
    for prompt, probability in zip(prompts, probabilities[:, 0], strict=True):
        target = Path(out) / prompt / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(((probability > float(threshold)) * 255).byte().cpu().numpy()).save(target)
    print(path, flush=True)
