"""The packages keep their floors: imports only go down, without circles, and heavy libraries stay in their rooms."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "clipseg_cli"

# What each package may import beside `errors`, and beside itself. Lower floors stand first.
ALLOWED = {
    "errors": "",
    "prompts": "",
    "settings": "prompts",
    "storage": "",
    "masks": "prompts settings",
    "model": "storage settings",
    "inputs": "storage settings",
    "outputs": "masks storage inputs settings",
    "datasets": "inputs masks prompts storage settings",
    "run": "prompts settings storage masks model inputs outputs",
    "evaluation": "datasets outputs inputs model prompts storage settings",
    "training": "run evaluation datasets outputs model prompts storage settings",
    "pages": "run outputs inputs model masks prompts storage settings",
    "cli": "prompts settings storage masks model inputs outputs datasets run evaluation training pages",
}

ARRAYS_OR_LESS = ("errors", "prompts", "settings", "masks")  # these packages open nothing
NETWORK = ("model", "training")  # only these import torch
MODULES = sorted(PACKAGE.rglob("*.py"))

# Modules and functions of the standard library that only some operating systems have.
SOME_SYSTEMS = (
    "_curses _posixsubprocess _winapi crypt curses fcntl grp msvcrt nis nt ossaudiodev posix pty pwd readline resource "
    "spwd syslog termios tty winreg winsound"
)
SOME_SYSTEMS_NAMES = (
    "os.fork os.forkpty os.getpgid os.getuid os.geteuid os.getloadavg os.killpg os.mkfifo os.posix_fadvise "
    "os.posix_fallocate os.sched_getaffinity os.setsid os.statvfs os.startfile os.sysconf os.uname os.O_NONBLOCK "
    "signal.SIGALRM signal.SIGBUS signal.SIGCHLD signal.SIGHUP signal.SIGKILL signal.SIGPIPE signal.SIGQUIT "
    "signal.SIGUSR1 signal.SIGUSR2 signal.pthread_sigmask signal.setitimer"
)


def dotted(path: Path) -> str:
    """`clipseg_cli.masks.cleanup` for a file; a package's `__init__` has the package's name."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


NAMES = {dotted(path) for path in MODULES}


