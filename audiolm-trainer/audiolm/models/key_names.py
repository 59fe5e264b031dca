"""Names of weights in files of the SALMONN family, and in this package's modules.

Source of the formats: SALMONN's released checkpoints, whose Q-Former is a BERT with query tokens.
"""

import re

# (module name -> file name), applied in order to names that start with `speech_Qformer.`
_TO_FILE = (
    (r"^speech_Qformer\.layernorm\.", "speech_Qformer.bert.embeddings.LayerNorm."),
    (r"^speech_Qformer\.encoder\.", "speech_Qformer.bert.encoder."),
    (r"\.(cross)?attention\.attention\.", r".\1attention.self."),
)
_FROM_FILE = (
    (r"^speech_Qformer\.bert\.embeddings\.LayerNorm\.", "speech_Qformer.layernorm."),
    (r"^speech_Qformer\.bert\.encoder\.", "speech_Qformer.encoder."),
    (r"\.(cross)?attention\.self\.", r".\1attention.attention."),
)

# Wrappers' prefixes: distributed training and torch.compile.
_PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")

# What real files carry beside the trained weights; nothing else is ignored.
_JUNK = re.compile(
    r"""
    llama_model\.(base_model\.model\.)?lm_head\.weight$
    | beats\.encoder\.layers\.\d+\.self_attn\.relative_attention_bias\.weight$
    | speech_Qformer\.bert\.embeddings\.(position_ids|word_embeddings|position_embeddings)(\.|$)
    | speech_Qformer\.cls\.
    | speech_Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\.
    | .*\.rotary_emb\.inv_freq$
    | .*\.(absmax|quant_map|nested_absmax|nested_quant_map)$
    | .*\.quant_state\.
    """,
    re.VERBOSE,
)


def to_file_key(name: str) -> str:
    """A module's parameter name -> the name it has in a checkpoint file."""
    return _rename(name, _TO_FILE)


def from_file_key(key: str) -> str:
    """A checkpoint file's name -> the module's parameter name."""
    return _rename(_PREFIXES.sub("", key), _FROM_FILE)


def is_junk(key: str) -> bool:
    """Whether a file's key is known not to hold trained weights."""
    return _JUNK.match(_PREFIXES.sub("", key)) is not None


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    if name.startswith("speech_Qformer."):
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
    return name
