"""What counts as the code of an objective, and what of it counts as a change."""

from __future__ import annotations

import ast
import io
import random
import re
import sys
import textwrap
import tokenize
from pathlib import Path

import pytest

from hpo.errors import ObjectiveError
from hpo.estimators import trees
from hpo.study.identity.code_meaning import Source, hash_meaning, without_comments
from hpo.study.identity.fingerprint import SCORING_MODULES, fingerprint_of_spec, read_source
from tests.support.studies import ROOT, make_spec, write_study

MODULES = {
    "objective": "from ownsystem.model import depth\nimport ownsystem.rows\nimport json\n",
    "model": "from ownsystem import constants\nfrom . import relative\n",
    "rows": "",
    "constants": "",
    "relative": "",
    "unused": "",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "ownsystem"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownsystem"]:
        del sys.modules[name]


def code_of(name):
    spec = make_spec(objective={"name": name}, cv=None, estimator=None, table=None)
    return fingerprint_of_spec(spec)["code"]


@pytest.mark.slow
@pytest.mark.parametrize("changed", sorted(MODULES))
def test_the_code_is_the_objective_and_what_it_imports_of_its_folder(package, changed):
    before = code_of("ownsystem.objective:Own")
    path = package / f"{changed}.py"
    path.write_text(path.read_text() + "x = 1\n")
    assert (code_of("ownsystem.objective:Own") != before) == (changed != "unused")


def test_a_module_beside_the_study_file_may_import_another(tmp_path, monkeypatch):
    (tmp_path / "own_alone.py").write_text("import own_helper\nimport numpy\n")
    (tmp_path / "own_helper.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = code_of("own_alone:Own")
    (tmp_path / "own_helper.py").write_text("# A remark.\n")
    assert code_of("own_alone:Own") == before
    (tmp_path / "own_helper.py").write_text("x = 1\n")
    assert code_of("own_alone:Own") != before


@pytest.mark.slow
def test_code_that_cannot_be_read_is_named_by_file_and_line(tmp_path, monkeypatch, hpo):
    (tmp_path / "own_broken.py").write_text("def own():\n    import own_wrong\n")
    (tmp_path / "own_wrong.py").write_text("x = 1\ny = (\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ObjectiveError, match=r"own_wrong.py, line 2: not valid Python \('\(' was"):
        code_of("own_broken:Own")
    path = Path(write_study())
    path.write_text(path.read_text().replace("tests.support.objectives:Parabola", "own_wrong:Own"))
    refused = hpo("run", str(path), code=2).stderr
    assert "own_wrong.py, line 2: not valid Python ('(' was never closed)" in refused


# What a change of meaning is ------------------------------------------------------------------


def engine():
    """The text of every scoring module."""
    sources = [read_source(module) for module in SCORING_MODULES]
    return {source.module: source.data.decode() for source in sources if source}


def meaning(texts):
    return hash_meaning(
        tuple(
            Source(module, module.rpartition(".")[0], f"{module}.py", text.encode())
            for module, text in texts.items()
        )
    )


ENGINE = engine()
ENGINE_MEANING = meaning(ENGINE)


def add_comments(text):
    """Put a comment and empty lines after every line at whose end a statement may end."""
    lines = text.splitlines()
    ends = [
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.NEWLINE
    ]
    for number in reversed(ends):
        lines.insert(number, "\n   # A remark: 'quoted'.\n")
    return "\n".join(lines)


def change_docstrings(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
            if ast.get_docstring(node) is None:
                node.body.insert(0, ast.Expr(ast.Constant("New.")))
            elif len(node.body) > 1:
                del node.body[0]
            else:
                node.body = [ast.Pass()]
    return ast.unparse(ast.fix_missing_locations(tree))


def reformat(text):
    return ast.unparse(ast.parse(text))


def spell_imports_differently(text):
    """Reverse the imports at the top, a line for each name, and add some that nothing uses."""
    tree = ast.parse(text)
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    lines = ["import unused_thing", "from unused_package import unused_name as unused"]
    for node in reversed(imports):
        for alias in reversed(node.names):
            single = ast.ImportFrom(node.module, [alias], 0) if hasattr(node, "module") else node
            lines.append(ast.unparse(single))
    rest = [ast.unparse(node) for node in tree.body if node not in imports]
    return "\n".join([*rest, *lines])


def move(module):
    """Rename a module everywhere, as if its file had been moved into another folder."""
    parent, _, name = module.rpartition(".")
    place = f"{parent}.elsewhere"

    def rename(text):
        text = text.replace(f"from {parent} import {name}\n", f"from {place} import {name}\n")
        return re.sub(rf"\b{re.escape(module)}\b", f"{place}.{name}", text)

    return {rename(other): rename(text) for other, text in ENGINE.items()}


def split(module):
    """Put every second statement of a module into another one."""
    tree = ast.parse(ENGINE[module])
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.If))]
    rest = [node for node in tree.body if node not in imports]

    def write(place, there, own):
        names = set()
        for node in there:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            else:
                found = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
                names |= {part.id for part in found if isinstance(part.ctx, ast.Store)}
        lines = [f"from {place} import {name}" for name in sorted(names)]
        return "\n".join([*map(ast.unparse, imports), *lines, *map(ast.unparse, own)])

    other = f"{module}_rest"
    halves = rest[::2], rest[1::2]
    return {
        **ENGINE,
        module: write(other, halves[1], halves[0]),
        other: write(module, halves[0], halves[1]),
    }


def test_every_module_of_objectives_and_estimators_scores_or_is_known_not_to():
    folders = (ROOT / "hpo" / "objectives", ROOT / "hpo" / "estimators")
    modules = {
        f"hpo.{path.parent.name}.{path.stem}" for f in folders for path in f.glob("[a-z]*.py")
    }
    # Suitability says which of two ways gives the same bits; `scores` and `told` refuse and name.
    known = {"estimators.checks", "estimators.suitability", "objectives.scores", "objectives.told"}
    # What is tried first, what is called afterwards, and which figures are values, changes none.
    known |= {"estimators.defaults", "objectives.callbacks", "objectives.values"}
    # Functions score by themselves, as programs do.
    known |= {"objectives.function"}
    assert modules - {*SCORING_MODULES} == {f"hpo.{name}" for name in known}


@pytest.mark.parametrize("module", SCORING_MODULES)
@pytest.mark.parametrize(
    "edit", [add_comments, change_docstrings, reformat, spell_imports_differently]
)
def test_what_only_a_reader_sees_changes_nothing(module, edit):
    edited = edit(ENGINE[module])
    assert edited != ENGINE[module]
    assert meaning({**ENGINE, module: edited}) == ENGINE_MEANING


@pytest.mark.parametrize("module", SCORING_MODULES)
@pytest.mark.parametrize("edit", [move, split])
def test_where_the_engines_code_lies_changes_nothing(module, edit):
    edited = edit(module)
    assert edited.keys() != ENGINE.keys()
    assert meaning(edited) == ENGINE_MEANING


def test_the_order_of_modules_changes_nothing():
    assert meaning(dict(reversed(ENGINE.items()))) == ENGINE_MEANING


OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.USub: ast.UAdd,
    ast.BitOr: ast.BitAnd,
}
LISTS = ("args", "elts", "values", "keywords", "body")


def mutations(tree):
    """Return what may change: a node, one of its fields, and another value."""
    found, todo = [], [*tree.body]
    while todo:
        node = todo.pop()
        if is_meant(node):
            todo.extend(ast.iter_child_nodes(node))
            found += [(node, *change) for change in changes(node)]
    return found


def is_meant(node):
    hidden = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return not hidden and not is_docstring and not isinstance(node, (ast.Import, ast.ImportFrom))


def changes(node):
    """Other constants, names and operators, one item less, and another order of two."""
    for field, value in ast.iter_fields(node):
        one = value[0] if field == "ops" else value
        if isinstance(node, ast.Constant):
            yield "value", other_value(node.value)
            return
        if isinstance(value, str):
            yield field, f"{value}_other"
        elif type(one) in OPERATORS:
            other = OPERATORS[type(one)]()
            yield field, [other, *value[1:]] if field == "ops" else other
        elif isinstance(value, list) and field in LISTS and len(value) > 2:
            *first, one, other = value
            if ast.dump(one) != ast.dump(other):
                yield field, [*first, other, one]
            yield field, value[:-1]


def other_value(value):
    if value is None or value is ...:
        return 7
    if isinstance(value, bool):
        return not value
    return f"{value}x" if isinstance(value, str) else value * 2 + 1


@pytest.mark.parametrize("module", SCORING_MODULES)
def test_every_change_of_what_the_engine_computes_is_one(module):
    number = len(mutations(ast.parse(ENGINE[module])))
    alone = meaning({module: ENGINE[module]})
    chosen = random.Random(module).sample(range(number), min(number, 60))
    for index in chosen:
        tree = ast.parse(ENGINE[module])
        node, field, value = mutations(tree)[index]
        before = ast.unparse(node)
        setattr(node, field, value)
        told = f"{before} -> {ast.unparse(node)}"
        changed = ast.unparse(tree)
        assert meaning({module: changed}) != alone, told
        if index in chosen[:3]:
            assert meaning({**ENGINE, module: changed}) != ENGINE_MEANING, told


SAME = {
    "an alias": ("import numpy as np\ny = np.mean(x)", "from numpy import mean as m\ny = m(x)"),
    "an import within a function": (
        "import numpy as np\ndef f(x):\n return np.mean(x)",
        "def f(x):\n import numpy as np\n return np.mean(x)",
    ),
    "an import for types alone": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n import a\ndef f(x: a.B): pass",
        "import a\ndef f(x: a.B):\n 'Nothing.'",
    ),
    "what is done for the command line": (
        "x = 1",
        "x = 1\nif __name__ == '__main__':\n print(x)",
    ),
    "the order of definitions": (
        "import a\nx = 1\ndef f(): return a.b\nclass C: x = x",
        "def f(): return a.b\nclass C: x = x\nx = 1\nimport a",
    ),
    "how an f-string is cut": ("x = f'a{1}' 'b' f'{2:>{3}}'", "x = (f'a{1}b'\n f'{2:>{3}}')"),
    "where the engine has a name": (
        "from hpo.objective import Objective\nclass Own(Objective): pass",
        "from hpo.objectives.protocol import Objective as O\nclass Own(O): 'Own.'",
    ),
}
OTHER = {
    "another class by the same name": (
        "from sklearn.linear_model import Ridge\nm = Ridge()",
        "from sklearn.linear_model import Lasso as Ridge\nm = Ridge()",
    ),
    "another module by the same name": (
        "def f(x):\n import numpy as np\n return np.mean(x)",
        "def f(x):\n import scipy as np\n return np.mean(x)",
    ),
    "another place of the same name": ("from a import f\nx = f()", "from b import f\nx = f()"),
    "another fallback": (
        "try:\n from a import f\nexcept ImportError:\n from b import f\nx = f()",
        "try:\n from c import f\nexcept ImportError:\n from b import f\nx = f()",
    ),
    "all names of another module": ("from a import *\nx = f()", "from b import *\nx = f()"),
    "the order of values": ("x = 1\nx = 2", "x = 2\nx = 1"),
    "the order of draws": (
        "r = rng(0)\na = r.normal()\nb = r.normal()",
        "r = rng(0)\nb = r.normal()\na = r.normal()",
    ),
    "the order of registration": (
        "def add(f): ...\n@add\ndef a(): ...\n@add\ndef b(): ...",
        "def add(f): ...\n@add\ndef b(): ...\n@add\ndef a(): ...",
    ),
    "the order of effects": ("seed(0)\nx = f()", "x = f()\nseed(0)"),
    "a parameter instead of an import": (
        "import np\ndef f(x): return np.mean(x)",
        "import np\ndef f(np): return np.mean(x)",
    ),
    "a type of number": ("x = 1", "x = 1.0"),
    "truth instead of a number": ("x = True", "x = 1"),
    "the sign of zero": ("x = 0.0", "x = -0.0"),
    "what an f-string says": ("x = f'a{1}b'", "x = f'a{1}c'"),
    "space in a string": ("x = 'a  b'", "x = 'a b'"),
    "where an else belongs": ("if a:\n b()\nelse:\n c()", "if a:\n b()\n c()"),
    "an attribute by its name": ("x = 'own:a'", "x = 'own:b'"),
}


