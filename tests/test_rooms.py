"""The rooms keep to themselves: who may import whom, no circles, and nothing too long to read (CONTRIBUTING.md)."""

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MODEL_LIBRARIES = ("transformers", "timm", "torchvision", "safetensors", "huggingface_hub")

MAY_IMPORT = {
    # a room of engine/, or a package -> modules and rooms of ours beside its own, then other people's packages
    "engine.pictures": (["engine.protocol", "engine.errors"], ["numpy", "PIL", "fsspec"]),
    "engine.saliency": (["engine.errors", "kernels"], ["numpy"]),
    "engine.attributes": (["engine.errors", "kernels"], ["numpy"]),
    "engine.methods": (["engine.saliency", "engine.protocol", "engine.errors", "kernels"], ["numpy", "skimage"]),
    "engine.bundle": (
        [
            *("engine.pictures", "engine.attributes", "engine.saliency"),
            *("engine.protocol", "engine.errors", "engine.files", "engine.npz", "engine.typed"),
        ],
        ["numpy"],
    ),
    "engine.runtime": (
        [
            *("engine.bundle", "engine.pictures", "engine.passes"),
            *("engine.protocol", "engine.errors", "engine.files", "kernels"),
        ],
        ["numpy", "onnxruntime", "openvino", "tensorrt"],
    ),
    "engine.render": (["engine.findings", "engine.saliency", "engine.attributes"], ["numpy", "PIL"]),
    "engine.evaluate": (["engine", "kernels"], ["numpy", "PIL", "matplotlib", "onnx"]),
    "engine.batch": (["engine", "kernels"], ["numpy", "pyarrow"]),
    "engine.index": (["engine", "kernels"], ["numpy", "PIL", "lance", "usearch", "pyarrow"]),
    "engine.service": (
        ["engine", "engine.index", "kernels"],
        ["numpy", "PIL", "fastapi", "prometheus_client", "pydantic", "ray", "starlette", "threadpoolctl", "uvicorn"],
    ),
    "engine": (
        [
            *("engine.attributes", "engine.bundle", "engine.methods", "engine.pictures", "engine.render"),
            *("engine.runtime", "engine.saliency", "kernels"),
        ],
        ["numpy", "tqdm", "pyarrow", "ray"],
    ),
    "kernels": ([], ["numpy", "pycuda", "cuda"]),
    "export": (
        ["engine", "kernels"],
        ["numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "torch", "tqdm", *MODEL_LIBRARIES],
    ),
    "training": (["engine", "export", "kernels"], None),
}
"""None: anything. A room that is not listed is not a room. What is imported inside a function counts too."""
BUILT_ON_TOP = ["engine.batch", "engine.evaluate", "engine.index", "engine.service"]
"""Rooms of engine/ that no other room imports, unless the table names them."""
COMMANDS = {"engine.serve": "engine.service"}
"""Commands that stand beside the room they belong to."""
PACKAGES = ("engine", "export", "kernels")
LONGEST_FILE, LONGEST_FUNCTION = 300, 60
IN_SEVERAL_MODULES = {"main", "ORIGIN", "T"}
"""Names that more than one module defines: a command's entry, what tells our packages from others, a type variable."""


def test_a_room_imports_only_what_it_may() -> None:
    strays = []
    for name, targets in graph().items():
        room = room_of(name)
        inside, outside = MAY_IMPORT[room]
        for target in sorted(targets):
            package = target.split(".")[0]
            if package in sys.stdlib_module_names or room_of(target) == room:
                continue
            if package in (*PACKAGES, "training", "benchmarks", "tests"):
                allowed = any(target == i or target.startswith(f"{i}.") for i in inside)
                below = not on_top(target) or room_of(target) in inside
                allowed = allowed and (room == "training" or package != room.split(".")[0] or below)
            else:
                allowed = outside is None or package in outside
            if not allowed:
                strays.append(f"{name} imports {target}")
    assert not strays


def test_every_folder_of_the_engine_is_a_room() -> None:
    folders = {f"engine.{file.parent.name}" for file in (ROOT / "engine").glob("*/__init__.py")}
    assert folders == {room for room in MAY_IMPORT if room.startswith("engine.")}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle_of_modules_stands(package: str) -> None:
    edges = {name: targets for name, targets in graph().items() if name.split(".")[0] == package}
    reach = {name: reached_from(name, edges) for name in edges}
    assert not sorted(name for name in edges if name in reach[name])


def test_nothing_is_too_long_to_read() -> None:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text()
            assert len(text.splitlines()) <= LONGEST_FILE, file
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, (file, node.name)


def test_a_name_is_defined_in_one_module() -> None:
    where: dict[str, list[str]] = {}
    for package in PACKAGES:
        for name, file in modules(package):
            for defined in sorted(names_defined(file)):
                where.setdefault(defined, []).append(name)
    several = {name: places for name, places in where.items() if len(places) > 1 and name not in IN_SEVERAL_MODULES}
    assert not several


def room_of(name: str) -> str:
    """The room that a module is in: a folder of the engine, else its package."""
    if name in COMMANDS:
        return COMMANDS[name]
    parts = name.split(".")
    folder = ".".join(parts[:2])
    return folder if folder in MAY_IMPORT else parts[0]


def on_top(name: str) -> bool:
    return room_of(name) in BUILT_ON_TOP


def modules(package: str) -> Iterator[tuple[str, Path]]:
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


@functools.cache
def graph() -> dict[str, set[str]]:
    """Module -> what it imports anywhere in it, as dotted names. Importing a module imports the packages around it too, but
    for those that the importing module is in itself.
    """
    files = {name: file for package in (*PACKAGES, "training") for name, file in modules(package)}
    found = {}
    for name, file in files.items():
        around = {name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)}
        targets = set()
        for target in imported(file, set(files)):
            pieces = target.split(".")
            targets |= {".".join(pieces[: i + 1]) for i in range(len(pieces))} - around | {target}
        found[name] = targets - {name}
    return found


def imported(file: Path, known: set[str]) -> Iterator[str]:
    """What a file imports, inside functions and by importlib too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{file}: imports here are absolute"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in whole)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
            (argument,) = node.args
            if isinstance(argument, ast.Constant):  # else a user's module, or what export/__init__.py lists once more
                yield str(argument.value)


def reached_from(name: str, edges: dict[str, set[str]]) -> set[str]:
    """Modules that importing `name` imports, over any number of steps."""
    reached: set[str] = set()
    left = list(edges[name])
    while left:
        target = left.pop()
        if target in edges and target not in reached:
            reached.add(target)
            left += edges[target]
    return reached


def names_defined(file: Path) -> set[str]:
    """Public names that a module defines at its top level."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        parts = [part for t in targets for part in (t.elts if isinstance(t, ast.Tuple) else [t])]
        names |= {part.id for part in parts if isinstance(part, ast.Name)}
    return {name for name in names if not name.startswith("_")}
