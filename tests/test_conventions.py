"""The house rules that a machine can check: who imports whom, docstrings, argument names, file names."""

import ast
import contextlib
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
CORE_PACKAGES = {"jax", "flax", "optax", "orbax", "chex", "numpy", "vaesr"}

# Who may import whom inside vaesr; "*" is every room. A room or top-level file that is not named here fails,
# so that a new one has to be given its rule.
ALLOWED_ROOMS = {
    "imaging": {"forms"},
    "distributions": set(),
    "files": set(),
    "quantisation": {"distributions", "forms"},
    "losses": {"imaging", "distributions", "metrics"},
    "metrics": {"imaging", "distributions", "files"},
    "layers": {"imaging", "distributions", "quantisation", "forms"},
    "models": {"layers", "imaging", "distributions"},
    "objectives": {"losses", "distributions", "quantisation", "imaging"},
    "training": {"imaging", "metrics", "forms", "files"},
    "data": {"imaging", "metrics", "files"},
    "reports": {"imaging", "metrics", "files"},
    "pretrained": {"imaging", "models", "metrics", "files"},
    "evaluators": {
        "objectives", "losses", "metrics", "distributions", "quantisation", "imaging", "data", "reports",
    },
    "runs": {"training", "data", "reports", "models", "pretrained", "files", "__init__"},
    "inference": {
        "runs", "training", "data", "reports", "models", "pretrained", "evaluators", "files", "layers",
        "forms", "quantisation", "distributions", "imaging", "objectives",
    },
    "app": {"*"},
    "__init__": set(),
    "allocator": set(),
    "forms": set(),
    "interrupts": set(),
    "__main__": {"app", "interrupts"},
}  # fmt: skip

DOCUMENTED_ROOMS = ["imaging", "metrics", "distributions", "quantisation", "losses", "objectives"]
# Knobs with a default that may be positional, each with its reason.
POSITIONAL_KNOBS = {
    ("vaesr.imaging", "imresize", "scale")
}  # MATLAB's imresize(image, scale) is how everyone calls it
# Arrays that are keyword-only because they are not the data.
KEYWORD_ARRAYS = {"key", "keys", "position", "step", "fraction"}


class Import(NamedTuple):
    """One imported dotted name, whether importing the module runs it, and whether only type checkers do."""

    name: str
    line: int
    at_top: bool
    for_types: bool = False


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def read_imports(source: str, package: str) -> list[Import]:
    """Lists every import of a module in `package`, also inside functions; relative ones made absolute."""
    found: list[Import] = []

    def visit(node: ast.AST, at_top: bool, for_types: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, at_top, for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            found.extend(Import(name, node.lineno, at_top, for_types) for name in names)
        for_types = for_types or is_type_checking(node)
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or for_types
        for child in ast.iter_child_nodes(node):
            visit(child, at_top and not lazy, for_types)

    visit(ast.parse(source), True, False)
    return found


def modules(package: str) -> Iterator[tuple[pathlib.Path, list[Import]]]:
    """Yields every file of a top-level package with its imports."""
    for path in sorted((ROOT / package).rglob("*.py")):
        dotted = ".".join(path.relative_to(ROOT).parent.parts)
        yield path.relative_to(ROOT), read_imports(path.read_text(encoding="utf-8"), dotted)


def room_of(dotted: str) -> str | None:
    """Returns the room of an imported name of ours: `vaesr.models.edsr.EDSR` is in `models`."""
    parts = dotted.split(".")
    if parts[0] != "vaesr" or len(parts) < 2:
        return None
    is_room = (ROOT / "vaesr" / parts[1]).is_dir() or (ROOT / "vaesr" / f"{parts[1]}.py").is_file()
    return parts[1] if is_room or parts[1] in ALLOWED_ROOMS else None


def room_violations(path: pathlib.Path, imports: list[Import]) -> list[str]:
    room = path.parts[1].removesuffix(".py")
    if room not in ALLOWED_ROOMS:
        return [f"{path}: the room {room!r} has no rule; add it to DESIGN.md and to ALLOWED_ROOMS"]
    allowed = ALLOWED_ROOMS[room] | {room}
    return [
        f"{path}:{found.line}: {room} may not import {target} ({found.name})"
        for found in imports
        if (target := room_of(found.name)) and target not in allowed and "*" not in allowed
    ]


@pytest.mark.slow
def test_rooms_import_only_what_the_design_allows():
    problems = [p for path, imports in modules("vaesr") for p in room_violations(path, imports)]
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_library_never_imports_experiments_or_benchmarks():
    problems = [
        f"{path}:{found.line}: imports {found.name}"
        for path, imports in modules("vaesr")
        for found in imports
        if found.name.split(".")[0] in ("experiments", "benchmarks", "tests")
    ]
    assert not problems, "\n".join(problems)


def test_experiments_import_recipes_and_never_each_other():
    problems = []
    for path, imports in modules("experiments"):
        own = path.parts[1].removesuffix(".py")
        for found in imports:
            parts = found.name.split(".")
            if parts[0] == "experiments" and len(parts) > 1 and parts[1] not in (own, "recipes"):
                problems.append(f"{path}:{found.line}: imports {found.name}; share through vaesr or a recipe")
    assert not problems, "\n".join(problems)


def import_graph() -> dict[str, set[str]]:
    """Returns each of our modules with those that it imports, whenever: at the top or inside a function.

    A package stands for its `__init__`; that importing a module runs those above it counts for nothing.
    """
    imported = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): imports
        for package in ("vaesr", "experiments", "benchmarks")
        for path, imports in modules(package)
    }
    # `from a.b import c` names a module, or something in one.
    targets = {
        name: {found.name if found.name in imported else found.name.rpartition(".")[0] for found in imports
               if not found.for_types}
        for name, imports in imported.items()
    }  # fmt: skip
    return {name: found & set(imported) - {name} for name, found in targets.items()}


