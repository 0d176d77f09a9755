"""What the headers of OME-TIFF and ImageJ say of a stack, and the headers of its masks: tifffile reads both."""

import io
import random
from typing import Any

import numpy as np
import pytest
import tifffile

from clipseg_cli.inputs.frames import stacks, tiff_pages
from clipseg_cli.outputs.writers import paged_tiff
from clipseg_cli.outputs.writers.paged_tiff import Page

SIZES = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeZ": 1.5, "PhysicalSizeZUnit": "µm"}


def written(pixels: np.ndarray, axes: str, metadata: Any = None, **options: Any) -> bytes:
    """A stack by tifffile."""
    with io.BytesIO() as file:
        tifffile.imwrite(file, pixels, metadata={"axes": axes} | (metadata or {}), **options)
        return file.getvalue()


def with_masks(data: bytes, planes: np.ndarray) -> tifffile.TiffFile:
    """A file of masks (N, H, W) with the header that fits the stack."""
    stack = stacks.read(io.BytesIO(data))
    assert stack is not None and stack.planes == len(planes)
    header = stack.header("a cell", planes.itemsize)
    described = stacks.Field(tiff_pages.DESCRIPTION, tiff_pages.TEXT, len(header) + 1, header + b"\0")
    pages = [Page(plane, (described, *stack.resolution) if not index else ()) for index, plane in enumerate(planes)]
    return tifffile.TiffFile(io.BytesIO(b"".join(paged_tiff.pieces(pages, len(planes), planes.nbytes))))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("axes", ["ZYX", "TCYX", "TZCYX", "CZYX"])
@pytest.mark.parametrize("kind", [{"ome": True}, {"imagej": True}, {"imagej": True, "byteorder": ">"}])
def test_masks_of_a_stack_have_its_axes(axes: str, kind: dict[str, Any], dtype: str) -> None:
    """In the order of its planes, whatever the depth of its own pixels. ImageJ knows the order TZCYX alone."""
    if "imagej" in kind and axes == "CZYX":
        axes = "ZCYX"
    shape = tuple({"T": 3, "Z": 4, "C": 2, "Y": 20, "X": 30}[axis] for axis in axes)
    planes = np.random.default_rng(0).integers(0, 255, shape, dtype="uint8").astype(dtype)
    masks = planes.reshape(-1, 20, 30)
    with with_masks(written(np.zeros(shape, np.float32), axes, **kind), masks) as file:
        assert (file.series[0].axes, file.series[0].shape, file.series[0].dtype) == (axes, shape, np.dtype(dtype))
        assert file.series[0].kind == ("ome" if "ome" in kind else "imagej")
        assert np.array_equal(file.asarray(), planes)


def test_masks_of_a_stack_of_colour_images_have_one_band() -> None:
    """Three samples are one channel."""
    for kind in ({"ome": True}, {"imagej": True}):
        data = written(np.zeros((4, 20, 30, 3), np.uint8), "ZYXS", photometric="rgb", **kind)
        with with_masks(data, np.zeros((4, 20, 30), np.uint8)) as file:
            assert (file.series[0].axes, file.series[0].shape) == ("ZYX", (4, 20, 30))


def test_the_sizes_of_pixels_are_kept() -> None:
    """Of OME in its XML, of ImageJ in its lines and in the tags of resolution. Names of channels stay."""
    pixels, masks = np.zeros((2, 3, 20, 30), np.uint16), np.zeros((6, 20, 30), np.uint8)
    about = SIZES | {"TimeIncrement": 2.0, "Channel": {"Name": ["DAPI", "GFP", "RFP"]}}
    with with_masks(written(pixels, "TCYX", about, ome=True), masks) as file:
        image = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
        assert image["Name"] == "a cell" and {**image["Pixels"], **SIZES, "TimeIncrement": 2.0} == image["Pixels"]
        assert [each["Name"] for each in image["Pixels"]["Channel"]] == ["DAPI", "GFP", "RFP"]
    about = {"spacing": 1.5, "unit": "um", "finterval": 0.5, "Ranges": (0.0, 9.0), "min": 3.0, "max": 9.0}
    for order in "<>":
        data = written(pixels, "TZYX", about, imagej=True, resolution=(4, 3.7), byteorder=order)
        with with_masks(data, masks) as file:
            found = file.imagej_metadata
            assert found is not None
            assert (found["spacing"], found["unit"], found["finterval"]) == (1.5, "um", 0.5)
            assert not {"min", "max", "Ranges"} & found.keys()
            tags = file.pages[0].tags
            assert (tags["XResolution"].value, tags["YResolution"].value) == ((4, 1), (37, 10))


def test_the_order_of_planes_in_the_file_is_kept() -> None:
    """OME names the plane of each directory; here the last comes first."""
    data = written(np.zeros((3, 20, 30), np.uint8), "ZYX", ome=True)
    blocks = "".join(f'<TiffData FirstZ="{2 - number}" IFD="{number}" PlaneCount="1"/>' for number in range(3))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        before = file.ome_metadata
    assert before is not None
    xml = before.replace('<TiffData IFD="0" PlaneCount="3"/>', blocks)
    plain = {"photometric": "minisblack", "ome": False}
    data = written(np.zeros((3, 20, 30), np.uint8), "ZYX", description=xml.encode(), **plain)
    planes = np.stack([np.full((20, 30), number, np.uint8) for number in range(3)])
    with with_masks(data, planes) as file:
        assert np.array_equal(file.series[0].asarray(), planes[::-1])


@pytest.mark.parametrize(
    "description",
    [
        b"a photo",
        b"ImageJ=1.54f\nimages=1\n",
        b"ImageJ=1.54f\nimages=many\n",
        b"ImageJ=\xff\xfe\n",
        b"<OME",
        b"<OME></OME>",
        b'<OME><Image><Pixels SizeC="x" SizeZ="2" SizeT="1"/></Image></OME>',
        b'<OME><Image><Pixels SizeC="1" SizeZ="-2" SizeT="1"/></Image></OME>',
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + b"".join(
            b'<!ENTITY b%d "%s">' % (n, b"&b%d;" % (n - 1) * 10 if n else b"&a;" * 10) for n in range(12)
        ) + b']><OME><Image Name="&b11;"><Pixels SizeC="1" SizeZ="2" SizeT="1"/></Image></OME>',
    ],
)  # fmt: skip
def test_other_descriptions_are_no_stack(description: bytes) -> None:
    """Also broken and hostile ones: entities that would grow to gigabytes are refused."""
    data = written(np.zeros((2, 20, 30), np.uint8), "IYX", description=description)
    assert stacks.read(io.BytesIO(data)) is None


def test_broken_files_are_no_stack() -> None:
    """No byte of a header may raise another error than a missing stack."""
    data = written(np.zeros((2, 20, 30), np.uint8), "ZYX", ome=True)
    choose = random.Random(0)
    for _ in range(300):
        broken = bytearray(data)
        for at in (choose.randrange(700) for _ in range(3)):
            broken[at] = choose.randrange(256)
        stack = stacks.read(io.BytesIO(bytes(broken[: choose.randrange(len(data))])))
        assert stack is None or stack.header("a", 1)
