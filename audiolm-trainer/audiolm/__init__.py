"""audiolm: lightweight audio language models (Whisper + BEATs -> Q-Former -> LoRA LLM).

    from audiolm import load_model
    model = load_model("config.yaml")
    print(model.transcribe("clip.wav"))

Importing the package imports nothing heavy: `load_model` brings torch when it is first asked for.
The rooms: `audio`, `data`, `models`, `training`, `evaluation`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiolm.evaluation.answering import load_model as load_model

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_model`, imported when it is asked for; see PEP 562."""
    if name == "load_model":
        from audiolm.evaluation.answering import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
