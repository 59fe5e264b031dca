"""Dimensions of the random stacks: `TINY` for tests, `NANO` for the demo, `MIDSIZE` for timings."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class StackSize:
    """Dimensions of the three models; what is not named is as in the released ones.

    `num_tokens` is the vocabulary to train for, special tokens included. With `fill_vocabulary`
    unreachable entries bring it to exactly that; otherwise it is what the texts yield.
    """

    name: str
    whisper: Mapping[str, int]
    beats: Mapping[str, int]
    llama: Mapping[str, int]
    num_tokens: int
    fill_vocabulary: bool = False


def _whisper(width: int, num_layers: int, num_heads: int, ffn_width: int) -> dict[str, int]:
    return {
        "d_model": width,
        "encoder_layers": num_layers,
        "encoder_attention_heads": num_heads,
        "encoder_ffn_dim": ffn_width,
        "num_mel_bins": 80,
        "decoder_layers": 1,
        "decoder_attention_heads": num_heads,
        "decoder_ffn_dim": 16,
        "vocab_size": 32,
        "max_target_positions": 8,
    }


TINY = StackSize(
    name="tiny",
    whisper=_whisper(width=64, num_layers=2, num_heads=4, ffn_width=128),
    beats={
        "encoder_layers": 2,
        "encoder_embed_dim": 48,
        "encoder_ffn_embed_dim": 96,
        "encoder_attention_heads": 4,
        "embed_dim": 32,
        "conv_pos": 16,
        "conv_pos_groups": 4,
    },
    llama={
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
    },
    num_tokens=400,
)
# Shallow, because nothing is pretrained: each further layer learns more slowly from scratch.
NANO = StackSize(
    name="nano",
    whisper=_whisper(width=128, num_layers=1, num_heads=4, ffn_width=512),
    beats={
        "encoder_layers": 1,
        "encoder_embed_dim": 96,
        "encoder_ffn_embed_dim": 384,
        "encoder_attention_heads": 4,
        "embed_dim": 64,
        "conv_pos": 32,
        "conv_pos_groups": 4,
    },
    llama={
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 512,
    },
    num_tokens=800,
)
MIDSIZE = StackSize(
    name="midsize",
    whisper={
        **_whisper(width=512, num_layers=6, num_heads=8, ffn_width=2048),
        "decoder_layers": 6,
        "decoder_ffn_dim": 2048,
        "vocab_size": 51865,
        "max_target_positions": 448,
    },
    beats={"encoder_layers": 4},
    llama={
        "hidden_size": 576,
        "num_hidden_layers": 12,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "intermediate_size": 1536,
    },
    num_tokens=32000,
    fill_vocabulary=True,
)
STACK_SIZES = {size.name: size for size in (TINY, NANO, MIDSIZE)}
