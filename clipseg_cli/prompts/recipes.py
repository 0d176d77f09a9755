"""Visual prompt recipes: ways to show CLIPSeg the object of an exemplar. Standard library only.

`prompts.highlight` carries them out.
"""

from dataclasses import dataclass
from typing import Literal

BLUR_SIGMA = 3.0  # pixels, in an image of 352 pixels
BACKGROUND = 0.1  # factor for the surroundings in normalised colour
CONTEXT = 0.1  # share of the object's width and height, added on each side


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to highlight an object. The default changes nothing.

    background: factor for the surroundings, in [0, 1]. sigma: blur of the surroundings in pixels, 0 for
    none. context: margin of the crop as a share of the object's extent; None for no crop. paint: "outline" draws a red
    line around the object, "dye" tints the object red and makes the rest grey.
    """

    background: float = 1.0
    sigma: float = 0.0
    context: float | None = None
    paint: Literal["outline", "dye"] | None = None


# The comments give the gain in percentage points in the paper's Table 2, where it lists the recipe.
RECIPES: dict[str, Recipe] = {
    "crop-blur-dim": Recipe(BACKGROUND, BLUR_SIGMA, CONTEXT),  # 23.50; used in training
    "dim": Recipe(background=BACKGROUND),  # 13.85
    "mask": Recipe(background=0.0),  # 23.40
    "blur": Recipe(sigma=BLUR_SIGMA),  # 13.15
    "blur-dim": Recipe(BACKGROUND, BLUR_SIGMA),  # 21.73
    "crop": Recipe(context=CONTEXT),  # 13.60
    "outline": Recipe(paint="outline"),  # 2.29
    "dye": Recipe(paint="dye"),  # 1.21
    "none": Recipe(),
}
