"""Masks for folders of pictures, from text prompts or exemplar images, with CLIPSeg.

from clipseg_cli import Segmenter
segmenter = Segmenter.load("shapes")
features = segmenter.encode([image])                        # once an image
probabilities = segmenter.decode(features, ["a red circle"])  # float32 (N, P, S, S) in [0, 1]
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter

__all__ = ["Segmenter"]
__version__ = version("clipseg-cli")


def __getattr__(name: str) -> Any:
    """Imports the model side, and so torch, only when it is asked for."""
    if name == "Segmenter":
        from clipseg_cli.model.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
