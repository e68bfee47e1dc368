"""The rooms and the one-way arrows between them, held as data and checked against the code."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wegeft_pl"

#: What each room may import from the package; CONTRIBUTING.md says why.
ARROWS = {
    "generators": set(),
    "adapter": {"generators", "version"},
    "quickstart": set(),
    "losses": set(),
    "metrics": set(),
    "backbones": {"quickstart"},
    "data": {"backbones", "losses", "metrics", "quickstart"},
    "tasks": {"adapter", "backbones", "losses", "metrics"},
    "accounting": {"adapter"},
    "cli": {"accounting", "adapter", "backbones", "tasks", "version"},
    "callbacks": {"accounting", "adapter", "generators", "tasks", "version"},
}

#: Libraries that only some rooms may import, wherever in a file; under TYPE_CHECKING anyone may.
ONLY_IN = {
    "transformers": {"backbones", "quickstart"},
    "timm": {"backbones"},
    "lightning": {"data", "tasks", "cli", "callbacks"},
    "peft": set(),
    "datasets": {"data"},
}


def room_files(room: str) -> list[Path]:
    folder = ROOT / "callbacks" if room == "callbacks" else PACKAGE / room
    return sorted(folder.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Modules imported anywhere in a file, except for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(ast.walk(node))
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_every_folder_is_a_room() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms | {"callbacks"} == set(ARROWS)


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_go_one_way(room: str) -> None:
    for path in room_files(room):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "wegeft_pl" or len(parts) == 1:
                continue
            target = parts[1]
            if target in ARROWS or target == "version":
                assert target in ARROWS[room] | {room}, f"{path.relative_to(ROOT)} imports {name}"
            else:
                # A name of the core's surface, such as wegeft_pl.inject.
                assert room in {"callbacks", "cli", "tasks", "accounting"}, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_in_their_rooms(library: str) -> None:
    for room in ARROWS:
        for path in room_files(room):
            used = any(name.split(".")[0] == library for name in imports(path))
            assert not used or room in ONLY_IN[library], f"{path.relative_to(ROOT)} imports {library}"


def test_the_core_imports_neither_lightning_nor_transformers() -> None:
    code = "import sys, wegeft_pl; print(sorted({'lightning', 'transformers', 'timm', 'peft'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_packaging_lists_every_package_on_disk() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert set(listed) == on_disk | {"wegeft_pl.callbacks", "wegeft_pl.configs"}


def test_init_files_only_export() -> None:
    for path in [*PACKAGE.rglob("__init__.py")]:
        for node in ast.parse(path.read_text()).body:
            lazily = isinstance(node, (ast.If, ast.FunctionDef)) and path.parent == PACKAGE  # the package's __getattr__
            plain = isinstance(node, (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign))
            assert plain or lazily, f"{path} does more than export"


def test_callbacks_have_one_name() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import callbacks"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "wegeft_pl.callbacks" in result.stderr.splitlines()[-1]


def test_nothing_unpickles() -> None:
    """Files are read as safetensors, JSON, or by torch with weights_only."""
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")]:
        for name in imports(path):
            assert name.split(".")[0] not in {"pickle", "dill", "cloudpickle", "joblib"}, f"{path} imports {name}"
