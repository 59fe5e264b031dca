"""Audio that libsndfile does not read (m4a, aac, webm, ...), decoded by an ffmpeg on the machine.

In: a path and the stretch that is wanted. Out: its frames at the file's own rate and channels.
ffmpeg is a program of the user's, not a dependency: without it such files are refused with a
message that says so.
"""

import io
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile

# Containers that libsndfile does not know and ffmpeg does.
FFMPEG_SUFFIXES = frozenset(
    ".m4a .m4b .mp4 .aac .webm .weba .mka .mkv .mov .wma .amr .3gp .ac3 .ape .wv".split()
)
PREROLL_SECONDS = 1.0  # decoded and dropped: codecs with overlapping frames need a run-up
_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")


class FfmpegError(Exception):
    """Why ffmpeg could not decode a file, in a few words."""


def needs_ffmpeg(path: str | Path) -> bool:
    """Whether a file's name says that libsndfile cannot read it."""
    return Path(path).suffix.lower() in FFMPEG_SUFFIXES


def decode_with_ffmpeg(
    path: str | Path, *, offset_seconds: float, max_seconds: float
) -> tuple[np.ndarray, int, float]:
    """Decode one stretch of a file.

    Returns:
        (T, C) float32 frames from `offset_seconds` on, `max_seconds` of them at most; the rate in
        Hz; the length of the whole file in seconds.

    Raises:
        FfmpegError: ffmpeg is not there, or cannot read the file.
    """
    # Seeking to the very start would drop the encoder's delay twice, so it is not asked for.
    start = max(0.0, offset_seconds - PREROLL_SECONDS)
    arguments = ["-ss", f"{start:.6f}"] if start else []
    arguments += ["-i", f"file:{path}"]
    arguments += ["-ss", f"{offset_seconds - start:.6f}"] if offset_seconds else []
    arguments += ["-t", f"{max_seconds:.6f}"] if math.isfinite(max_seconds) else []
    arguments += ["-map", "0:a:0"]
    # AU is a container that may be written to a pipe: its header may leave the length open.
    finished = _run_ffmpeg([*arguments, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"])
    report = finished.stderr.decode("utf-8", "replace")
    if finished.returncode != 0:
        raise FfmpegError(_last_line(report))
    seconds = _find_seconds(report)
    if seconds <= offset_seconds:
        return np.zeros((0, 1), np.float32), 1, seconds
    try:
        frames, rate_hz = soundfile.read(
            io.BytesIO(finished.stdout), dtype="float32", always_2d=True
        )
    except soundfile.LibsndfileError as error:
        raise FfmpegError(_last_line(report)) from error
    return frames, rate_hz, max(seconds, offset_seconds + frames.shape[0] / rate_hz)


def measure_with_ffmpeg(path: str | Path) -> float:
    """Length of a file in seconds, by its header.

    Raises:
        FfmpegError: ffmpeg is not there, or finds no length.
    """
    # Without an output ffmpeg ends with status 1, after having told what the input is.
    report = _run_ffmpeg(["-i", f"file:{path}"]).stderr.decode("utf-8", "replace")
    return _find_seconds(report)


def _run_ffmpeg(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ffmpeg")
    if program is None:
        raise FfmpegError("it needs ffmpeg, which is not installed here (or convert it to flac)")
    command = [program, "-hide_banner", "-nostdin", "-nostats", "-threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, check=False)


def _find_seconds(report: str) -> float:
    found = _DURATION.search(report)
    if found is None:
        raise FfmpegError(_last_line(report))
    hours, minutes, seconds = found.groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _last_line(report: str) -> str:
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    return f"ffmpeg says: {lines[-1]}" if lines else "ffmpeg gives no reason"
