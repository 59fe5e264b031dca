"""The loop writes what transformers writes: same ids, any LLM, any rule, padded or not."""

import dataclasses
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from audiolm.config import GenerateConfig
from audiolm.errors import UserError
from audiolm.models import few_rows, greedy
from audiolm.models.adapter import attach_adapter, merge_adapter
from audiolm.models.decode import (
    generate_ids,
    stream_ids,
)
from audiolm.models.greedy import TokenLoop
from audiolm.models.kv_cache import ReservedLayer, build_cache, round_up, sees_every_position
from audiolm.models.lean_step import LeanStep, unwrap
from audiolm.models.llm import CausalStep
from audiolm.models.prefix_cache import PrefixCache
from audiolm.models.salmonn import SALMONN
from audiolm.models.splice import LlmInputs, tokenize
from audiolm.models.stopping import EndRules, RunawayGuard
from audiolm.models.transformers_decoding import generate_by_transformers
from tests.golden import Golden

SIZE = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
    "eos_token_id": 7,
    "pad_token_id": 0,
    "bos_token_id": 1,
}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, SLIDING | {"num_hidden_layers": 4}),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, SLIDING | {"num_hidden_layers": 4}),
    "neox": (GPTNeoXConfig, GPTNeoXForCausalLM, {}),
}


def build_llm(family: str, **changes: Any) -> Any:
    """A tiny LLM with weights large enough that its answers vary."""
    config_class, llm_class, options = FAMILIES[family]
    torch.manual_seed(5)
    llm = llm_class(config_class(**(SIZE | options | changes))).eval()
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    return llm


def build_rows(llm: Any, lengths: tuple[int, ...], seed: int = 0) -> LlmInputs:
    """Random prompts of the given lengths, padded left."""
    generator = torch.Generator().manual_seed(seed)
    width = llm.get_input_embeddings().embedding_dim
    embeds = torch.randn(len(lengths), max(lengths), width, generator=generator)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, : max(lengths) - length] = 0
    return LlmInputs(embeds, mask, mask)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_repetition_penalty_does_not_depend_on_the_batch(num_beams: int) -> None:
    """`generate` itself forgets as many new tokens of a row as the row has padding."""
    llm = build_llm("llama")
    inputs = build_rows(llm, (4, 15))
    options = {"repetition_penalty": 1.5, "num_beams": num_beams}
    ours, theirs = both_ways(llm, inputs, **options)
    assert ours == theirs
    mask = inputs.attention_mask[:1, 11:]
    alone = LlmInputs(inputs.inputs_embeds[:1, 11:], mask, mask)
    for rows in both_ways(llm, alone, **options):
        assert rows[0] == ours[0][: len(rows[0])]
    plain = llm.generate(
        inputs_embeds=alone.inputs_embeds, repetition_penalty=1.5, max_new_tokens=30,
        num_beams=num_beams, do_sample=False,
    )  # fmt: skip
    assert plain[0].tolist() == ours[0][: plain.shape[1]]


class LetterTokenizer:
    """As much of a tokenizer as decoding asks for: each id is a text of three letters."""

    bos_token_id, eos_token_id, pad_token_id = 1, 7, 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        ids = [int(text[start : start + 3]) for start in range(0, len(text), 3)]
        return type("Encoding", (), {"input_ids": ids})

    def decode(self, ids: Any) -> str:
        return "".join(f"{int(i):03d}" for i in ids)

    def batch_decode(self, rows: Any) -> list[str]:
        return [self.decode(row) for row in rows]


