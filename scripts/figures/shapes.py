"""What becomes of a clip's length, by the code's own constants and option defaults."""

import ast
from dataclasses import dataclass
from pathlib import Path

from audiolm.config import ModelConfig

PACKAGE = Path(__file__).resolve().parents[2] / "audiolm-trainer" / "audiolm"
# From the `config.json` of the released Whisper-large-v3 and Llama-3.2-3B-Instruct.
NUM_MEL_BINS, WHISPER_FRAMES, WHISPER_WIDTH = 128, 1500, 1280
LLM_WIDTH = 3072


@dataclass(frozen=True)
class Shapes:
    """Lengths of one clip on its way; what is said of frames and windows is in encoder frames."""

    num_samples: int
    num_mel_frames: int
    num_fbank_frames: int
    num_fbank_bins: int
    num_patches: int
    beats_width: int
    frame_width: int
    window_frames: int
    window_seconds: float
    num_windows_fixed: int
    num_windows_real: int


def read_constants(path: Path) -> dict[str, int]:
    """Numbers that a module assigns at its top level or as defaults of a class's fields."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and isinstance(node.value.value, int):
                found[target.id] = node.value.value
    return found


def compute_shapes(seconds: int) -> Shapes:
    """What becomes of a clip of so many seconds under the default options."""
    audio = read_constants(PACKAGE / "audio" / "loading.py")
    features = read_constants(PACKAGE / "audio" / "features.py")
    whisper = read_constants(PACKAGE / "models" / "whisper.py")
    beats = read_constants(PACKAGE / "models" / "beats.py")
    options = ModelConfig()

    num_samples = seconds * audio["SAMPLE_RATE_HZ"]
    hop, window = features["HOP_SAMPLES"], features["FBANK_WINDOW_SAMPLES"]
    num_fbank_frames = 1 + (num_samples - window) // hop
    patch = beats["input_patch_size"]
    rate = whisper["FRAMES_PER_SECOND"]
    length, step = (round(rate * s) for s in (options.second_per_window, options.second_stride))
    return Shapes(
        num_samples=num_samples,
        num_mel_frames=whisper["MEL_PER_FRAME"] * WHISPER_FRAMES,
        num_fbank_frames=num_fbank_frames,
        num_fbank_bins=features["NUM_FBANK_BINS"],
        num_patches=num_fbank_frames // patch * (features["NUM_FBANK_BINS"] // patch),
        beats_width=beats["encoder_embed_dim"],
        frame_width=WHISPER_WIDTH + beats["encoder_embed_dim"],
        window_frames=length,
        window_seconds=length / rate,
        num_windows_fixed=(WHISPER_FRAMES - length) // step + 1,
        num_windows_real=-(-(num_samples // whisper["SAMPLES_PER_FRAME"]) // step),
    )
