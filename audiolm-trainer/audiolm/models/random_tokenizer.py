"""A small byte-level BPE tokenizer in the form of Llama-3.2's, trained on given texts.

In: texts and a vocabulary size. Out: `tokenizer.json`, `tokenizer_config.json`,
`special_tokens_map.json`. Like the released tokenizer it has no padding token, puts
`<|begin_of_text|>` before every text and ends a turn with `<|eot_id|>`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

BEGIN_TOKEN = "<|begin_of_text|>"
END_TOKENS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
# Order and names of ids 128000 to 128009 of Llama-3.2.
SPECIAL_TOKENS = (
    BEGIN_TOKEN,
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)
# Llama-3's rule for cutting a text into words before BPE.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer(texts: Sequence[str], num_tokens: int, *, fill: bool = False) -> Tokenizer:
    """Train on `texts`; the special tokens follow the learned ones.

    Args:
        texts: training texts.
        num_tokens: the most tokens there may be, special ones included; at least 266 (256 bytes).
        fill: add entries that no text can reach until there are exactly `num_tokens`.
    """
    num_learned = num_tokens - len(SPECIAL_TOKENS)
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_learned,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if fill:
        tokenizer.model = _fill_model(tokenizer, num_learned)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BEGIN_TOKEN} $A",
                pair=f"{BEGIN_TOKEN} $A {BEGIN_TOKEN}:1 $B:1",
                special_tokens=[(BEGIN_TOKEN, tokenizer.token_to_id(BEGIN_TOKEN))],
            ),
        ]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that `AutoTokenizer.from_pretrained(folder)` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special_map = {"bos_token": BEGIN_TOKEN, "eos_token": "<|eot_id|>"}
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in SPECIAL_TOKENS
    }
    config = special_map | {
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, content in (("special_tokens_map", special_map), ("tokenizer_config", config)):
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def _fill_model(tokenizer: Tokenizer, num_learned: int) -> models.BPE:
    # The word pattern cuts "<unused_7>" into several words, so no text is mapped to such an entry.
    state = json.loads(tokenizer.to_str())["model"]
    vocabulary = dict(state["vocab"])
    for index in range(len(vocabulary), num_learned):
        vocabulary[f"<unused_{index}>"] = index
    merges = [tuple(merge) for merge in state["merges"]]
    return models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True)
