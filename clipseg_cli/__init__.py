"""Segments image folders from text prompts or exemplar images with CLIPSeg.

from clipseg_cli import Segmenter
segmenter = Segmenter.load("shapes")
features = segmenter.encode([image])                          # once per image
probabilities = segmenter.decode(features, ["a red circle"])  # float32 (N, P, S, S) in [0, 1]
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter

__all__ = ["Segmenter"]
__version__ = "0.1.0"  # pyproject.toml reads it here: importlib.metadata would add 30 ms to every start


def __getattr__(name: str) -> Any:
    """Imports the Segmenter, and torch with it, on first use."""
    if name == "Segmenter":
        from clipseg_cli.model.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
