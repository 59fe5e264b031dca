"""audiolm: lightweight audio language models (Whisper + BEATs -> Q-Former -> LoRA LLM).

Importing the package imports nothing heavy; take what you need from its rooms:
`audio`, `data`, `models`, `training`, `evaluation`.
"""

__version__ = "0.1.0"
