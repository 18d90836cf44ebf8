"""The house stands: short modules and functions, imports that run downhill, Keras where networks are built.

The library is read and not imported; each module is known by the notebook that it is exported from.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parent.parent / "retinal_tl"
MODULES = {path.stem: path for path in sorted(LIBRARY.glob("[a-z]*.py"))}
LINES, FUNCTION_LINES, PARAMETERS = 450, 40, 7
ENGINES = {"keras", "tensorflow", "jax"}
WITH_ENGINE = re.compile(r"1[1-9]|2[0789]|26[ab]|41a|42")  # may import one: models, training, formats, export
GUESSES = re.compile(r"""startswith\(\(?["'](resnet|vgg)|endswith\(\(?["']_?cbam|["']_?cbam["'] in """)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def parsed(module):
    """A module's syntax tree."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def notebook(module):
    """The file name of a module's notebook; names in order are chapters in order."""
    return re.search(r"File to edit: \S*?([\w.]+)\.ipynb", MODULES[module].read_text(encoding="utf-8"))[1]


def imported(tree, everywhere=True):
    """The dotted names that are imported, with the line of each; or only those imported when the module is."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((one.name, node.lineno) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["retinal_tl" if node.level else "", node.module]))
            yield from ((f"{module}.{one.name}", node.lineno) for one in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((one.value, node.lineno) for one in node.args if isinstance(one, ast.Constant))
        if everywhere or not isinstance(node, FUNCTIONS):
            waiting += ast.iter_child_nodes(node)


def of_the_library(names):
    """The modules of the library among dotted names, with the line of each."""
    found = ((name.split(".")[1], line) for name, line in names if name.startswith("retinal_tl."))
    return {(module, line) for module, line in found if module in MODULES}


def engines(names):
    """Keras and what it runs on, among dotted names, with the line of each."""
    return {(name.split(".")[0], line) for name, line in names if name.split(".")[0] in ENGINES}


def parameters(function):
    """How many parameters a caller can give, without those that gather the rest."""
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([one for one in given if one.arg not in ("self", "cls")])


def too_long(tree):
    """A sentence for each function that is too long or takes too much."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{node.name} has {lines} lines, and {FUNCTION_LINES} are allowed"
            if parameters(node) > PARAMETERS:
                yield f"{node.name} has {parameters(node)} parameters, and {PARAMETERS} are allowed"


@cache
def at_import(module):
    """The engines and the modules of the library that importing a module imports first of all."""
    names = list(imported(parsed(module), everywhere=False))
    return sorted(name for name, _ in engines(names)), sorted(name for name, _ in of_the_library(names))


def brings(module):
    """The shortest way by which importing a module imports an engine, as names of modules; () if it does not."""
    ways, seen = [(module,)], {module}
    while ways:
        way = ways.pop(0)
        found, others = at_import(way[-1])
        if found:
            return (*way, found[0])
        ways += [(*way, other) for other in others if other not in seen]
        seen |= set(others)
    return ()


def test_every_module_comes_from_a_notebook_of_its_own():
    assert len(MODULES) > 25
    assert len({notebook(module) for module in MODULES}) == len(MODULES)


def test_modules_are_short():
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    long = [f"{notebook(module)}: {count} lines of library" for module, count in lines.items() if count > LINES]
    assert not long, f"over {LINES} lines:\n" + "\n".join(long)


def test_functions_are_short_and_take_little():
    problems = [f"{notebook(module)}: {problem}" for module in MODULES for problem in too_long(parsed(module))]
    assert not problems, "\n".join(problems)


def test_imports_run_downhill():
    """Imports inside of functions too."""
    uphill = [
        f"{notebook(module)} imports {notebook(other)} (line {line} of {module}.py)"
        for module in MODULES
        for other, line in sorted(of_the_library(imported(parsed(module))))
        if notebook(other) >= notebook(module)
    ]
    assert not uphill, "\n".join(uphill)


def test_keras_is_imported_where_networks_are_built_and_trained():
    found = [
        f"{notebook(module)} imports {engine} (line {line} of {module}.py)"
        for module in MODULES
        if not WITH_ENGINE.match(notebook(module))
        for engine, line in sorted(engines(imported(parsed(module))))
    ]
    assert not found, "\n".join(found)


def test_importing_what_needs_no_keras_brings_none():
    """Plans, cards, maps and figures start in a fraction of a second: what they import brings no Keras along."""
    ways = [brings(module) for module in MODULES if not WITH_ENGINE.match(notebook(module))]
    found = [" imports ".join(way) for way in ways if way]
    assert not found, "\n".join(found)


def test_nothing_is_guessed_from_how_a_name_begins_or_ends():
    """What an encoder needs stands in its registry."""
    found = [
        f"{notebook(module)}: {line.strip()}"
        for module, path in MODULES.items()
        for line in path.read_text(encoding="utf-8").splitlines()
        if GUESSES.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text, everywhere, at_import",
    [
        ("import keras.ops", {"keras"}, {"keras"}),
        ("def f():\n    from tensorflow import io", {"tensorflow"}, set()),
        ("class A:\n    import jax\n    def f(self): import keras", {"jax", "keras"}, {"jax"}),
        ("try:\n    import keras\nexcept ImportError: pass", {"keras"}, {"keras"}),
        ("f = lambda: importlib.import_module('keras')\nfrom kerasic import keras", {"keras"}, {"keras"}),
    ],
)
def test_imports_are_noticed(text, everywhere, at_import):
    tree = ast.parse(text)
    assert {engine for engine, _ in engines(imported(tree))} == everywhere
    assert {engine for engine, _ in engines(imported(tree, everywhere=False))} == at_import


def test_what_is_too_long_is_noticed():
    short = "def f(a, b, *, c, d, e, f, g, **rest):\n" + "    pass\n" * 39
    assert not list(too_long(ast.parse(short)))
    long = short.replace("a, b", "a, b, h") + "    pass\n"
    assert [sentence.split(",")[0] for sentence in too_long(ast.parse(long))] == [
        "f has 41 lines",
        "f has 8 parameters",
    ]
    assert of_the_library(imported(ast.parse("from .core import plain\nfrom retinal_tl import images"))) == {
        ("core", 1),
        ("images", 2),
    }
    assert GUESSES.search('if encoder.startswith("resnet50"):') and GUESSES.search("name.endswith('_cbam')")
    assert not GUESSES.search('ENCODERS.add("vgg16_cbam", "retinal_tl.encoders:vgg16_cbam")')
