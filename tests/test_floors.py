"""The house keeps its floors: imports only go down, and the heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "clipseg_cli"

FLOORS = {
    5: {"cli", "commands", "assess", "options", "configuration", "terminal", "__main__"},
    4: {
        "pipeline", "engines", "cluster", "finish", "post", "runs", "doctor", "report", "session", "ui", "evaluate",
        "calibrate", "train", "status", "protocols", "launch",
    },
    3: {
        "images", "sources", "folders", "remote", "exemplars", "embeddings", "truth", "registry", "manifest", "store",
        "parts", "writers", "raster", "annotations", "shards", "whole", "result",
        "model", "fast", "linear", "reference", "architecture", "preprocess", "tokenizer",
        "features", "dataset", "fitting", "episodes",
    },
    2: {
        "masks", "cleanup", "refine", "matting", "tiles", "outline", "render", "exemplar", "metrics", "regions",
        "curves", "warp",
    },
    1: {"prompts", "settings", "errors", "files", "expressions"},
}  # fmt: skip
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
NETWORK = {"model", "fitting", "fast", "linear", "reference", "architecture", "preprocess"}  # may import torch
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether at module level) for every import; those under TYPE_CHECKING do not run and do not count."""
    found = []

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module is not None:
                assert child.level == 0, f"{path.name}: imports are absolute"
                names = [f"{child.module}.{a.name}" for a in child.names] if child.module == "clipseg_cli" else []
                found.extend((name, top) for name in names or [child.module])
            visit(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(ast.parse(path.read_text()), True)
    return found


def noun(module: str) -> str | None:
    """The file that an import of this package names; None for other packages and for the package itself."""
    parts = module.split(".")
    return next((part for part in reversed(parts[1:]) if part in FLOOR), None) if parts[0] == "clipseg_cli" else None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_imports_only_go_down(path: Path) -> None:
    """A file imports its own floor or a lower one; the table names every file."""
    own = path.parent.name if path.name == "__init__.py" else path.stem
    if own == "clipseg_cli":
        return
    assert own in FLOOR, f"{path.name} stands on no floor"
    for module, _ in imports(path):
        if target := noun(module):
            assert FLOOR[target] <= FLOOR[own], f"{own} (floor {FLOOR[own]}) imports {target} (floor {FLOOR[target]})"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    """torch and transformers are imported by the network's files only, and nobody imports those at module level;
    the vocabulary needs the standard library only, the array floor neither paths nor torch."""
    own = path.stem
    for module, top in imports(path):
        root = module.split(".")[0]
        if root == "torch":
            assert own in NETWORK or not top, f"{own} imports torch at module level"
        if root in ("transformers", "huggingface_hub"):
            assert not top or own == "reference", f"{own} imports {root} at module level"
        if own not in NETWORK:
            assert not (top and noun(module) in NETWORK), f"{own} imports {module} at module level"
        if FLOOR.get(own) == 1:
            assert root in sys.stdlib_module_names or root == "clipseg_cli", f"{own} imports {root}"
        if FLOOR.get(own) == 2:
            assert root not in ("os", "pathlib", "torch"), f"{own} imports {root}"


def test_files_stay_small() -> None:
    """A file that passes 400 lines is asking to be two."""
    long = {path.name: lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["segment", "--help"],
        ["models", "list"],
        ["segment", "x"],
        ["segment", "-p", "a", "-t", "9"],
    ],
    ids=" ".join,
)
def test_answers_that_need_no_model_come_without_torch(arguments: list[str]) -> None:
    """Help, version, model list and usage errors load neither torch nor transformers, in a fresh process."""
    code = (
        "import sys; sys.argv = ['clipseg', *sys.argv[1:]]\n"
        "from clipseg_cli.cli import main\n"
        "try: main()\n"
        "finally: print(*(set(sys.modules) & {'torch', 'transformers'}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2), done.stderr
    assert done.stderr.splitlines()[-1].strip() == ""
