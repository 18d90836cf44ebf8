"""Every public name says what goes in and what comes out, and has an example and a test in its notebook.

Nothing is imported.
"""

import ast
import io
import json
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MODULES = sorted((REPOSITORY / "retinal_tl").glob("[a-z]*.py"))
CHECK = re.compile(r"^\s*assert\b|\btest_\w+\(|\bassert_\w+\(", re.M)


def comments(text):
    """The lines of a program that end in a comment which says something."""
    found = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0] for token in found if token.type == tokenize.COMMENT and token.string.strip("# ")}


def gives_something(function):
    """Does a function return or yield a value?"""
    inner = {
        id(node)
        for child in ast.walk(function)
        if child is not function and isinstance(child, (ast.FunctionDef, ast.Lambda))
        for node in ast.walk(child)
    }
    own = [node for node in ast.walk(function) if id(node) not in inner]
    return any(
        isinstance(node, (ast.Yield, ast.YieldFrom)) or isinstance(node, ast.Return) and node.value is not None
        for node in own
    )


def undescribed_of_function(function, lines):
    """The parameters of a function without a comment; 'what is returned' if that has none."""
    arguments = function.args
    all_of_them = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    given = sorted(
        (one for one in all_of_them if one and one.arg not in ("self", "cls")),
        key=lambda one: (one.lineno, one.col_offset),
    )
    defaults = {id(default): default for default in [*arguments.defaults, *arguments.kw_defaults] if default}
    for one, after in zip(given, [*given[1:], None]):
        end = max(
            [
                one.end_lineno,
                *(
                    default.end_lineno
                    for default in defaults.values()
                    if one.lineno <= default.lineno and (after is None or default.lineno < after.lineno)
                ),
            ]
        )
        if end not in lines or after is not None and after.lineno <= end:
            yield one.arg
    plain = function.returns is not None and ast.unparse(function.returns) in ("None", "bool")
    last = function.body[0].lineno - 1 if function.body[0].lineno > function.lineno else function.lineno
    if gives_something(function) and not plain and last not in lines:
        yield "what is returned"


def undescribed(node, lines):
    """What a function or class does not say of itself, in words."""
    if not ast.get_docstring(node):
        yield "what it is"
    if isinstance(node, ast.FunctionDef):
        yield from undescribed_of_function(node, lines)
    elif any("dataclass" in ast.unparse(one) for one in node.decorator_list):
        yield from (
            field.target.id for field in node.body if isinstance(field, ast.AnnAssign) and field.end_lineno not in lines
        )
    else:
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                yield from undescribed_of_function(method, lines)


@cache
def public(path):
    """The public functions and classes of a module, as parsed, with its commented lines."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    names = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ),
        [],
    )
    return [
        node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names
    ], comments(text)


@cache
def example_cells(path):
    """The code cells of a module's notebook that are not of the library."""
    name = re.search(r"# %% .*?(\w+\.ipynb)", path.read_text(encoding="utf-8"))[1]
    cells = json.loads((REPOSITORY / "nbs" / name).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return name, [source for source in sources if not re.match(r"#\s*\|\s*(export|default_exp)", source)]


def carriers(cells, names):
    """The names, and what cells assign or define with their help: `found = f(x)` makes `found` speak for `f`."""
    found = set(names)
    for cell in cells:
        try:
            tree = ast.parse(re.sub(r"^[%!].*", "pass", cell, flags=re.M))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Assign, ast.FunctionDef, ast.With, ast.For)):
                continue
            source = node.value if isinstance(node, ast.Assign) else node
            if not set(names) & {one.id for one in ast.walk(source) if isinstance(one, ast.Name)}:
                continue
            if isinstance(node, ast.FunctionDef):
                found.add(node.name)
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [getattr(node, "target", None), *(one.optional_vars for one in getattr(node, "items", ()))]
            )
            found |= {one.id for target in targets if target for one in ast.walk(target) if isinstance(one, ast.Name)}
    return found


def speakers(node, nodes):
    """The name of a function or class; of a class also the functions that give it."""
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    return {node.name} | {
        one.name
        for one in nodes
        if isinstance(one, ast.FunctionDef) and one.returns and re.search(rf"\b{node.name}\b", ast.unparse(one.returns))
    }


def gives_command(name, cell):
    """Does a cell give the subcommand that a function is, as `call("check-data", ...)` for `check_data_command`?"""
    return (
        name.endswith("_command")
        and f'"{name.removesuffix("_command").replace("_", "-")}"' in cell
        and re.search(r"\b(call|main)\(", cell) is not None
    )


def missing_examples():
    for path in MODULES:
        nodes, _ = public(path)
        for node in nodes:
            name, cells = example_cells(path)
            names = speakers(node, nodes)
            using = [
                cell for cell in cells if re.search(rf"\b({'|'.join(names)})\b", cell) or gives_command(node.name, cell)
            ]
            if node.name.endswith("_command") and using:
                continue  # what a subcommand does is seen in what it leaves, cells later
            told = re.compile(rf"\b({'|'.join(carriers(using, names))})\b")
            if not using:
                yield f"{name}: {node.name} has no example"
            elif not any(CHECK.search(cell) and told.search(cell) for cell in cells):
                yield f"{name}: {node.name} has no test"


def test_there_is_something_to_look_at():
    assert sum(len(public(path)[0]) for path in MODULES) > 100


def test_every_parameter_field_and_result_is_described():
    problems = [
        f"{path.stem}.{node.name}: {what}"
        for path in MODULES
        for nodes, lines in [public(path)]
        for node in nodes
        for what in undescribed(node, lines)
    ]
    assert not problems, "without a comment:\n" + "\n".join(problems)


def test_every_public_name_has_an_example_and_a_test():
    problems = list(missing_examples())
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    "text, found",
    [
        ('def f(\n    a:int, # of it\n    b=2,\n) -> int: # so many\n    "It."\n    return a\n', ["b"]),
        (
            'def f(a:int, # of it\n      b:int=(1,\n             2), # two\n      ):\n    "It."\n    return a\n',
            ["what is returned"],
        ),
        ('def f(a, b): # both\n    "It."\n', ["a"]),
        ('def f(a): # it\n    "It."\n    return [lambda: 1]\n', []),
        ("def f() -> bool:\n    return True\n", ["what it is"]),
        ('@dataclass(frozen=True)\nclass A:\n    "It."\n    a: int # of it\n    b: int\n', ["b"]),
    ],
)
def test_what_is_missing_is_noticed(text, found):
    assert list(undescribed(ast.parse(text).body[0], comments(text))) == found


def test_a_missing_example_is_noticed():
    assert carriers(["a, b = f(1)", "def g(): return f(2)", "c = a", "with f() as d: pass"], {"f"}) == {
        "f",
        "a",
        "b",
        "g",
        "d",
    }
    assert gives_command("check_data_command", 'status = call("check-data", "--data", "idrid")') and not gives_command(
        "check_data", 'call("check-data")'
    )
    nodes = ast.parse("class A: pass\ndef make() -> list[A]: pass\ndef other() -> int: pass").body
    assert speakers(nodes[0], nodes) == {"A", "make"} and speakers(nodes[2], nodes) == {"other"}