def import_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Returns the groups of modules each of which reaches all others of its group (Warshall's closure)."""
    reached = {name: set(found) for name, found in graph.items()}
    for middle in reached:
        for name in reached:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    groups = {frozenset(n for n in reached[name] if name in reached[n]) for name in reached}
    return sorted(sorted(group) for group in groups if group)


@pytest.mark.slow
def test_no_modules_import_each_other():
    problems = [" <-> ".join(circle) for circle in import_circles(import_graph())]
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_the_circle_finder_itself():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a", "e"}}
    assert import_circles(graph) == [["a", "b", "c"], ["d", "e"]]
    assert import_graph()["vaesr.data.sources"] >= {"vaesr.data.bank", "vaesr.data.folder"}
    lazy = read_imports("if TYPE_CHECKING:\n    import a\ndef f():\n    import b", "x")
    assert [(found.name, found.for_types) for found in lazy] == [("a", True), ("b", False)]


def foreign_top_imports(path: pathlib.Path, imports: list[Import]) -> list[str]:
    known = CORE_PACKAGES | sys.stdlib_module_names
    return [
        f"{path}:{found.line}: imports {found.name} at the top; import it in the function, or it becomes core"
        for found in imports
        if found.at_top and found.name.split(".")[0] not in known
    ]


def test_library_imports_only_core_packages_at_the_top():
    problems = [p for path, imports in modules("vaesr") for p in foreign_top_imports(path, imports)]
    assert not problems, "\n".join(problems)


def test_the_import_reader_itself():
    source = """
import numpy as np
from vaesr import models, __version__
from ..losses import pixel
from . import resize
if TYPE_CHECKING:
    import matplotlib
try:
    import torch
except ImportError:
    torch = None
def f():
    import PIL.Image
class C:
    import tqdm
"""
    imports = read_imports(source, "vaesr.imaging")
    path = pathlib.Path("vaesr/imaging/x.py")
    assert [i.name for i in imports[:5]] == [
        "numpy",
        "vaesr.models",
        "vaesr.__version__",
        "vaesr.losses.pixel",
        "vaesr.imaging.resize",
    ]
    assert len(room_violations(path, imports)) == 2
    foreign = foreign_top_imports(path, imports)
    assert len(foreign) == 2
    assert "torch" in foreign[0]
    assert "tqdm" in foreign[1]
    assert "no rule" in room_violations(pathlib.Path("vaesr/attic/x.py"), [])[0]


def test_no_utils_anywhere():
    names = {"utils", "util", "helpers", "misc"}
    found = [
        path
        for folder in ("vaesr", "experiments", "benchmarks", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.stem in names and (path.is_dir() or path.suffix == ".py")
    ]
    assert not found, f"give these a name that says what is in them: {found}"


def colour_triples(path: pathlib.Path) -> set[str]:
    """Returns the written-out triples of numbers in a file, of which one at least is a fraction."""
    triples = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 3:
            with contextlib.suppress(ValueError):
                numbers = ast.literal_eval(node)
                if all(isinstance(n, float | int) for n in numbers) and any(n % 1 for n in numbers):
                    triples.add(str(list(numbers)))
    return triples


def test_colour_constants_stand_once():
    home = ROOT / "vaesr" / "imaging" / "colour.py"
    known = colour_triples(home)
    assert len(known) > 15
    copies = {
        str(path.relative_to(ROOT)): found
        for folder in ("vaesr", "experiments", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != home and (found := known & colour_triples(path))
    }
    assert not copies, f"import them from vaesr.imaging.colour: {copies}"


def test_test_files_have_unique_names():
    seen: dict[str, pathlib.Path] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        assert path.name not in seen, (
            f"{path} and {seen[path.name]} have one name; pytest needs different ones"
        )
        seen[path.name] = path


def public_names(room: str) -> Iterator[tuple[str, Any]]:
    """Yields what a room exports; skips while a room is still empty."""
    module = importlib.import_module(f"vaesr.{room}")
    names = getattr(module, "__all__", [])
    if not names:
        pytest.skip(f"vaesr.{room} exports nothing yet")
    yield from ((name, getattr(module, name)) for name in names)


def public_functions(room: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in public_names(room):
        function = inspect.unwrap(value) if callable(value) and not inspect.isclass(value) else value
        if inspect.isfunction(function):
            yield name, function


def docstring_problems(name: str, function: Callable[..., Any], room: str) -> list[str]:
    text = inspect.getdoc(function) or ""
    problems = [f"{name}: docstring has no `{part}`" for part in ("Args:", "Returns:") if part not in text]
    if not re.match(r"[^\n]+[.:]\n", text):
        problems.append(f"{name}: docstring does not begin with one sentence on one line")
    if room == "losses" and "[B]" not in text:
        problems.append(f"{name}: a loss must say that it returns `[B]`")
    # Every argument is explained, so that a renamed one cannot keep its old description.
    problems += [
        f"{name}: argument {parameter!r} is not described under Args"
        for parameter in inspect.signature(function).parameters
        if "Args:" in text and not re.search(rf"^\s*(?:[\w`*]+, )*[`*]*{parameter}\b[^:\n]*:", text, re.M)
    ]
    return problems


def argument_problems(name: str, function: Callable[..., Any], room: str) -> list[str]:
    problems = []
    for parameter in inspect.signature(function).parameters.values():
        what = f"{name}({parameter.name})"
        if parameter.name in ("rng", "rngs", "prng", "seed_key", "rng_key", "prng_key"):
            problems.append(f"{what}: a random key is called `key`")
        positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        has_default = parameter.default is not parameter.empty
        if positional and has_default and (f"vaesr.{room}", name, parameter.name) not in POSITIONAL_KNOBS:
            problems.append(f"{what}: a knob with a default must be keyword-only")
        is_array = re.search(r"\bArray(Like)?\b", str(parameter.annotation)) is not None
        required = parameter.kind is parameter.KEYWORD_ONLY and not has_default
        if required and is_array and parameter.name not in KEYWORD_ARRAYS:
            problems.append(f"{what}: data must be positional")
        if parameter.annotation is parameter.empty:
            problems.append(f"{what}: has no type")
    return problems


@pytest.mark.parametrize("room", DOCUMENTED_ROOMS)
def test_public_functions_are_documented(room):
    problems = [p for name, f in public_functions(room) for p in docstring_problems(name, f, room)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("room", DOCUMENTED_ROOMS)
def test_public_arguments_follow_the_habits(room):
    problems = [p for name, f in public_functions(room) for p in argument_problems(name, f, room)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("room", DOCUMENTED_ROOMS)
def test_public_classes_are_documented(room):
    problems = []
    for name, value in public_names(room):
        if not inspect.isclass(value) or not value.__module__.startswith("vaesr."):
            continue
        # dataclasses and NamedTuples without a docstring get their signature as one
        if not inspect.getdoc(value) or value.__doc__.startswith(f"{name}("):
            problems.append(f"{name}: class has no docstring")
        for attribute, member in vars(value).items():
            target = member.fget if isinstance(member, property) else inspect.unwrap(member)
            if not attribute.startswith("_") and inspect.isfunction(target) and not target.__doc__:
                problems.append(f"{name}.{attribute}: has no docstring")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("room", sorted(set(ALLOWED_ROOMS) - {"__init__", "__main__"}))
def test_exports_are_listed_and_exist(room):
    if not (ROOT / "vaesr" / room / "__init__.py").is_file():
        pytest.skip(f"vaesr.{room} does not exist yet")
    module = importlib.import_module(f"vaesr.{room}")
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    missing = [name for name in names if not hasattr(module, name)]
    assert not missing, f"vaesr.{room}.__all__ names {missing}, which do not exist"
    assert module.__doc__, f"vaesr.{room} has no docstring"


def test_losses_say_by_their_names_what_they_are():
    """A loss; or nats with their sign: an nll, a KL, an ELBO, a bound; or an expected error."""
    kinds = r"\w+_(loss|nll|bound|elbo|error)|(gaussian|balanced)_kl(_standard)?|free_bits"
    names = [name for name, _ in public_functions("losses")]
    assert names and [name for name in names if not re.fullmatch(kinds, name)] == []


def test_the_checks_notice():
    def bad(x, rng, size=3):
        """Does things"""

    def good(x: "Array", *, key: "Array", size: int = 3) -> "Array":  # noqa: F821
        """Does one thing.

        Args:
            x: `[B]`.
            key: random key.
            size: pixels.

        Returns:
            `[B]`.
        """

    assert len(docstring_problems("bad", bad, "losses")) == 4
    assert len(argument_problems("bad", bad, "losses")) == 5
    assert not docstring_problems("good", good, "losses")
    assert not argument_problems("good", good, "losses")


def test_rooms_are_imported_when_they_are_asked_for():
    code = """
import sys
import vaesr
assert "jax" not in sys.modules
assert {"losses", "metrics", "models", "app"} <= set(dir(vaesr)) and "__main__" not in dir(vaesr)
assert "jax" not in sys.modules
assert vaesr.losses.gaussian_kl_standard.__module__.startswith("vaesr.losses")
try:
    vaesr.looses
except AttributeError as error:
    assert str(error) == "module 'vaesr' has no attribute 'looses'"
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
