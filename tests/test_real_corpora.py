"""The two worked examples of docs/data.md, run as they are written there.

On small trees laid out as the packages are, with what makes the packages awkward: double spaces,
texts that nobody says, a text without audio, silence, names in other languages. Where the packages
are installed, on them as well.
"""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiolm.data.entries import iterate_entries
from tests.corpora import write_audio

ROOT = Path(__file__).resolve().parent.parent
SOUNDS = "usr/share/asterisk/sounds/en_US_f_Allison"
TEXTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
STAMPS = "usr/share/tuxpaint/stamps"


def run_example(corpus: str, number: int, folder: Path, **replaced: str) -> str:
    """Run a block of the page's example of a corpus in a folder; returns what it prints."""
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    section = page.partition(f"`{corpus}`\n")[2].partition("\n#")[0]
    script = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[number]
    for old, new in replaced.items():
        assert f"{old}=" in script
        script = re.sub(rf"{re.escape(old)}=\S+", f"{old}={new}", script)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "AUDIOLM": str(ROOT), "PYTHONPATH": str(ROOT / "audiolm-trainer")}
    variables |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "sounds": SOUNDS}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "error" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def write_prompts(root: Path) -> None:
    lines = ["; Core Asterisk Sounds in English", "", "beep: [this is a simple beep tone]"]
    lines += ["confbridge-join: <beep ascending>", "silence/1: (1 second of silence)"]
    lines += ["letters/at: at [@]", "pls-try-call-later: Please try your call again later."]
    names = [f"digits/{number}" for number in range(30)]
    lines += [f"{name}: Number {name[7:]},  followed by: pound." for name in names]
    lines += ["vm-a: That is all", "vm-b: that is all."]
    for seed, name in enumerate(["letters/at", *names, "vm-a", "vm-b"]):
        write_audio(root / SOUNDS / f"{name}.wav", seed=seed, rate_hz=8000)
    (root / TEXTS).parent.mkdir(parents=True)
    (root / TEXTS).write_bytes(gzip.compress("\n".join(lines).encode()))


def test_prompts_in_small(tmp_path: Path) -> None:
    write_prompts(tmp_path)
    printed = run_example("asterisk-core-sounds-en", 1, tmp_path)
    rows = {row["path"]: row for row in iterate_entries(tmp_path / "all.json")}
    assert len(rows) == 33
    assert rows["letters/at.wav"]["text"] == "at"
    assert rows["digits/7.wav"]["text"] == "Number 7, followed by: pound."
    assert "left out: 1 entries whose audio is missing" in printed
    assert re.search(r"33 clips.*0 with errors, 33 with warnings", printed)
    assert "same text         0 entries" in printed
    files = (tmp_path / f"parts/{part}.json" for part in ("train", "valid", "test"))
    parts = [{row["path"] for row in iterate_entries(file)} for file in files]
    assert sum(map(len, parts)) == 33
    assert sum({"vm-a.wav", "vm-b.wav"} <= part for part in parts) == 1

    trained = run_example("asterisk-core-sounds-en", 2, tmp_path, **{"run.iters_per_epoch": "2"})
    assert "16 clips a step" in trained
    assert re.search(r"validation loss \d", trained)
    assert list(tmp_path.glob("runs/*/checkpoint_best.pth"))


def test_stamps_in_small(tmp_path: Path) -> None:
    for number in range(24):
        stem = tmp_path / STAMPS / f"animals/birds/bird{number}"
        for seed, ending in enumerate((".ogg", "_desc.ogg", "_desc_fr.ogg")):
            write_audio(stem.with_name(stem.name + ending), 1.2, 3 * number + seed, 44_100)
        stem.with_suffix(".txt").write_text(f"A bird {number}.\nfr.utf8=Un oiseau.\n")
    samples = np.zeros(44_100)
    for name, text in (("hobbies/silent", "Nothing."), ("hobbies/nameless", "")):
        file = tmp_path / STAMPS / f"{name}.ogg"
        file.parent.mkdir(exist_ok=True)
        soundfile.write(file, samples, 44_100)
        if text:
            file.with_suffix(".txt").write_text(text)
    (tmp_path / STAMPS / "household").mkdir()
    printed = run_example("tuxpaint-stamps-default", 1, tmp_path)
    assert "wrote all.json: 49 entries" in printed
    assert "wrote clean.json: 48 clips kept, 1 dropped" in printed
    rows = list(iterate_entries(tmp_path / "clean.json"))
    assert sorted({row["task"] for row in rows}) == ["asr", "audiocaption_v2"]
    spoken = {row["path"] for row in rows if row["task"] == "asr"}
    assert spoken == {f"animals/birds/bird{number}_desc.ogg" for number in range(24)}
    assert (tmp_path / "parts/test.json").is_file()


@pytest.mark.skipif(
    not (Path("/") / SOUNDS).is_dir() or not (Path("/") / TEXTS).is_file(),
    reason="the packages asterisk-core-sounds-en and -wav are not installed",
)
def test_installed_prompts(tmp_path: Path) -> None:
    (tmp_path / "usr").symlink_to("/usr")
    printed = run_example("asterisk-core-sounds-en", 1, tmp_path)
    assert "0 with errors" in printed
    assert "same text         0 entries" in printed


@pytest.mark.skipif(
    not (Path("/") / STAMPS / "animals").is_dir(),
    reason="the package tuxpaint-stamps-default is not installed",
)
def test_installed_stamps(tmp_path: Path) -> None:
    (tmp_path / "usr").symlink_to("/usr")
    printed = run_example("tuxpaint-stamps-default", 1, tmp_path)
    assert re.search(r"wrote clean.json: \d\d+ clips kept", printed)
