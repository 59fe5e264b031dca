"""The benchmark of the full size, at a tiny one: what is loaded takes what is planned."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audiolm.errors import UserError
from audiolm.models.stack_sizes import TINY

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def full_size() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("full_size")
    sys.path.remove(str(ROOT / "benchmarks"))
    sys.modules.pop("full_size", None)


@pytest.fixture
def sizes_dir(full_size: Any, tmp_path: Path) -> Path:
    """The shipped configurations with the tiny stack's sizes in them."""
    sizes = {"whisper": TINY.whisper, "beats": TINY.beats, "llama": {**TINY.llama}}
    sizes["llama"] |= {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2}
    for name, folder in full_size.FOLDERS.items():
        path = ROOT / "configs" / "models" / folder / "config.json"
        content = json.loads(path.read_text(encoding="utf-8")) | dict(sizes[name])
        (tmp_path / "sizes" / folder).mkdir(parents=True)
        (tmp_path / "sizes" / folder / "config.json").write_text(json.dumps(content))
    return tmp_path / "sizes"


def test_what_is_loaded_takes_what_is_planned(
    full_size: Any, sizes_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_size, "SHARD_BYTES", 50_000)
    full_size.write_stack(tmp_path / "stack", sizes_dir)
    assert len(list((tmp_path / "stack" / "llama").glob("*.safetensors"))) > 2
    totals = []
    for setting in full_size.SETTINGS.values():
        measured, planned = full_size.compare(tmp_path / "stack", sizes_dir, setting)
        assert measured == planned
        totals.append(measured["total"])
    assert totals[1] < totals[0]


def test_the_folder_is_deleted_unless_it_held_something(
    full_size: Any, sizes_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "stack"
    assert full_size.main([str(folder), "--sizes", str(sizes_dir)]) == 0
    assert not folder.exists()
    assert capsys.readouterr().out.count("| total |") == 2
    with pytest.raises(UserError, match="is not empty"):
        full_size.main([str(sizes_dir)])
    assert any(sizes_dir.iterdir())
