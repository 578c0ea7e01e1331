"""A hash of what source code means: comments, layout, docstrings and places do not count.

Modules are hashed together, as the set of their top-level statements: a module may be renamed or
split, and a definition may move to another one. Of imports it counts which third-party thing a name
stands for; where something lies within the modules themselves does not.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hpo.errors import ObjectiveError

# Packages within which a place does not count.
OWN_PACKAGES = ("features", "hpo")
# A tree that is deeper is not looked into: its size must not depend on who calls.
MAX_DEPTH = 150
# Fields of syntax trees that say nothing, or what the place of a node says already.
_SILENT = frozenset({"ctx", "kind", "type_comment"})
_ENTRY_POINT = re.compile(r"[\w.]+:\w+")
# Conditions of what is not run when a module is imported.
_NEVER = ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef, ast.Assign, ast.AnnAssign)


class Source(NamedTuple):
    """A module's file; its relative imports begin at `package`."""

    module: str
    package: str
    file: str
    data: bytes


@functools.lru_cache(maxsize=4)
def hash_meaning(sources: tuple[Source, ...]) -> str:
    """Return a hash of what modules mean together.

    Raises
    ------
    ObjectiveError
        If one is not Python, naming file and line.
    """
    own = frozenset(source.module for source in sources)
    texts: set[str] = set()
    used: list[set[str]] = []
    passed_on: list[Mapping[str, str]] = []
    for source in sources:
        tree = _parse(source) if source.file.endswith(".py") else None
        if tree is None or _depth(tree) > MAX_DEPTH:
            # Compiled, or with an expression such as a long sum: nothing else is known of it.
            texts.add(sha256(source.data.hex()))
            continue
        origins = _origins(tree, source.package, own)
        nodes = _Meaning(origins, own).visit(tree).body
        statements = [_text(node) for node in nodes]
        texts |= {"\n".join(statements)} if _is_ordered(nodes) else {*statements}
        used.append({part.id for part in ast.walk(tree) if isinstance(part, ast.Name)})
        passed_on.append(origins)
    # What a module imports for another one counts as well.
    anywhere = set().union(*used)
    for names, imported in zip(used, passed_on, strict=True):
        texts |= {
            f"{local} is {origin}"
            for local, origin in imported.items()
            if local == "*" or (local in anywhere - names and origin != local)
        }
    return sha256(*sorted(texts))


def imported_by(source: Source) -> frozenset[str]:
    """Return the full names of all that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(_parse(source)):
        for module, name, _ in _imports(node, source.package):
            found |= {module, f"{module}.{name}"} if name else {module}
    return frozenset(found)


def without_comments(c_source: str) -> str:
    """Return C without comments, indentation and empty lines; literals are left as they are.

    Lines remain lines, which a preprocessor tells apart: to break one counts as a change.
    """
    literal = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"""
    gap = r"(?:\s|//[^\n]*|/\*.*?\*/)+"

    def shorten(found: re.Match[str]) -> str:
        return found[1] or ("\n" if "\n" in found[0] else " ")

    return re.sub(f"({literal})|{gap}", shorten, c_source, flags=re.DOTALL).strip()


def sha256(*texts: str) -> str:
    """Return the hash of texts, which cannot run into each other."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text.encode()).to_bytes(8, "little"))
        digest.update(text.encode())
    return digest.hexdigest()


def _parse(source: Source) -> ast.Module:
    try:
        return ast.parse(source.data)
    except SyntaxError as exc:
        raise ObjectiveError(
            f"{source.file}, line {exc.lineno}: not valid Python ({exc.msg}). The study depends on "
            "this file; correct it"
        ) from exc


def _imports(node: ast.AST, package: str) -> Iterator[tuple[str, str, str]]:
    """Yield module, name in it ("" for the module itself) and local name of what is imported."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, "", alias.asname or alias.name.partition(".")[0]
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        # Above the top, Python refuses as well.
        if module.strip(".") or package:
            module = importlib.util.resolve_name(module, package) if node.level else module
        for alias in node.names:
            yield module, alias.name, alias.asname or alias.name