def imports(path: Path) -> Iterator[tuple[str, bool, bool]]:
    """(module, at module level, for type checkers only) of every import in a file, wherever it stands."""

    def visit(node: ast.AST, top: bool, typing: bool) -> Iterator[tuple[str, bool, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, top, typing) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module is not None:
                assert child.level == 0, f"{path.name}: imports are absolute"
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    yield (inner if inner in NAMES else child.module), top, typing
            inside = not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            guard = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from visit(child, top and inside, typing or guard)

    return visit(ast.parse(path.read_text()), True, False)


LOADS_TORCH = {
    dotted(path)
    for path in MODULES
    if any(name.split(".")[0] == "torch" and top and not typing for name, top, typing in imports(path))
}


def package(module: str) -> str | None:
    """The package of a module of ours: `masks`; None for other libraries and for `clipseg_cli` itself."""
    head, *rest = module.split(".")
    return rest[0] if head == "clipseg_cli" and rest else None


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_package_imports_only_what_the_table_allows(path: Path) -> None:
    """Every arrow between packages stands in the table, those of lazy imports and of type checking included."""
    own = package(dotted(path))
    if own in (None, "__main__"):
        return
    assert own in ALLOWED, f"{path.name} belongs to no package of the table"
    allowed = {own, "errors", *ALLOWED[own].split()}
    for module, _, _ in imports(path):
        assert package(module) is None or package(module) in allowed, f"{dotted(path)} imports {module}"


def test_the_table_itself_only_goes_down() -> None:
    """A package imports only packages that stand above it in the table, so no circle is possible."""
    order = list(ALLOWED)
    for own, allowed in ALLOWED.items():
        assert all(order.index(each) < order.index(own) for each in allowed.split()), own


@pytest.mark.parametrize("own", [each for each in ALLOWED if (PACKAGE / each).is_dir()])
def test_modules_of_a_package_import_each_other_without_a_circle(own: str) -> None:
    """Inside a package too, every import goes one way."""
    graph = {
        dotted(path): {name for name, _, _ in imports(path) if package(name) == own and name != dotted(path)}
        for path in MODULES
        if package(dotted(path)) == own
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_heavy_libraries_stay_in_their_packages(path: Path) -> None:
    """Only the network's packages import torch and transformers; nobody imports a file that does at module level."""
    own = package(dotted(path))
    for module, top, typing in imports(path):
        root = module.split(".")[0]
        runs = top and not typing
        if root in ("torch", "transformers", "huggingface_hub"):
            assert own in NETWORK or (root == "torch" and dotted(path) == "clipseg_cli.cli.doctor"), f"{own}: {root}"
        if own not in NETWORK:
            assert not (runs and module in LOADS_TORCH), f"{dotted(path)} imports {module} at module level"
        if own in ("errors", "settings"):
            assert not runs or root in sys.stdlib_module_names or root == "clipseg_cli", f"{own} imports {root}"
        if own in ARRAYS_OR_LESS:
            assert root not in ("torch", "fsspec"), f"{own} imports {root}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_one_module_owns_the_standard_streams(path: Path) -> None:
    """Only `cli.streams` names them, since each may be missing, full, closed or in another encoding."""
    named = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert dotted(path) == "clipseg_cli.cli.streams" or not named & {"sys.stdin", "sys.stdout", "sys.stderr"}


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields the parts of a file that run when it is imported: all but the bodies of its functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*node.decorator_list, node.args):
                yield from (part, *at_import(part))
        elif not isinstance(node, ast.Lambda):
            yield from (node, *at_import(node))


def only_on_some_systems(source: str) -> list[str]:
    """Returns what a file needs at its import that only some operating systems have."""
    found, modules, names = [], SOME_SYSTEMS.split(), SOME_SYSTEMS_NAMES.split()
    for node in at_import(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in modules]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [node.module] if node.module.split(".")[0] in modules else []
            found += [name for each in node.names if (name := f"{node.module}.{each.name}") in names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in names:
            found.append(ast.unparse(node))
    return found


def test_every_file_can_be_imported_on_every_system() -> None:
    """What only POSIX or only Windows has is imported and used inside the functions that need it."""
    files = [*MODULES, *sorted((PACKAGE.parent / "shapes").glob("*.py"))]
    found = {path.name: only_on_some_systems(path.read_text(encoding="utf-8")) for path in files}
    assert not {name: needs for name, needs in found.items() if needs}


@pytest.mark.parametrize(
    "source",
    [
        "import fcntl",
        "from resource import getrlimit",
        "try:\n    import termios\nexcept ImportError:\n    termios = None",
        "class A:\n    import pwd",
        "from os import fork",
        "import os\nhere = os.getuid()",
        "import signal\ndef stop(number=signal.SIGKILL): ...",
    ],
)
def test_a_file_for_one_system_is_noticed(source: str) -> None:
    """Also in a class, behind `try`, and in a default value; but not inside a function."""
    assert only_on_some_systems(source)
    inside = "def f():\n" + "\n".join(f"    {line}" for line in source.splitlines())
    assert not only_on_some_systems(inside)


def test_a_package_is_free_to_import() -> None:
    """A package's `__init__` says in its docstring what it owns, and imports nothing that costs time."""
    for own in (each for each in ALLOWED if (PACKAGE / each).is_dir()):
        tree = ast.parse((PACKAGE / own / "__init__.py").read_text())
        assert len((ast.get_docstring(tree) or "").split()) > 15, f"{own}/__init__.py does not say what it owns"
        assert len(tree.body) == 1, f"{own}/__init__.py does more than say what it owns"


def test_files_and_functions_stay_small() -> None:
    """A file of over 400 lines is asking to be two, and so is a function of over 60."""
    long = {dotted(path): lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 400}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                long |= {f"{dotted(path)}.{node.name}": lines} if lines > 60 else {}
    assert not long


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["segment", "--help"],
        ["models", "list"],
        ["models", "info", "shapes"],
        ["layouts"],
        ["segment", "x"],
        ["segment", "-p", "a", "-t", "9"],
    ],
    ids=" ".join,
)
def test_answers_that_need_no_model_come_without_torch(arguments: list[str]) -> None:
    """Help, version, model list and usage errors load neither torch nor transformers, in a fresh process."""
    code = (
        "import sys; sys.argv = ['clipseg', *sys.argv[1:]]\n"
        "from clipseg_cli.cli.main import main\n"
        "try: main()\n"
        "finally: print(*(set(sys.modules) & {'torch', 'transformers'}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2), done.stderr
    assert done.stderr.splitlines()[-1].strip() == ""
