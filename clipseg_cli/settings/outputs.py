"""What is written, and where."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, get_args

from clipseg_cli.errors import UsageError
from clipseg_cli.settings import names
from clipseg_cli.settings.flag import Flag

Format = Literal[
    "mask",
    "soft",
    "soft16",
    "npz",
    "overlay",
    "cutout",
    "labels",
    "instances",
    "joined",
    "alpha",
    "exr",
    "tiff",
    "psd",
    "coco",
    "yolo",
    "voc",
    "labelme",
    "labelstudio",
    "cvat",
    "svg",
    "webdataset",
    "geojson",
    "gpkg",
    "parquet",
    "video",
    "ultralytics",
    "semantic",
    "annotations",
    "imagefolder",
]
Codec = Literal["ffv1", "h264", "vp9", "prores"]
# The file or folder of each format at the top of the output folder. A run never reads these as inputs.
TOP_NAMES: dict[Format, str] = {
    "mask": "masks",
    "soft": "soft",
    "soft16": "soft16",
    "npz": "npz",
    "overlay": "overlays",
    "cutout": "cutouts",
    "labels": "labels",
    "instances": "instances",
    "joined": "joined",
    "alpha": "alpha",
    "exr": "exr",
    "tiff": "tiff",
    "psd": "psd",
    "coco": "coco.json",
    "yolo": "yolo",
    "voc": "voc",
    "labelme": "labelme",
    "labelstudio": "labelstudio",
    "cvat": "cvat",
    "svg": "svg",
    "webdataset": "webdataset",
    "geojson": "masks.geojson",
    "gpkg": "masks.gpkg",
    "parquet": "manifest.parquet",
    "video": "videos",
}
# The data sets that only --layout writes, with what they have at the top of the output folder. Their names are common
# ones, so a walk leaves out only the files that such a run writes: `names.patterns`.
TOP_SETS: dict[Format, tuple[str, ...]] = {
    "ultralytics": ("images", "labels", "data.yaml"),
    "semantic": ("images", "masks", "data.yaml"),
    "annotations": ("images", "annotations"),
    "imagefolder": ("train", "val", "test"),
}
FILMED: tuple[Format, ...] = ("mask", "cutout", "overlay")  # formats that become videos with -f video
FORMATS = tuple(TOP_NAMES)  # the choices of --format
Print = Literal["paths", "none"]
Polarity = Literal["white", "black"]
Layout = Literal[
    "colmap",
    "realityscan",
    "metashape",
    "openmvs",
    "3dgrut",
    "nerfstudio",
    "lichtfeld",
    "onetrainer",
    "kohya",
    "iopaint",
    "comfyui",
    "darktable",
    "ultralytics",
    "ultralytics-semantic",
    "coco",
    "imagefolder",
]
Orientation = Literal["upright", "stored"]
Images = Literal["link", "copy", "none"]
Keeping = Literal["keep", "strip"]
Shares = tuple[float, float, float]  # of train, val and test; their sum is 1


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in FORMATS:
            raise UsageError(f"--format {name}: no such format; choose from {', '.join(FORMATS)}")
    return names


def top_names(form: Format) -> tuple[str, ...]:
    """Returns the files and folders of a format at the top of the output folder."""
    return TOP_SETS[form] if form in TOP_SETS else (TOP_NAMES[form],)


def complete(formats: tuple[Format, ...]) -> tuple[Format, ...]:
    """Returns the formats that a run writes. Masks and overlays are written if nothing else is named.

    `video` alone means both of them as videos.
    """
    return formats if formats and formats != ("video",) else ("mask", "overlay", *formats)


def _layout(text: str) -> str:
    if text not in get_args(Layout):
        raise UsageError(f"--layout {text}: no such layout; choose from {', '.join(get_args(Layout))}")
    return text


def _colour(text: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
        bytes((red, green, blue))  # raises for rgb(300,0,0)
    except ValueError:
        raise UsageError(f"--backdrop {text}: no such colour; give a name like white, or #rrggbb") from None
    return red, green, blue


def _shares(text: str) -> Shares:
    try:
        train, val, test = (float(part) for part in (f"{text},0" if text.count(",") == 1 else text).split(","))
    except ValueError:
        train, val, test = -1.0, 0.0, 0.0
    if min(train, val, test) < 0 or not abs(train + val + test - 1) < 1e-6:
        raise UsageError(f"--split {text}: give the shares of train, val and test, which add up to 1, like 0.8,0.1,0.1")
    return train, val, test


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the formats for other programs contain."""

    PANEL: ClassVar[str] = "Output"
    DECIDES: ClassVar[bool] = True

    orientation: Annotated[
        Orientation,
        Flag("Masks as a viewer shows the image, or in the file's own pixels, without its EXIF orientation."),
    ] = "upright"
    polarity: Annotated[
        Polarity | None,
        Flag(
            "Object in `joined` and `alpha`: white (255, opaque) on black, or black (0, transparent) on white.",
            default="white, or as --layout says",
        ),
    ] = None
    polygons: Annotated[bool, Flag("Write polygons to coco.json instead of run lengths.")] = False
    palette: Annotated[
        bool, Flag("Write the PNGs of -f labels with a palette of the labels' colours, instead of plain grey.")
    ] = False
    images: Annotated[
        Images,
        Flag(
            "Images in yolo, voc, labelme, labelstudio, webdataset and the data sets of --layout: the original files, "
            "as reflinks or hard links where possible, or as copies; or none. Only those that must be turned or "
            "converted are encoded again."
        ),
    ] = "link"
    flat: Annotated[bool, Flag("No subfolders in yolo, voc and labelme: sub/a becomes sub__a.")] = False
    split: Annotated[
        Shares | None,
        Flag(
            "Split coco, yolo, voc, webdataset and the data sets of --layout into these shares of the images, like "
            "0.8,0.1,0.1. An image stays in its part when others are added.",
            metavar="TRAIN,VAL,TEST",
            parse=_shares,
            spell=lambda shares: ",".join(map(str, shares)),
            default="",
        ),
    ] = None
    backdrop: Annotated[
        tuple[int, int, int] | None,
        Flag(
            "Background colour of cutouts: a name like white, or #rrggbb.",
            metavar="COLOUR",
            parse=_colour,
            spell=lambda colour: "#{:02x}{:02x}{:02x}".format(*colour),
            default="transparent",
        ),
    ] = None
    decontaminate: Annotated[
        bool,
        Flag(
            "Give the edges of cutouts, and the transparent pixels beside them, the object's own colours, estimated "
            "without the old background. Needs the extra [matting]."
        ),
    ] = False
    metadata: Annotated[
        Keeping | None,
        Flag(
            "EXIF and XMP of the photo in cutouts and overlays: keep, also where it was taken, or strip.",
            default="keep for cutouts, strip for overlays",
        ),
    ] = None
    codec: Annotated[
        Codec | None,
        Flag(
            "Codec of the videos of -f video: ffv1 is lossless, h264 plays everywhere, vp9 and prores also hold the "
            "transparency of cutouts.",
            default="ffv1 for masks, h264 for overlays, prores for cutouts",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class PrintOptions:
    """What is printed on stdout."""

    PANEL: ClassVar[str] = "Output"

    json: Annotated[bool, Flag("Print one JSON record per image.")] = False
    print_: Annotated[
        Print | None,
        Flag(
            "Print one path per mask (`clipseg find`: per image), or no paths.",
            ("--print",),
            default="paths, unless stdout is a terminal",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where the outputs go, and in which formats."""

    PANEL: ClassVar[str] = "Output"

    out: Annotated[
        str | None,
        Flag(
            "Write to this folder, to a file for a single image, or to stdout (-) for images one after another. The "
            "suffix of a file, also of -.pgm, decides the format: .png .jpg .webp .tif .pgm .ppm .npy .npz .json .svg "
            ".xml .exr .psd .geojson .gpkg.",
            ("--out", "-o"),
            "DIR|FILE|-",
            default="clipseg-out (post: clipseg-post), or -2, -3, ... after runs with other settings",
        ),
    ] = None
    formats: Annotated[
        tuple[Format, ...],
        Flag(
            f"What to write: {', '.join(FORMATS)}. Repeatable, or joined by commas.",
            ("--format", "-f"),
            "NAME",
            parse=_formats,
            default="mask,overlay",
        ),
    ] = ()
    name: Annotated[
        tuple[str, ...],
        Flag(
            "Name the masks, or the files of a format, by a pattern of {label} {dir} {stem} {name} {ext} {index} "
            "{frame} {format}: '{dir}/{name}.png', 'overlay={dir}/{stem}_overlay.jpg'. Repeatable.",
            metavar="[FORMAT=]TEMPLATE",
            parse=lambda text: names.parsed(text, FORMATS),
            default="masks/{label}/{dir}/{stem}.png for masks",
            decides=True,
        ),
    ] = ()
    layout: Annotated[
        Layout | None,
        Flag(
            f"Write what a program reads, in its names, polarity and orientation: {', '.join(get_args(Layout))}. "
            "See `clipseg layouts`.",
            metavar="NAME",
            parse=_layout,
        ),
    ] = None
    keep: Annotated[
        bool, Flag("With --layout: the object is what is kept, where it would be ignored or removed, and vice versa.")
    ] = False
    printing: PrintOptions = field(default_factory=PrintOptions)
    report: Annotated[bool, Flag("Also write report.html. With -f soft it has threshold sliders.")] = False
    preview: Annotated[bool, Flag("Show each overlay in the terminal.")] = False
    export: ExportOptions = field(default_factory=ExportOptions)
    fsync: Annotated[bool, Flag("Flush every file to disk, to survive a power failure. Slower.", panel="Advanced")] = (
        False
    )
