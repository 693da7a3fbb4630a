"""The models and texts of the tests, and how they run the command line and read other packages."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import gte

MODEL = Path(__file__).resolve().parents[2] / "target/models/all-MiniLM-L6-v2"
FAMILIES = Path(__file__).resolve().parents[2] / "gte-core/tests/fixtures/families"
TEXTS = ["How do I return a kettle?", "", "The weather is lovely.", "今天天气真好", "a " * 700]


def changed_model(place, **files):
    """The model with other content in some of its files; None removes a file."""
    place.mkdir()
    for path in MODEL.rglob("*"):
        inside = path.relative_to(MODEL)
        if path.is_file() and inside.name not in files:
            (place / inside).parent.mkdir(exist_ok=True)
            (place / inside).symlink_to(path)
    for name, content in files.items():
        if content is not None:
            (place / name).write_text(json.dumps(content))
    return gte.Embedder(place, precision="f32", threads=2)


def source_of(package, path, kind, name):
    """The arguments of a function in another package and their defaults, read from its source."""
    where = importlib.util.find_spec(package)
    assert where is not None, f"{package} is missing: gte-py/tests/run.sh installs it"
    tree = ast.parse((Path(where.submodule_search_locations[0]) / path).read_text())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == kind]
    # The last definition, after its overloads.
    function = [node for node in classes[0].body if isinstance(node, ast.FunctionDef) and node.name == name][-1].args
    names = [argument.arg for argument in [*function.args, *function.kwonlyargs]][1:]
    defaults = [*function.defaults, *function.kw_defaults]
    return names, [ast.literal_eval(default) for default in defaults if isinstance(default, ast.Constant)]


def run(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "gte", *map(str, arguments)], capture_output=True, text=True, **options)
