"""What a run looks for: text prompts, exemplars and saved embeddings become one embedding per term."""
