"""Modules that fail when they are imported: what is wrong, what the error says, the source."""

MODULES = [
    (
        "KeyboardInterrupt",
        r"cannot import 'MODULE': it ends the process .*KeyboardInterrupt; .*MODULE.py",
        "raise KeyboardInterrupt\n",
    ),
    (
        "module that asks a person",
        r"cannot import 'MODULE': EOFError: .*MODULE\.py, line 1",
        "answer = input()\n",
    ),
    (
        "endless recursion",
        r"cannot import 'MODULE': RecursionError: ",
        "def again():\n    return again()\n\n\nagain()\n",
    ),
    (
        "recursion that Python does not see",
        r"it ends the process .*killed by SIGSEGV",
        "import sys\nsys.setrecursionlimit(10**8)\nx = ()\nfor _ in range(10**6):\n    x = (x,)\n"
        "hash(x)\n",
    ),
    ("brackets too deep", "MODULE.py.*not valid Python", f"x = {'(' * 300}{')' * 300}\n"),
    ("expression too deep", "cannot import 'MODULE'", f"x = {'-' * 20000}1\n"),
    ("null bytes", r"MODULE.*null bytes", "x = 1\n\0\n"),
    ("no UTF-8", r"MODULE.*not valid Python", "x = '\udcff'\n"),
    (
        "warning that is an error",
        "cannot import 'MODULE': UserWarning: old",
        "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('old')\n",
    ),
]