@pytest.mark.parametrize("what", SAME)
def test_a_users_file_may_say_the_same_in_other_words(what):
    one, other = SAME[what]
    assert meaning({"own": one}) == meaning({"own": other})


@pytest.mark.parametrize("what", OTHER)
def test_a_users_file_that_says_something_else_changed(what):
    one, other = OTHER[what]
    assert meaning({"own": one}) != meaning({"own": other})


def test_a_name_is_followed_through_a_users_other_modules():
    helper, user = "from sklearn.linear_model import {}\n", "from own.helper import M\nm = M()\n"
    ridge, lasso = helper.format("Ridge as M"), helper.format("Lasso as M")
    before = meaning({"own.helper": ridge, "own.main": user})
    assert before != meaning({"own.helper": lasso, "own.main": user})
    star = user.replace("import M", "import *")
    before = meaning({"own.helper": ridge, "own.main": star})
    assert before != meaning({"own.helper": lasso, "own.main": star})
    # Modules that import from each other end somewhere.
    meaning({"a": "from b import x\ny = x\n", "b": "from a import x\n"})


def test_a_text_means_the_same_in_every_version_of_python():
    """A study that was begun on one machine goes on on another; a new hash is a new format."""
    text = '''
        import numpy as np
        from sklearn.linear_model import Ridge as Model
        def fit(x: np.ndarray, *, width: int = 3, **rest) -> str:
            """Fit."""
            match x:
                case [1, *others] if others: return f"{x!r:>{width}}{{}}" "é\N{ORANGUTAN}\U0001fae8"
                case {"a": None, **more}: return f"{more=}" + f"{x:}"
            async def later(y, /): return [await z async for z in y if z > -1.5e300]
            try:
                return (lambda q: q[1:, ..., None] @ Model(**rest))(x)
            except* ValueError as error:
                raise error from None
    '''
    assert (
        meaning({"own": textwrap.dedent(text)})
        == "6d185a3fd77f28b5640cddbb54dccd3efff5b8cb2295c7ec70cbc1588434446d"
    )


def test_a_file_that_is_no_text_or_too_deep_counts_by_its_bytes():
    def of(file, data):
        return hash_meaning((Source("own", "", file, data),))

    assert of("own.so", b"\0\1") != of("own.so", b"\0\2")
    long = "x = " + " + ".join(["1"] * 1500)
    assert of("own.py", long.encode()) != of("own.py", f"{long}  # A remark.".encode())
    for terms in (100, 140, 160, 200, 250):
        # However deep the calls are that lead there.
        data = ("x = " + " + ".join(["1"] * terms)).encode()
        assert of("own.py", data) == call_below(200, lambda data=data: of("other.py", data))


def call_below(depth, function):
    return call_below(depth - 1, function) if depth else function()


def test_trees_in_c_count_without_comments():
    source = trees.source()
    short = without_comments(source)
    assert "/*" not in short
    remarked = re.sub(r";\n", ";  // A remark.\n\n    /* Another\n one. */\n", source)
    assert without_comments(remarked) == short
    assert without_comments(source.replace("double gradient", "float gradient")) != short
    assert without_comments("a = \"/* x  */\"; // '\n  b = '\"';") == 'a = "/* x  */";\nb = \'"\';'
