"""Layouts: what other programs read, as presets of formats, names, polarity and orientation.

`docs/layouts.md` says where each rule is written down.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.names import templates
from clipseg_cli.settings.outputs import Format, Layout, Orientation, OutputOptions, Polarity


@dataclass(frozen=True, slots=True)
class Preset:
    """The options of one layout."""

    reads: str  # what reads it, and with which option
    names: Mapping[Format, str]  # the formats that it writes, with their names; "" for a data set, which has its own
    polarity: Polarity | None  # of the prompted object; None for a data set, which has no such mask
    orientation: Orientation  # in which the program reads images


# In photogrammetry and splatting, black is ignored, and the object is what is ignored.
LAYOUTS: dict[Layout, Preset] = {
    "colmap": Preset(
        "COLMAP and GLOMAP, feature_extractor --ImageReader.mask_path OUT",
        {"joined": "{dir}/{name}.png"}, "black", "stored",
    ),
    "realityscan": Preset(
        "RealityScan and RealityCapture, as a layer beside the images",
        {"joined": "{dir}/{name}.mask.png"}, "black", "stored",
    ),
    "metashape": Preset(
        "Metashape, Import Masks from files with the template {filename}_mask.png",
        {"joined": "{dir}/{stem}_mask.png"}, "black", "stored",
    ),
    "openmvs": Preset(
        "OpenMVS, DensifyPointCloud --mask-path OUT --ignore-mask-label 0",
        {"joined": "{dir}/{stem}.mask.png"}, "black", "stored",
    ),
    "3dgrut": Preset(
        "3DGRUT, beside the images", {"joined": "{dir}/{stem}_mask.png"}, "black", "stored",
    ),
    "nerfstudio": Preset(
        "nerfstudio, colmap --masks-path masks", {"joined": "masks/{dir}/{stem}.png"}, "black", "stored",
    ),
    "lichtfeld": Preset(
        "LichtFeld Studio, masks/ beside images/", {"joined": "masks/{dir}/{stem}.png"}, "black", "stored",
    ),
    "onetrainer": Preset(
        "OneTrainer, masked training, beside the images",
        {"joined": "{dir}/{stem}-masklabel.png"}, "white", "upright",
    ),
    "kohya": Preset(
        "sd-scripts, --masked_loss with conditioning_data_dir OUT", {"joined": "{dir}/{stem}.png"}, "white", "stored",
    ),
    "iopaint": Preset(
        "IOPaint, run --mask OUT: the object is erased", {"joined": "{dir}/{stem}.png"}, "white", "stored",
    ),
    "comfyui": Preset(
        "ComfyUI, Load Image: the object is the mask", {"alpha": "{dir}/{stem}.png"}, "black", "upright",
    ),
    "darktable": Preset(
        "darktable, the module external raster masks", {"joined": "{dir}/{name}.pfm"}, "white", "stored",
    ),
    "ultralytics": Preset(
        "Ultralytics, yolo segment train data=OUT/data.yaml", {"ultralytics": ""}, None, "upright",
    ),
    "ultralytics-semantic": Preset(
        "Ultralytics, yolo semantic train data=OUT/data.yaml", {"semantic": ""}, None, "upright",
    ),
    "coco": Preset(
        "Detectron2, FiftyOne, torchvision: annotations/ beside images/", {"annotations": ""}, None, "upright",
    ),
    "imagefolder": Preset(
        'Hugging Face datasets, load_dataset("imagefolder", data_dir=OUT)', {"imagefolder": ""}, None, "upright",
    ),
}  # fmt: skip
OTHER: dict[Polarity, Polarity] = {"white": "black", "black": "white"}


def applied(options: OutputOptions) -> OutputOptions:
    """Returns the options with those of the layout filled in.

    Formats are added to those of the layout; a name or a polarity that is given goes before that of the layout. Raises
    UsageError for --keep without a layout, with --polarity, or with a layout that has no polarity.
    """
    export = options.export
    if options.keep and (options.layout is None or export.polarity is not None):
        raise UsageError("--keep turns the polarity of a --layout: name one, and leave out --polarity")
    if options.layout is None:
        return options
    preset = LAYOUTS[options.layout]
    given = templates(options.name)
    if options.keep and preset.polarity is None:
        raise UsageError(f"--keep: --layout {options.layout} has no polarity to turn; leave out --keep")
    names = tuple(f"{form}={template}" for form, template in preset.names.items() if template and form not in given)
    formats = dict.fromkeys((*preset.names, *options.formats))
    usual = preset.polarity and (OTHER[preset.polarity] if options.keep else preset.polarity)
    polarity = export.polarity or usual
    orientation = preset.orientation if export.orientation == "upright" else export.orientation
    export = replace(export, polarity=polarity, orientation=orientation)
    return replace(options, formats=tuple(formats), name=(*names, *options.name), export=export)