def _origins(tree: ast.Module, package: str, own: frozenset[str]) -> dict[str, str]:
    """Return what imported names stand for, by local name: without a place if that is ours."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        for module, name, local in _imports(node, package):
            origin = f"{module}.{name}" if name else module
            if _is_own(module, own) or origin in own:
                origin = name or local
            elif not name and local != module and module.startswith(f"{local}."):
                origin = local  # `import a.b` gives the name `a`
            if origin not in found.setdefault(local, []):
                found[local].append(origin)
    return {local: " or ".join(origins) for local, origins in found.items()}


def _is_own(module: str, own: frozenset[str]) -> bool:
    return module in own or module.partition(".")[0] in OWN_PACKAGES


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth += 1
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


class _Meaning(ast.NodeTransformer):
    """Leaves in a tree what its module does when it is imported, with names by their origins."""

    def __init__(self, origins: Mapping[str, str], own: frozenset[str]) -> None:
        self._origins, self._own = origins, own

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Write `mean` as `numpy.mean`, if it was imported as such."""
        first, *rest = self._origins.get(node.id, node.id).split(".")
        named: ast.expr = ast.Name(first)
        for attribute in rest:
            named = ast.Attribute(named, attribute)
        return named

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Take out docstrings."""
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        """Take out what is for type checkers, or for a module that is run as a program."""
        if ast.unparse(node.test) in _NEVER:
            return [found for part in node.orelse if (found := self.visit(part)) is not None]
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Forget the place in `package.module:name`, if it is one of ours."""
        if isinstance(node.value, str) and _ENTRY_POINT.fullmatch(node.value):
            module, _, name = node.value.partition(":")
            if _is_own(module, self._own):
                return ast.Constant(f":{name}")
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """Join texts, which versions of Python cut differently."""
        self.generic_visit(node)
        joined: list[ast.expr] = []
        for part in node.values:
            if isinstance(part, ast.Constant) and part.value == "":
                continue
            if joined and isinstance(part, ast.Constant) and isinstance(joined[-1], ast.Constant):
                joined[-1] = ast.Constant(f"{joined[-1].value!s}{part.value!s}")
            else:
                joined.append(part)
        return ast.JoinedStr(joined)

    def visit_Import(self, _node: ast.Import) -> None:
        """Take out imports; what they name is told apart."""

    def visit_ImportFrom(self, _node: ast.ImportFrom) -> None:
        """Take out imports of names, too."""

    def visit_Pass(self, _node: ast.Pass) -> None:
        """Take out what does nothing."""


def _text(value: Any) -> str:
    """Return a tree as text that is the same in every version of Python.

    Empty fields are left out: those that later versions add are empty mostly.
    """
    if isinstance(value, ast.AST):
        fields = [
            f"{name}={_text(found)}"
            for name in value._fields
            if name not in _SILENT and (found := getattr(value, name, None)) not in (None, [])
        ]
        return f"{type(value).__name__}({','.join(fields)})"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    # Not repr: which characters are printed as they are depends on the version of Python.
    return f"{type(value).__name__} {value!a}"


def _is_ordered(nodes: Sequence[Any]) -> bool:
    """Return whether a module's statements may mean something else in another order.

    That is so if it does more than define every name once, or calls more than once what it has
    made, when it is imported: a generator of random numbers, or a registry.
    """
    if not all(isinstance(node, _DEFINITIONS) for node in nodes):
        return True
    bound: Counter[str] = Counter()
    for node in nodes:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            bound[node.name] += 1
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for part in (part for target in targets for part in ast.walk(target)):
            if isinstance(part, (ast.Attribute, ast.Subscript)):
                return True
            if isinstance(part, ast.Name):
                bound[part.id] += 1
    called = Counter(name for node in nodes for name in _called(node) & bound.keys())
    return any(count > 1 for counter in (bound, called) for count in counter.values())


def _called(node: Any) -> set[str]:
    """Return the names of what a statement calls, decorators among it, when it is reached."""
    callees = [*getattr(node, "decorator_list", ())]
    if isinstance(node, ast.Call):
        callees.append(node.func)
    names = {
        part.id for callee in callees for part in ast.walk(callee) if isinstance(part, ast.Name)
    }
    for field, value in ast.iter_fields(node):
        # The body of a function is not reached.
        if field != "body" or not isinstance(node, (*_FUNCTIONS, ast.Lambda)):
            for part in value if isinstance(value, list) else [value]:
                names |= _called(part) if isinstance(part, ast.AST) else set()
    return names
