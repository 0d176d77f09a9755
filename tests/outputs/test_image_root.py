"""The image root: the folder under which a reader of a data set finds its images."""

import pytest

from clipseg_cli.outputs.image_root import ImageRoot


@pytest.mark.parametrize(
    ("names", "inputs", "root", "relative"),
    [
        (["imgs/a.jpg", "imgs/sub/b.jpg"], ["imgs"], "imgs", ["a.jpg", "sub/b.jpg"]),
        (["imgs/sub/a.jpg", "imgs/sub/b.jpg"], ["imgs/"], "imgs", ["sub/a.jpg", "sub/b.jpg"]),
        (["./imgs/sub/a.jpg"], ["./imgs"], "imgs", ["sub/a.jpg"]),
        (["/x/imgs/a.jpg", "/x/imgs/b/c.jpg"], ["/x/imgs"], "/x/imgs", ["a.jpg", "b/c.jpg"]),
        (["./a.jpg", "./b/c.jpg"], ["."], ".", ["a.jpg", "b/c.jpg"]),
        (["../x/a.jpg", "../x/b.jpg"], ["../x"], "../x", ["a.jpg", "b.jpg"]),
        (["x/one/a.jpg", "x/two/a.jpg"], ["x/one", "x/two"], "x", ["one/a.jpg", "two/a.jpg"]),
        (["x/one/a.jpg", "x/onetwo/a.jpg"], ["x/one", "x/onetwo"], "x", ["one/a.jpg", "onetwo/a.jpg"]),
        (["x/a.jpg"], ["x/a.jpg"], "x", ["a.jpg"]),
        (["x/a.jpg", "x/b.jpg"], ["x/*.jpg"], "x", ["a.jpg", "b.jpg"]),
        (["x/a.jpg", "y/b.jpg"], [], ".", ["x/a.jpg", "y/b.jpg"]),
        (["s3://one/x/a.jpg", "s3://one/x/b.jpg"], ["s3://one/x"], "s3://one/x", ["a.jpg", "b.jpg"]),
        (["s3://one/x/a.jpg", "y/b.jpg"], [], ".", ["s3://one/x/a.jpg", "y/b.jpg"]),
        (["old/a.jpg", "new/b.jpg"], ["new"], ".", ["old/a.jpg", "new/b.jpg"]),
        (["-"], ["-"], ".", ["-"]),
        (["-#1", "-#2"], [], ".", ["-#1", "-#2"]),
        ([], ["imgs"], ".", []),
    ],
)
def test_the_root_holds_all_images(names: list[str], inputs: list[str], root: str, relative: list[str]) -> None:
    """It is the one input folder, otherwise the deepest folder that all share; names below it lead to the images."""
    found = ImageRoot.of(names, inputs)
    assert str(found) == root and [found.relative(name) for name in names] == relative
