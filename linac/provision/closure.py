"""Which modules of this project a program needs, found from its imports; for a bundle that holds these and nothing else.

>>> found = closure(["linac.icom.__main__"])
>>> "linac.icom.stream" in found, "linac.capture.archive" in found, "linac.index" in found
(True, True, False)

Imports at the top of a module are needed: one of a package that is not Python's own makes the program unfit for a bundle. An
import inside a function is needed as well, unless what it imports needs such a package: that is a way which the bundle does not
go.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import linac
from linac.errors import SetupError

ROOT = Path(linac.__file__).resolve().parents[1]
OURS = "linac"


@dataclass
class _Module:
    """A module of ours: its file, and what it imports at its top and inside its functions."""

    path: Path
    top: set[str] = field(default_factory=set)
    inside: set[str] = field(default_factory=set)


def closure(programs: Iterable[str], root: Path = ROOT) -> dict[str, Path]:
    """The modules that `programs` (names of modules) need, with their files.

    Raises `SetupError` if one of them needs a package.
    """
    known: dict[str, _Module] = {}
    found: dict[str, Path] = {}
    waiting = list(programs)
    for name in waiting:
        foreign = _foreign(name, root, known)
        if foreign:
            raise SetupError(
                f"{name} needs the package {foreign}, which a bundle does not hold. This is a fault of this program: report it."
            )
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = _module(name, root, known).path
        waiting += _tops(name, root, known)
        for wanted in sorted(known[name].inside):
            waiting += [one for one in _of_ours(wanted, root) if not _foreign(one, root, known)]
    return dict(sorted(found.items()))


def _module(name: str, root: Path, known: dict[str, _Module]) -> _Module:
    if name not in known:
        path = _file(name, root)
        if path is None:
            raise SetupError(f"There is no module {name} below {root}. The installation is incomplete: install it again.")
        known[name] = module = _Module(path)
        for wanted, at_top in _imports(ast.parse(path.read_bytes()).body, name, path.name == "__init__.py", at_top=True):
            (module.top if at_top else module.inside).add(wanted)
    return known[name]


def _tops(name: str, root: Path, known: dict[str, _Module]) -> list[str]:
    """Our modules that importing `name` imports: the packages around it, and what it imports at its top."""
    module = _module(name, root, known)
    around = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
    return [one for one in around if one != name] + [one for wanted in sorted(module.top) for one in _of_ours(wanted, root)]


def _foreign(name: str, root: Path, known: dict[str, _Module]) -> str:
    """A package that importing `name` needs and Python does not bring; empty if there is none."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for wanted in sorted(_module(one, root, known).top):
            package = wanted.partition(".")[0]
            if package != OURS and package not in sys.stdlib_module_names:
                return package
        waiting += _tops(one, root, known)
    return ""


def _of_ours(wanted: str, root: Path) -> list[str]:
    """The module that a dotted name leads to: itself, or where the last part is no module, what it is taken from."""
    if wanted.partition(".")[0] != OURS:
        return []
    if _file(wanted, root) is not None:
        return [wanted]
    above = wanted.rpartition(".")[0]
    return [above] if above and _file(above, root) is not None else []


def _file(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def _imports(body: Iterable[ast.AST], name: str, is_package: bool, *, at_top: bool) -> Iterator[tuple[str, bool]]:
    """Dotted names that are imported, and whether importing the module does so. What only type checkers see is left out."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if is_package else name.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield source, at_top
            yield from ((f"{source}.{alias.name}", at_top) for alias in node.names if source.partition(".")[0] == OURS)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _imports(node.orelse, name, is_package, at_top=at_top)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(ast.iter_child_nodes(node), name, is_package, at_top=at_top and not inside)
