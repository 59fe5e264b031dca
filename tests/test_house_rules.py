"""The repository keeps its own rules: layout, import direction, sizes, clean text, used options."""

import ast
import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from audiolm import config as config_module

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "audiolm-trainer" / "audiolm"

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
MAX_CLASS_LINES = 200

TOP_LEVEL = {
    ".ci", ".gitignore", ".pre-commit-config.yaml", "CITATION.cff", "CONTRIBUTING.md", "LICENSE",
    "README.ko.md", "README.md",
    "audiolm-trainer", "benchmarks", "configs", "docs", "evaluate_efficiency_salmonn.py",
    "evaluate_salmonn.py", "img", "pyproject.toml", "requirements.txt", "scripts",
    "submission_validator.py", "tests",
}  # fmt: skip

# A room may import itself and any room with a lower number.
ROOM_LEVEL = {
    "errors": 0,
    "json_file": 1,
    "config": 2, "prompts": 2, "audio": 2,
    "data": 3,
    "models": 4,
    "training": 5, "evaluation": 5, "compress": 5,
}  # fmt: skip

# Written in pieces, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile(
    r"(?<![\w.~$}>-])/(?:" + "home|root|Users|work|mnt|media|srv|opt|scratch" + r")/[\w.]"
)
REGISTRY_HOST = re.compile(
    r"\b(?:pypi|pythonhosted|npmjs|crates|debian|ubuntu)" + r"\.(?:org|com|io)\b"
    r"|\bdownload\.pytorch" + r"\.org\b|--(?:extra-)?index" + r"-url\b"
)
SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9]{32,}|\bAKIA[A-Z0-9]{16}\b"
    r"|-----BEGIN [A-Z ]*PRIVATE" + r" KEY-----"
)


def list_repository_files() -> list[Path]:
    """Files that git tracks, or would after `git add .` (what is ignored is not ours)."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def list_product_files() -> list[Path]:
    files = [path for path in list_repository_files() if path.suffix == ".py"]
    return [path for path in files if "tests" not in path.relative_to(ROOT).parts[:1]]


def walk_nodes(paths: list[Path]) -> Iterator[tuple[Path, ast.AST]]:
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path, node


def name_place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def show(places: list[str]) -> str:
    return "\n" + "\n".join(places)


def list_package_files() -> list[Path]:
    return [path for path in list_product_files() if PACKAGE in path.parents]


def name_room(module: str) -> str:
    """data -> data; config and its neighbours config_file ... are one room."""
    return "config" if module.startswith("config") else module


def find_room(path: Path) -> str:
    """audiolm/data/batches.py -> data; audiolm/prompts.py -> prompts."""
    return name_room(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))


def list_imported_rooms(path: Path, node: ast.AST) -> list[str]:
    """Rooms of audiolm that a statement imports from, relative imports included."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            folder = path.relative_to(PACKAGE.parent).parts[: -node.level]
            base = ".".join((*folder, *([base] if base else [])))
        names = [f"{base}.{alias.name}" for alias in node.names] if base == "audiolm" else [base]
    else:
        return []
    rooms = [name_room(name.split(".")[1]) for name in names if name.startswith("audiolm.")]
    return [room for room in rooms if not room.startswith("__")]


def test_top_level_holds_only_the_fixed_entries() -> None:
    found = {path.relative_to(ROOT).parts[0] for path in list_repository_files()}
    assert not found - TOP_LEVEL, show(sorted(found - TOP_LEVEL))


def test_rooms_import_only_to_the_left() -> None:
    wrong = []
    for path, node in walk_nodes(list_package_files()):
        room = find_room(path)
        if room == "__init__":
            continue
        for imported in list_imported_rooms(path, node):
            if imported != room and ROOM_LEVEL[imported] >= ROOM_LEVEL[room]:
                wrong.append(f"{name_place(path, getattr(node, 'lineno', 0))} imports {imported}")
    assert not wrong, show(wrong)


def test_package_does_not_import_scripts() -> None:
    scripts = {path.stem for path in list_product_files() if PACKAGE not in path.parents}
    wrong = []
    for path, node in walk_nodes(list_package_files()):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        wrong += [f"{path}: {name}" for name in names if name.split(".")[0] in scripts]
    assert not wrong, show(wrong)


def test_files_functions_and_classes_stay_short() -> None:
    too_long = []
    shell_scripts = [path for path in list_repository_files() if path.suffix == ".sh"]
    for path in list_product_files() + shell_scripts:
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        if num_lines > MAX_FILE_LINES:
            too_long.append(f"{path.relative_to(ROOT)}: {num_lines} lines")
    for path, node in walk_nodes(list_product_files()):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        limit = MAX_CLASS_LINES if isinstance(node, ast.ClassDef) else MAX_FUNCTION_LINES
        num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if num_lines > limit:
            too_long.append(f"{name_place(path, node.lineno)} {node.name}: {num_lines} lines")
    assert not too_long, show(too_long)


@pytest.mark.parametrize(
    "pattern",
    [MACHINE_PATH, REGISTRY_HOST, SECRET],
    ids=["machine paths", "registry hosts", "secrets"],
)
def test_no_tracked_text_holds(pattern: re.Pattern[str]) -> None:
    found = []
    for path in list_repository_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # audio, weights and pictures
        found += [name_place(path, i) for i, line in enumerate(lines, 1) if pattern.search(line)]
    assert not found, show(found)


def test_patterns_find_what_they_look_for() -> None:
    assert MACHINE_PATH.search("open('/" + "home/ann/x.json')")
    assert not MACHINE_PATH.search("$HOME/" + "work/x and ../work/x")
    assert REGISTRY_HOST.search("https://pypi" + ".org/simple")
    assert SECRET.search("token: hf_" + "a1" * 17)


def test_package_does_not_print() -> None:
    """What returns does not print: only scripts, `__main__` and the error wrapper do."""
    prints = [
        name_place(path, node.lineno)
        for path, node in walk_nodes(list_package_files())
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
        and path.name not in {"__main__.py", "errors.py"}
    ]
    assert not prints, show(prints)


def test_no_error_is_swallowed() -> None:
    """No bare or broad `except`, unless it cleans up and raises again."""
    broad = []
    for path, node in walk_nodes(list_product_files()):
        if not isinstance(node, ast.ExceptHandler) or isinstance(node.body[-1], ast.Raise):
            continue
        caught = ast.walk(node.type) if node.type else ()
        names = {child.id for child in caught if isinstance(child, ast.Name)}
        if node.type is None or names & {"Exception", "BaseException"}:
            broad.append(name_place(path, node.lineno))
    assert not broad, show(broad)


def list_options() -> list[tuple[str, str]]:
    classes = [
        value
        for value in vars(config_module).values()
        if isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and value.__module__ == config_module.__name__
    ]
    return [(cls.__name__, field.name) for cls in classes for field in dataclasses.fields(cls)]


def test_every_option_has_a_reader() -> None:
    read = {
        node.attr
        for path, node in walk_nodes(list_product_files())
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and path != PACKAGE / "config.py"
    }
    options = list_options()
    assert len(options) > 40  # the reference alone has that many keys
    unread = [f"{owner}.{name}" for owner, name in options if name not in read]
    assert not unread, show(unread)


@pytest.mark.parametrize("module", ["audiolm", "audiolm.config", "audiolm.errors"])
def test_light_imports_leave_torch_alone(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=PACKAGE.parent, check=False).returncode == 0
