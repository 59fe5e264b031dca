"""Stored encoder outputs know parts of a file, and clips in shards, from one another."""

from pathlib import Path

from audiolm.data.clips import Clip, Stored
from audiolm.data.feature_cache import identify_clips, name_audio
from tests.corpora import write_audio


def test_parts_of_a_file_are_stored_apart(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 3.0)
    clips = [
        Clip(0, "a.wav"),
        Clip(1, "a.wav", seconds=3.0),  # an annotated length changes nothing
        Clip(2, "a.wav", offset=0.0, seconds=1.0),
        Clip(3, "a.wav", offset=3601.234, seconds=1.0),
        Clip(4, "a.wav", offset=3601.235, seconds=1.0),
        Clip(5, "x", stored=Stored("a.wav", 0, 100)),
        Clip(6, "y", stored=Stored("a.wav", 512, 100)),
    ]
    assert len({name_audio(clip) for clip in clips}) == 6
    identities = identify_clips(clips, tmp_path)
    assert identities[0] == identities[1]
    assert len(set(identities)) == 6
