"""Runs that the page starts: which earlier run is that of a command, and what a run reports."""

from clipseg_cli.pages.background_run import STREAM_OPTIONS, is_run_of


def test_a_run_is_that_of_its_command() -> None:
    """With the options that the page adds, and not with any others. A damaged run.json is that of none."""
    command = ["clipseg", "segment", "photos", "-p", "red"]
    document = {"command": [*command, *STREAM_OPTIONS]}
    assert is_run_of(document, command) and not is_run_of(document, [*command, "--invert"])
    assert not is_run_of({}, command) and not is_run_of({"command": 3}, command)