def both_ways(
    llm: Any,
    inputs: LlmInputs,
    guard: RunawayGuard | None = None,
    seeds: Any = None,
    **options: Any,
) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of the loop, and of transformers."""
    tokenizer: Any = LetterTokenizer()
    values: dict[str, Any] = {"num_beams": 1, "max_new_tokens": 30} | options
    config = GenerateConfig(**values)
    assert CausalStep.fits(llm)
    ours = generate_ids(llm, tokenizer, inputs, config, "", guard=guard, seeds=seeds)
    rules = EndRules.build(llm, tokenizer, config.end_sym, "")
    theirs = generate_by_transformers(llm, tokenizer, inputs, config, rules, guard, seeds)
    return ours.tolist(), theirs.tolist()


@pytest.mark.parametrize(
    ("family", "attention"), [*((f, "") for f in FAMILIES), ("llama", "eager")]
)
@pytest.mark.parametrize("lengths", [(9,), (12, 12), (11, 4, 17)], ids=["one", "equal", "padded"])
def test_ids_are_those_of_transformers(
    family: str, lengths: tuple[int, ...], attention: str
) -> None:
    llm = build_llm(family)
    if attention:
        llm.set_attn_implementation(attention)
    # a penalty, without which some families write one token for ever
    options = {"repetition_penalty": 3.0, "max_new_tokens": 16}
    ours, theirs = both_ways(llm, build_rows(llm, lengths), **options)
    assert ours == theirs
    assert len(set(ours[0])) > 3


# The step without transformers' forward


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(9,), (11, 4, 17)], ids=["one", "padded"])
@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "in parts"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "lora"])
def test_the_lean_step_gives_the_same_logits(
    family: str, in_parts: bool, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With biases, norms of its own, and an adapter; by either way of multiplying."""
    monkeypatch.setattr(few_rows, "_pays_in_parts", lambda weight: in_parts)
    llm = build_adapted("lora") if family == "lora" else build_llm(family)
    for parameter in llm.parameters():
        if parameter.ndim == 1:  # norms and biases away from ones and zeros
            parameter += 0.3 * torch.randn_like(parameter)
    inputs, loops = build_rows(llm, lengths), [TokenLoop(llm, 6), TokenLoop(llm, 6)]
    seen: list[list[torch.Tensor]] = [[], []]
    for loop, logits in zip(loops, seen, strict=True):
        assert loop.lean_step is not None
        loop._choose = lambda state, new, a=loop._choose, b=logits: (b.append(new), a(state, new))  # type: ignore[method-assign]
    loops[1].lean_step = None
    for loop in loops:
        state = loop.prefill(inputs)
        while state.num_new < 6:
            loop.advance(state)
    for lean, whole in zip(*seen, strict=True):
        torch.testing.assert_close(lean, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
    assert len(seen[0]) == 6


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norms_are_transformers_own_bit_for_bit(dtype: torch.dtype) -> None:
    norm = build_llm("qwen3").model.norm.to(dtype)
    norm.weight.normal_()
    hidden = (3 * torch.randn(5, 32)).to(dtype)
    assert unwrap(norm) is not norm
    assert torch.equal(unwrap(norm)(hidden), norm(hidden))


def test_where_the_lean_step_is_not_taken() -> None:
    """Other families, another kernel, a class of somebody else's; nothing is left out of modules
    with more to them."""
    fitting = {family for family in FAMILIES if LeanStep.fits(build_llm(family))}
    assert fitting == {"llama", "mistral", "qwen2", "qwen3"}
    llm = build_llm("llama")
    norm, head = llm.model.norm, llm.lm_head
    assert unwrap(norm) is not norm
    norm.register_forward_hook(lambda *_: None)
    head.forward = head.forward
    assert unwrap(norm) is norm
    assert unwrap(head) is head
    llm.set_attn_implementation("eager")
    assert TokenLoop(llm, 1).lean_step is None
    own = type("LlamaForCausalLM", (LlamaForCausalLM,), {})
    assert not LeanStep.fits(own(build_llm("llama").config))


@pytest.mark.parametrize("every", [1, 8])
@pytest.mark.parametrize("seed", range(2))
def test_rules_of_ending_and_scores(every: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However seldom the loop looks for ends, rows end where transformers ends them."""
    monkeypatch.setitem(greedy.LOOK_EVERY, "cpu", every)
    llm = build_llm("llama")
    inputs = build_rows(llm, (5, 14, 8, 8), seed)
    (free, *_), _ = both_ways(llm, inputs)
    end_text = LetterTokenizer().decode(free[9:11])
    eos = [free[12], 7]
    settings: list[dict[str, Any]] = [
        {"repetition_penalty": 1.3},
        {"min_length": 12},
        {"end_sym": end_text},
        {"end_sym": end_text, "min_length": 20, "repetition_penalty": 1.1},
        {"guard": RunawayGuard((3, 30, 11, 1))},
        {"max_new_tokens": 1},
        {"do_sample": True, "temperature": 2.0, "seeds": [1, 2, 3, 4]},
    ]
    for stop_ids in (7, eos):
        llm.generation_config.eos_token_id = stop_ids
        for setting in settings:
            ours, theirs = both_ways(llm, inputs, **setting)
            assert ours == theirs, setting
    ours, _ = both_ways(llm, inputs, end_sym=end_text)
    assert free[12] not in ours[0][:11]


def test_looping_rows_end_where_transformers_ends_them() -> None:
    llm = build_llm("llama")
    with torch.no_grad():
        for layer in llm.model.layers:  # only the last token counts: it loops soon
            layer.self_attn.o_proj.weight.zero_()
    ours, theirs = both_ways(
        llm, build_rows(llm, (5, 9)), guard=RunawayGuard((200, 200)), max_new_tokens=150
    )
    assert ours == theirs
    assert len(ours[0]) < 150


def test_stream_gives_the_same_ids_one_by_one() -> None:
    llm = build_llm("qwen2")
    inputs = build_rows(llm, (6,))
    tokenizer: Any = LetterTokenizer()
    config = GenerateConfig(num_beams=1, max_new_tokens=12)
    pieces = list(stream_ids(llm, tokenizer, inputs, config, ""))
    assert [len(piece) for piece in pieces] == [1] * len(pieces)
    (ids,) = generate_ids(llm, tokenizer, inputs, config, "").tolist()
    assert [i for piece in pieces for i in piece] == ids
    beams = list(stream_ids(llm, tokenizer, inputs, GenerateConfig(max_new_tokens=4), ""))
    assert len(beams) == 1


def test_closing_the_stream_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = build_llm("llama")
    steps: list[None] = []
    advance = TokenLoop.advance
    monkeypatch.setattr(
        TokenLoop, "advance", lambda self, state: (steps.append(None), advance(self, state))[1]
    )
    config = GenerateConfig(num_beams=1, max_new_tokens=12)
    stream: Any = stream_ids(llm, LetterTokenizer(), build_rows(llm, (6,)), config, "")  # type: ignore[arg-type]
    next(stream)
    next(stream)
    stream.close()
    assert len(steps) == 1


def test_llms_that_the_loop_cannot_drive_go_to_transformers() -> None:
    """MPT takes no positions."""
    llm = MptForCausalLM(MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=120)).eval()
    assert not CausalStep.fits(llm)
    config = GenerateConfig(num_beams=1, max_new_tokens=5)
    tokenizer: Any = LetterTokenizer()
    inputs = build_rows(llm, (6,))
    ids = generate_ids(llm, tokenizer, inputs, config, "")
    rules = EndRules.build(llm, tokenizer, "", "")
    assert ids.tolist() == generate_by_transformers(llm, tokenizer, inputs, config, rules).tolist()


def test_goldens_batches_of_any_kind(dev_model: SALMONN, dev: Golden) -> None:
    prompts = ["<SpeechHere>", "A <SpeechHere> B", "USER: long <SpeechHere> and long after it"]
    with torch.no_grad():
        inputs = dev_model.prepare(dev.load_samples(), prompts)
    llm, tokenizer = dev_model.llm, dev_model.llama_tokenizer
    config = GenerateConfig(num_beams=1, max_new_tokens=40, repetition_penalty=1.2)
    rules = EndRules.build(llm, tokenizer, "", " cries")
    ours = generate_ids(llm, tokenizer, inputs, config, " cries")
    theirs = generate_by_transformers(llm, tokenizer, inputs, config, rules)
    assert ours.tolist() == theirs.tolist()


# The cache


def test_room_is_reserved_once_and_never_copied() -> None:
    llm = build_llm("llama")
    cache = build_cache(llm.config, 70)
    loop = TokenLoop(llm, 20)
    state = loop.prefill(build_rows(llm, (9,)))
    (layer, *_) = state.cache.layers
    assert isinstance(layer, ReservedLayer)
    assert layer.keys is not None
    place = layer.keys.data_ptr()
    while state.num_new < 20:
        loop.advance(state)
    assert layer.keys.data_ptr() == place
    assert layer.get_seq_length() == 9 + 19  # the last token is not read
    assert len(cache.layers) == 3
    assert [round_up(n) for n in (1, 64, 65)] == [64, 64, 128]


def test_room_grows_when_it_is_too_small() -> None:
    layer = ReservedLayer(10)
    states = torch.randn(2, 3, 100, 4)
    for start, end in ((0, 60), (60, 64), (64, 65), (65, 100)):
        part = states[:, :, start:end]
        keys, values = layer.update(part, 2 * part)
    assert torch.equal(keys, states)
    assert torch.equal(values, 2 * states)


def test_sliding_windows_stay_transformers_own() -> None:
    cache = build_cache(build_llm("gemma2").config, 10)
    assert not sees_every_position(cache)
    assert [isinstance(layer, ReservedLayer) for layer in cache.layers] == [False, True] * 2


# Merged adapters


def build_adapted(adapter: str, **options: Any) -> Any:
    """A tiny Llama whose adapter changes what it writes."""
    torch.manual_seed(3)
    llm = attach_adapter(build_llm("llama"), adapter, options=options)
    with torch.no_grad():
        for name, parameter in llm.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.normal_(std=0.2)
    return llm.eval()


@pytest.mark.parametrize(
    ("adapter", "options"),
    [("lora", {}), ("dora", {}), ("hra", {}), ("vblora", {"vector_length": 16, "num_vectors": 8})],
)
def test_merged_adapters_write_the_same(adapter: str, options: dict[str, Any]) -> None:
    llm = build_adapted(adapter, **options)
    inputs = build_rows(llm, (7, 5))
    expected, theirs = both_ways(llm, inputs)
    assert expected == theirs
    merged = merge_adapter(llm)
    assert merged is llm.get_base_model()
    assert not any(hasattr(module, "base_layer") for module in merged.modules())
    assert both_ways(merged, inputs)[0] == expected
    assert expected != both_ways(build_llm("llama"), inputs)[0]
    assert merge_adapter(merged) is merged


def test_merging_refuses_what_moves_the_logits() -> None:
    with pytest.raises(UserError, match="moved the logits by .* more than 1e-12"):
        merge_adapter(build_adapted("lora"), tolerance=1e-12)


def test_merging_refuses_quantised_weights() -> None:
    llm = build_adapted("lora")
    llm.get_base_model().is_quantized = True
    with pytest.raises(UserError, match="cannot add an adapter to quantised weights"):
        merge_adapter(llm)


def test_models_are_built_merged(dev: Golden, dev_model: SALMONN) -> None:
    samples, prompts = dev.load_batch("equal"), dev.generations["greedy.equal"]["prompts"]
    options = {"num_beams": 1, "max_new_tokens": 12}
    merged = dev.build_model(merge_adapter=True)
    texts = merged.generate(samples, options, prompts=prompts)
    assert texts == dev_model.generate(samples, options, prompts=prompts)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]


# The prefix


@pytest.mark.parametrize("lengths", [(9, 9), (12, 6, 17)], ids=["equal", "padded"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_prefixes_are_read_once_and_change_nothing(family: str, lengths: tuple[int, ...]) -> None:
    llm = build_llm(family)
    tokenizer: Any = LetterTokenizer()
    config = GenerateConfig(num_beams=1, max_new_tokens=12, repetition_penalty=2.0)
    prefix, prefixes = (1, 50, 51, 9), PrefixCache()
    for seed in range(3):
        rows = build_rows(llm, lengths, seed)
        for row, length in enumerate(lengths):
            start = max(lengths) - length
            rows.inputs_embeds[row, start : start + 4] = llm.get_input_embeddings()(
                torch.tensor(prefix)
            ).detach()
        inputs = dataclasses.replace(rows, prefix_ids=prefix)
        expected = generate_ids(llm, tokenizer, inputs, config, "")
        ids = generate_ids(llm, tokenizer, inputs, config, "", prefixes=prefixes)
        assert ids.tolist() == expected.tolist()
    assert prefixes.num_computed == (0 if family == "gemma2" else 1)  # not with sliding windows


def test_rows_tell_their_common_prefix(dev_model: SALMONN, dev: Golden) -> None:
    samples = dev.load_samples([0, 1])
    same = ["USER: <SpeechHere> one", "USER: <SpeechHere> two"]
    with torch.no_grad():
        inputs = dev_model.prepare(samples, same)
        other = dev_model.prepare(samples, ["USER: <SpeechHere>", "A <SpeechHere>"])
    tokenizer: Any = dev_model.llama_tokenizer
    assert inputs.prefix_ids == (tokenizer.bos_token_id, *tokenize(tokenizer, "USER: "))
    assert other.prefix_ids == ()
    config = GenerateConfig(num_beams=1, max_new_tokens=20)
    ids = [
        generate_ids(dev_model.llm, tokenizer, inputs, config, "", prefixes=prefixes).tolist()
        for prefixes in (None, PrefixCache())
    ]
    assert ids[0] == ids[1]
