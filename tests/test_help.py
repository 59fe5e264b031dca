"""`--help` of every command answers without loading torch or what takes as long."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAINER = ROOT / "audiolm-trainer"
# Each takes from half a second to several; no command needs one of them to say what it does.
HEAVY = ("torch", "transformers", "pandas", "gradio", "librosa", "scipy", "peft")
SCRIPTS = sorted(
    path
    for folder in (ROOT, TRAINER, ROOT / "scripts")
    for path in folder.glob("*.py")
)  # fmt: skip
MODULES = sorted(path.parent.name for path in (TRAINER / "audiolm").glob("*/__main__.py"))


def run_help(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program that calls a command's `--help`; its status says whether all stayed light."""
    check = f"sys.exit(','.join(m for m in {HEAVY} if m in sys.modules) or 0)"
    lines = ["import runpy, sys", "sys.argv = [sys.argv[0], '--help']", "try:", f"    {program}"]
    lines += ["except SystemExit as end:", "    assert not end.code, end.code", check]
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, cwd=TRAINER, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_help_of_a_script(path: Path) -> None:
    place = f"sys.path.insert(0, {str(path.parent)!r})"  # as the interpreter does
    found = run_help(f"{place}; runpy.run_path({str(path)!r}, run_name='__main__')")
    assert found.returncode == 0, f"loads {found.stderr.strip()[-500:]}"
    assert "usage:" in found.stdout
    assert "--help" in found.stdout


@pytest.mark.parametrize("name", MODULES)
def test_help_of_a_module(name: str) -> None:
    found = run_help(f"runpy.run_module('audiolm.{name}', run_name='__main__')")
    assert found.returncode == 0, f"loads {found.stderr.strip()[-500:]}"
    assert "usage:" in found.stdout


def test_the_check_sees_torch() -> None:
    assert run_help("import torch").returncode != 0
