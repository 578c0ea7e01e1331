"""What source code means: a hash that comments, layout, docstrings and places do not change.

Python is hashed as the statements of its syntax trees, written down alike by every version of
Python. The statements of all modules are one set: a definition may move to another module, and a
module be split. Names count by what they stand for: a third party's by their origin, however they
were imported; those of the modules by their definitions, wherever these are. An import that nothing
uses does not count.
"""

from __future__ import annotations

import ast
import functools
import gc
import hashlib
import importlib.util
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from hpo.errors import ObjectiveError

# Where something lies within these does not count, be it hashed or not.
_ENGINE = ("features", "hpo")
# What nodes say that means nothing, or that their places say already.
_SILENT = frozenset({"ctx", "kind", "type_comment"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
_IMPORTS = (ast.Import, ast.ImportFrom)
_Import: TypeAlias = ast.Import | ast.ImportFrom
# What is nested deeper is not taken apart. Python's own limit depends on who calls.
_MAX_DEPTH = 150
# Of a study file, and of estimators that are known by name.
_MODULE_AND_ATTRIBUTE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class Source:
    """A module's file; its relative imports begin at `package`."""

    module: str
    package: str
    file: str
    data: bytes


@dataclass(frozen=True)
class _Statement:
    """A statement as text, in which `$` stands for every name from outside of it.

    These are in `references`, in their order: `name.attribute` of the module itself,
    `place:name.attribute` of another one.
    """

    text: str
    references: tuple[str, ...] = ()
    defines: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Module:
    """What a module says, the places of what it imports by local name, and all that it imports."""

    statements: tuple[_Statement, ...]
    places: Mapping[str, str]
    stars: tuple[str, ...]
    imported: frozenset[str]


@functools.lru_cache(maxsize=4)
def hash_meaning(sources: tuple[Source, ...]) -> str:
    """Return a hash of what modules mean together.

    Raises
    ------
    ObjectiveError
        If one is not Python, naming file and line.
    """
    collects = gc.isenabled()
    # Trees are made of many small objects without cycles, and each collection that their number
    # causes would look at all that has been imported: 100 ms instead of 50.
    gc.disable()
    try:
        return _Meaning({source.module: _read(source) for source in sources}).hash()
    finally:
        if collects:
            gc.enable()


def imported_by(source: Source) -> frozenset[str]:
    """Return all that a module imports anywhere: modules, and by their places what is in them."""
    return _read(source).imported


def without_comments(c_source: str) -> str:
    """Return C without comments, indentation and empty lines; literals are left as they are.

    Lines remain lines, which a preprocessor tells apart: to break one counts as a change.
    """
    literal = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"""
    gap = r"(?:\s|//[^\n]*|/\*.*?\*/)+"

    def shorten(found: re.Match[str]) -> str:
        return found[1] or ("\n" if "\n" in found[0] else " ")

    return re.sub(f"({literal})|{gap}", shorten, c_source, flags=re.DOTALL).strip()


class _Meaning:
    """Modules together, and what the names in each of them stand for."""

    def __init__(self, modules: Mapping[str, _Module]) -> None:
        self._modules = modules
        self._definitions: dict[tuple[str, str], list[_Statement]] = {}
        for module, content in modules.items():
            for statement in content.statements:
                for name in statement.defines:
                    self._definitions.setdefault((module, name), []).append(statement)
        self._named = functools.cache(self._name)
        self._defined = functools.cache(self._define)

    def hash(self) -> str:
        """Return the hash of the set of statements, each with the definitions that it refers to.

        Without these, two modules could exchange what each of them means by the same name.
        """
        hashes = set()
        for module, content in self._modules.items():
            for statement in content.statements:
                definitions = (self._defined(module, name) for name in statement.references)
                hashes.add(_sha256(statement.text, *definitions))
        return _sha256(*sorted(hashes))

    def _define(self, module: str, reference: str) -> str:
        """Return the hash of a name, and of the text of its definitions."""
        symbol, owner = self._named(module, reference)
        texts = (
            _sha256(statement.text, *(self._named(owner, name)[0] for name in statement.references))
            for statement in self._definitions.get((owner, symbol.partition(".")[0]), ())
        )
        return _sha256(symbol, *texts)

    def _name(
        self, module: str, reference: str, asked: tuple[tuple[str, str], ...] = ()
    ) -> tuple[str, str]:
        """Return what no move changes of a name, and the module that defines it; "" if none does.

        `asked` is what led here, for modules that import a name from each other.
        """
        place, is_imported, symbol = reference.rpartition(":")
        if (module, reference) in asked:
            return symbol, ""
        asked = (*asked, (module, reference))
        if place.startswith("'"):
            found = self._name_imported(place[1:], symbol, asked)
            return found if found[1] else (reference, "")
        if is_imported:
            return self._name_imported(place, symbol, asked)
        head, _, rest = symbol.partition(".")
        if (module, head) in self._definitions:
            return symbol, module
        content = self._modules[module]
        if head in content.places:
            return self._name(module, _join(content.places[head], rest), asked)
        for star in content.stars:
            if star in self._modules:
                found = self._name(star, symbol, asked)
                if found[1] or found[0] != symbol:
                    return found
        return symbol, ""

    def _name_imported(
        self, place: str, symbol: str, asked: tuple[tuple[str, str], ...]
    ) -> tuple[str, str]:
        parts = [part for part in f"{place}.{symbol}".split(".") if part]
        for end in range(len(parts), 0, -1):
            module, rest = ".".join(parts[:end]), ".".join(parts[end:])
            if module in self._modules:
                return self._name(module, rest, asked) if rest else (parts[-1], "")
        if parts[0] in _ENGINE:
            return symbol or parts[-1], ""
        return f"import {'.'.join(parts)}", ""


@functools.lru_cache(maxsize=128)
def _read(source: Source) -> _Module:
    unread = _Statement(f"bytes {hashlib.sha256(source.data).hexdigest()}")
    if not source.file.endswith(".py"):
        # Compiled: nothing else is known of it.
        return _Module((unread,), {}, (), frozenset())
    try:
        with warnings.catch_warnings():
            # They are given when the module is imported.
            warnings.simplefilter("ignore")
            tree = ast.parse(source.data)
    except SyntaxError as exc:
        raise ObjectiveError(
            f"{source.file}, line {exc.lineno}: not valid Python ({exc.msg}). The study depends on "
            "this file; correct it"
        ) from exc
    reader = _Reader(source.package)
    try:
        return reader.read(tree)
    except RecursionError:
        # A long sum, or a long chain of conditions.
        found = [node for node in ast.walk(tree) if isinstance(node, _IMPORTS)]
        return _Module((unread,), reader.places(found), tuple(reader.stars), reader.imported())


class _Reader:
    """Writes down the statements of a module."""

    def __init__(self, package: str) -> None:
        self.stars: list[str] = []
        # Imports that count in themselves: of all names, or of one name from several places.
        self._counted: list[tuple[str, ...]] = []
        self._package = package
        self._imported: set[str] = set()
        self._places: Mapping[str, str] = {}
        # The names that belong to a function or a class: of what is being read, and of the
        # functions within it, which do not see those of a class.
        self._own: frozenset[str] = frozenset()
        self._own_within: frozenset[str] = frozenset()
        self._depth = 0
        self._text: list[str] = []
        self._references: list[str] = []
        self._writers: dict[type[ast.AST], Callable[[Any], None]] = {
            ast.Name: self._write_name,
            ast.Attribute: self._write_attribute,
            ast.Constant: self._write_constant,
            ast.JoinedStr: self._write_joined,
            **dict.fromkeys((*_FUNCTIONS, ast.ClassDef), self._write_scope),
            **dict.fromkeys(_COMPREHENSIONS, self._write_comprehension),
        }

    def read(self, tree: ast.Module) -> _Module:
        """Return what a module says."""
        self._places = self.places(_bindings(tree.body)[2])
        nodes = list(_meant(tree.body))
        statements = [self._statement(node) for node in nodes]
        if _is_ordered(nodes, statements):
            statements = [
                _Statement(
                    "\n".join(statement.text for statement in statements),
                    tuple(name for statement in statements for name in statement.references),
                    frozenset().union(*(statement.defines for statement in statements)),
                )
            ]
        statements += [_Statement("import", places) for places in self._counted]
        return _Module(tuple(statements), self._places, tuple(self.stars), self.imported())

    def imported(self) -> frozenset[str]:
        """Return all that was imported in what has been read."""
        return frozenset(self._imported)

    def places(self, imports: Iterable[_Import]) -> dict[str, str]:
        """Return `place:name` of what is imported, by local name."""
        found: dict[str, list[str]] = {}
        for node in imports:
            for alias in node.names:
                if isinstance(node, ast.Import):
                    whole = alias.name if alias.asname else alias.name.partition(".")[0]
                    place, name = f"{whole}:", alias.asname or whole
                    self._imported.add(alias.name)
                else:
                    module = _resolve(node, self._package)
                    place, name = f"{module}:{alias.name}", alias.asname or alias.name
                    self._imported |= {module, f"{module}.{alias.name}"}
                    if name == "*":
                        self.stars.append(module)
                        self._counted.append((place,))
                        continue
                if place not in found.setdefault(name, []):
                    found[name].append(place)
        self._counted += [tuple(places) for places in found.values() if len(places) > 1]
        return {name: places[-1] for name, places in found.items()}

    def _statement(self, node: ast.stmt) -> _Statement:
        self._text, self._references = [], []
        self._write(node)
        defines = frozenset(_bindings([node])[0])
        return _Statement("".join(self._text), tuple(self._references), defines)

    def _write(self, node: ast.AST) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise RecursionError
        writer = self._writers.get(type(node))
        if writer is not None:
            writer(node)
        else:
            self._write_fields(node)
        self._depth -= 1

    def _write_fields(self, node: ast.AST, *, body_scope: bool = False) -> None:
        """Write what is in a node, whose body may have names of its own."""
        self._text.append(f"{type(node).__name__}(")
        for field in node._fields:
            if body_scope and field == "body":
                with self._scope(node):
                    self._write_field(node, field)
            elif field not in _SILENT:
                self._write_field(node, field)
        self._text.append(")")

    def _write_field(self, node: ast.AST, field: str) -> None:
        """Write a field that is not empty, as most are that a later version of Python adds."""
        value = getattr(node, field, None)
        if type(value) is list:
            value = [*_meant(value)] or None
        if value is not None:
            self._text.append(f"{field}=")
            self._write_value(value)

    def _write_value(self, value: object) -> None:
        if isinstance(value, ast.AST):
            self._write(value)
        elif isinstance(value, list):
            for item in value:
                self._write_value(item)
                self._text.append(",")
        else:
            self._text.append(ascii(value))

    def _write_name(self, node: ast.Name, attributes: Sequence[str] = ()) -> None:
        if node.id in self._own:
            self._text.append(f"{node.id} ")
            return
        self._text.append("$")
        rest = ".".join(attributes)
        place = self._places.get(node.id)
        self._references.append(_join(place or node.id, rest))

    def _write_attribute(self, node: ast.Attribute) -> None:
        attributes, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            attributes.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id not in self._own:
            self._write_name(inner, attributes[::-1])
        else:
            self._write_fields(node)

    def _write_constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, str) and ":" in value and _MODULE_AND_ATTRIBUTE.fullmatch(value):
            self._text.append("$")
            self._references.append(f"'{value}")
        else:
            # Not repr: which characters are printed as they are depends on the version of Python.
            self._text.append(f"{type(value).__name__} {value!a}")

    def _write_joined(self, node: ast.JoinedStr) -> None:
        """Write an f-string; into how many constants its text is cut differs between versions."""
        self._text.append("JoinedStr(")
        for is_text, group in itertools.groupby(node.values, _is_text):
            if is_text:
                text = "".join(ast.literal_eval(part) for part in group)
                self._text.append(ascii(text) if text else "")
            else:
                self._write_value(list(group))
        self._text.append(")")

    def _write_scope(self, node: ast.AST) -> None:
        self._write_fields(node, body_scope=True)

    def _write_comprehension(self, node: ast.AST) -> None:
        with self._scope(node):
            self._write_fields(node)

    @contextmanager
    def _scope(self, node: Any) -> Iterator[None]:
        before = self._own, self._own_within, self._places
        body = getattr(node, "generators", None) or node.body
        names, not_own, imports = _bindings(body if isinstance(body, list) else [body])
        if isinstance(node, _FUNCTIONS):
            found = ast.iter_child_nodes(node.args)
            names |= {part.arg for part in found if isinstance(part, ast.arg)}
        places = self.places(imports)
        self._own = (self._own_within | names) - not_own - places.keys()
        if not isinstance(node, ast.ClassDef):
            self._own_within = self._own
        if places:
            self._places = {**self._places, **places}
        try:
            yield
        finally:
            self._own, self._own_within, self._places = before


def _meant(nodes: Sequence[Any]) -> Iterator[Any]:
    """Leave out of statements what does nothing where a module is imported; the rest stays."""
    for node in nodes:
        if isinstance(node, ast.expr):
            yield node
        elif isinstance(node, ast.If) and _is_never_true(node.test):
            yield from _meant(node.orelse)
        elif isinstance(node, (*_IMPORTS, ast.Pass)):
            continue
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield node


def _is_never_true(test: ast.expr) -> bool:
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name):
        return test.left.id == "__name__" and ast.unparse(test) == "__name__ == '__main__'"
    name = getattr(test, "id", None) or getattr(test, "attr", None)
    return name == "TYPE_CHECKING"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant)


def _bindings(nodes: Sequence[ast.AST]) -> tuple[set[str], set[str], list[_Import]]:
    """Return the names that statements bind, those that they declare as not theirs, and imports.

    What functions, classes and comprehensions within them bind is not theirs.
    """
    names: set[str] = set()
    not_own: set[str] = set()
    imports: list[_Import] = []
    todo = [*nodes]
    while todo:
        # From the last one to the first.
        node = todo.pop()
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                names.add(node.id)
        elif isinstance(node, _IMPORTS):
            imports.append(node)
        elif isinstance(node, ast.Global):
            not_own.update(node.names)
        elif not isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
            # Definitions, handlers of exceptions, and patterns.
            for field in ("name", "rest"):
                if isinstance(name := getattr(node, field, None), str):
                    names.add(name)
            if not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
                todo.extend(ast.iter_child_nodes(node))
    return names, not_own, imports[::-1]


def _is_ordered(nodes: Sequence[ast.stmt], statements: Sequence[_Statement]) -> bool:
    """Return whether a module's statements may mean something else in another order.

    That is so if it does more than define every name once, or calls more than once, when it is
    imported, what it has made: a generator of random numbers, or a registry.
    """
    if not all(isinstance(node, _DEFINITIONS) and _has_plain_targets(node) for node in nodes):
        return True
    defined = Counter(name for statement in statements for name in statement.defines)
    called = Counter(name for node in nodes for name in _called(node) & defined.keys())
    return any(count > 1 for counter in (defined, called) for count in counter.values())


def _has_plain_targets(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return not any(
        isinstance(part, (ast.Attribute, ast.Subscript))
        for target in targets
        if target is not None
        for part in ast.walk(target)
    )


def _called(statement: ast.stmt) -> set[str]:
    """Return the names of what a statement calls, decorators among them, when it is reached."""
    names: set[str] = set()
    todo: list[Any] = [statement]
    while todo:
        node = todo.pop()
        callees = [*getattr(node, "decorator_list", ())]
        if isinstance(node, ast.Call):
            callees.append(node.func)
        for callee in callees:
            while isinstance(callee, (ast.Attribute, ast.Subscript, ast.Call)):
                callee = callee.func if isinstance(callee, ast.Call) else callee.value
            if isinstance(callee, ast.Name):
                names.add(callee.id)
        if isinstance(node, _FUNCTIONS):
            # Its body is not reached.
            todo += [node.args, *getattr(node, "decorator_list", ())]
        else:
            todo.extend(ast.iter_child_nodes(node))
    return names


def _resolve(node: ast.ImportFrom, package: str) -> str:
    module = "." * node.level + (node.module or "")
    try:
        return importlib.util.resolve_name(module, package)
    except ImportError:
        # Above the top, which Python refuses as well.
        return module.lstrip(".")


def _join(place: str, rest: str) -> str:
    return place + rest if not rest or place.endswith(":") else f"{place}.{rest}"


def _sha256(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text.encode()).to_bytes(8, "little"))
        digest.update(text.encode())
    return digest.hexdigest()
