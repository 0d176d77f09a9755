"""The best use of Hugging Face's modules: `optimised.py MODEL FOLDER OUT THRESHOLD PROMPT...`.

bfloat16, each prompt embedded once, each image encoded once, one decoder pass for all prompts. Prints one line per
image.
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

model_path, folder, out, threshold, *prompts = sys.argv[1:]
processor = CLIPSegProcessor.from_pretrained(model_path)
model = CLIPSegForImageSegmentation.from_pretrained(model_path, dtype=torch.bfloat16)
with torch.inference_mode():
    text = processor(text=prompts, padding=True, return_tensors="pt")
    conditional = model.get_conditional_embeddings(batch_size=len(prompts), **text)
    for path in sorted(Path(folder).iterdir()):
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        pixels = processor(images=image, return_tensors="pt").pixel_values.bfloat16()
        vision = model.clip.vision_model(pixels, output_hidden_states=True)
        states = [vision.hidden_states[layer + 1].expand(len(prompts), -1, -1) for layer in model.extract_layers]
        logits = model.decoder(states, conditional).logits.float()
        size = image.height, image.width
        probabilities = torch.nn.functional.interpolate(logits.unsqueeze(1), size, mode="bilinear").sigmoid()
        for prompt, probability in zip(prompts, probabilities[:, 0], strict=True):
            target = Path(out) / prompt / f"{path.stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(((probability > float(threshold)) * 255).byte().numpy()).save(target)
        print(path, flush=True)
