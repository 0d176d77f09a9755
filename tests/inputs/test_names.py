"""Output names: every file of a folder has its own."""

from hypothesis import given
from hypothesis import strategies as st

from clipseg_cli.inputs.names import output_names, renamed, shard_number

NAMES = st.lists(st.sampled_from("ab"), min_size=1, max_size=2).map("".join)


SUFFIXES = st.lists(st.sampled_from(["", ".jpg", ".png", ".txt", ".JPG"]), max_size=3).map("".join)


@given(st.sets(st.builds(str.__add__, NAMES, SUFFIXES), max_size=12))
def test_no_two_files_share_an_output_name(files: set[str]) -> None:
    """The output name of a file is its name or its stem."""
    outputs = output_names(files)
    assert len(set(outputs.values())) == len(files)
    assert all(name == output or name.rpartition(".")[0] == output for name, output in outputs.items())


def test_a_full_name_also_displaces_an_equal_stem() -> None:
    """Names with several extensions that build on each other get distinct output names."""
    files = ["a.jpg", "a.png", "a.jpg.png", "a.jpg.png.tif", "b.tif"]
    assert output_names(files) == {name: name for name in files[:-1]} | {"b.tif": "b"}


def test_other_names_of_a_run_are_equal_on_every_machine() -> None:
    """The new name of a taken output, and the number that picks a shard, are parts of a SHA-256 of the names."""
    assert renamed("sub/a", "other/sub/a.jpg") == "sub/a~68c8dca1"
    assert shard_number("sub/a") == 0x1CD4C0B28B289D79
