"""Decoding with `generate.torch_compile`: the same ids, any length and batch; what cannot be had
is refused. Compiled for real, by the C++ compiler of this machine."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch._inductor.config

from audiolm.config import GenerateConfig
from audiolm.errors import UserError
from audiolm.evaluation.efficiency import Case, Question
from audiolm.evaluation.roofline import count_operations
from audiolm.evaluation.timing_clip import build_synthetic_clip
from audiolm.models import compiled_step, few_rows
from audiolm.models.adapter import attach_adapter
from audiolm.models.compiled_step import CompiledStep, check_compilable
from audiolm.models.decode import generate_ids
from audiolm.models.greedy import TokenLoop
from audiolm.models.kv_cache import POSITIONS_PER_BUCKET
from audiolm.models.salmonn import SALMONN
from tests.test_efficiency import PROMPT, load_log_mel
from tests.test_greedy import LetterTokenizer, both_ways, build_llm, build_rows

COMPILED = {"torch_compile": True, "repetition_penalty": 3.0}


@pytest.fixture(autouse=True)
def nothing_is_compiled() -> Iterator[None]:
    """Each test compiles for itself."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def count_graphs() -> int:
    """Compilations so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_ids_are_those_of_transformers_at_any_length_and_batch() -> None:
    llm = build_llm("llama", num_hidden_layers=1)
    before = count_graphs()
    bucket = POSITIONS_PER_BUCKET
    for lengths in [(9,), (bucket + 3,), (3 * bucket,), (11, 4, 17), (bucket, 8), (5, 5, 5, 5)]:
        ours, theirs = both_ways(llm, build_rows(llm, lengths), **COMPILED, max_new_tokens=16)
        assert ours == theirs
        assert len(set(ours[0])) > 3
    assert count_graphs() - before <= 4  # one row and several, each for one bucket and for all


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen3", "lora"])
def test_logits_are_those_of_the_lean_step(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With norms of its own, and an adapter; past the end of the room that was reserved."""
    monkeypatch.setattr(few_rows, "_pays_in_parts", lambda weight: family == "qwen3")
    llm = build_llm("qwen3" if family == "qwen3" else "llama", num_hidden_layers=1)
    if family == "lora":
        llm = attach_adapter(llm, "lora", options={}).eval()
        for name, parameter in llm.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.2)
    inputs = build_rows(llm, (POSITIONS_PER_BUCKET - 5, 7))
    loops = [TokenLoop(llm, 4), TokenLoop(llm, 4, is_compiled=True)]
    assert isinstance(loops[1].lean_step, CompiledStep)
    states = [loop.prefill(inputs) for loop in loops]
    mask = torch.cat([inputs.attention_mask, torch.ones(2, 12)], 1)[:, None, None].bool()
    for num_new in range(1, 11):
        positions = inputs.attention_mask.sum(1, keepdim=True) - 1 + num_new
        ids = torch.full((2, 1), 5 + num_new)
        seen = mask[..., : POSITIONS_PER_BUCKET - 5 + num_new]
        lean, compiled = (
            loop.lean_step(state.cache, positions, seen, ids)  # type: ignore[misc]
            for loop, state in zip(loops, states, strict=True)
        )
        torch.testing.assert_close(compiled, lean, rtol=1e-4, atol=1e-4 * float(lean.abs().max()))
    for layers in zip(*(state.cache.layers for state in states), strict=True):
        assert layers[0].keys.shape[2] == POSITIONS_PER_BUCKET + 5  # type: ignore[union-attr]
        torch.testing.assert_close(layers[1].keys, layers[0].keys, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "in parts"])
def test_weights_are_read_anew(in_parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compiled for one model must not answer with its weights for another."""
    monkeypatch.setattr(few_rows, "_pays_in_parts", lambda weight: in_parts)
    llm = build_llm("llama", num_hidden_layers=1)
    inputs = build_rows(llm, (6,))
    first, _ = both_ways(llm, inputs, **COMPILED)
    before = count_graphs()
    with torch.no_grad():
        llm.lm_head.weight.copy_(llm.lm_head.weight.flip(0))
    second, theirs = both_ways(llm, inputs, **COMPILED)
    assert second == theirs != first
    other = build_llm("llama", num_hidden_layers=1)
    assert both_ways(other, inputs, **COMPILED)[0] == first
    assert count_graphs() == before


@torch._dynamo.config.patch(recompile_limit=1)
def test_beyond_the_limit_of_compilations(caplog: pytest.LogCaptureFixture) -> None:
    """Shapes that torch compiles no more are decoded all the same, and that is said once."""
    compiled_step._warn_of_limit.cache_clear()
    llm = build_llm("llama", num_hidden_layers=1)
    with caplog.at_level(logging.WARNING):
        for lengths in [(9,), (4, 6), (5, 5, 5)]:
            ours, theirs = both_ways(llm, build_rows(llm, lengths), **COMPILED)
            assert ours == theirs
    ours_alone = [entry for entry in caplog.records if entry.name == compiled_step.__name__]
    assert ["limit of compilations" in entry.message for entry in ours_alone] == [True]


@torch._inductor.config.patch({"cpp.cxx": ("false",)})
def test_a_compilation_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    llm = build_llm("llama", num_hidden_layers=1)
    config = GenerateConfig(num_beams=1, torch_compile=True)
    tokenizer: Any = LetterTokenizer()
    with pytest.raises(UserError, match="torch cannot compile the decoding step here") as caught:
        generate_ids(llm, tokenizer, build_rows(llm, (9,)), config, "")
    assert "\n" not in str(caught.value)


def test_the_compilers_own_words_are_told() -> None:
    told = (
        "CppCompileError: C++ compile error\n\nCommand:\ng++ x\n\nOutput:\nld: no -ltorch\nmore\n"
    )
    reason = compiled_step._find_reason(RuntimeError(told))
    assert reason == "CppCompileError: C++ compile error: ld: no -ltorch"
    assert compiled_step._find_reason(RuntimeError()) == "RuntimeError"


def test_what_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GenerateConfig(num_beams=1, torch_compile=True)
    check_compilable(build_llm("llama"), config)
    check_compilable(build_llm("gemma2"), GenerateConfig(num_beams=4))  # not asked for
    with pytest.raises(UserError, match=r"generate\.num_beams is 4"):
        check_compilable(build_llm("llama"), GenerateConfig(num_beams=4, torch_compile=True))
    with pytest.raises(UserError, match="this LLM is Gemma2ForCausalLM"):
        check_compilable(build_llm("gemma2"), config)
    with pytest.raises(UserError, match="without sliding windows"):
        check_compilable(build_llm("mistral", sliding_window=8), config)
    quantised = build_llm("llama")
    quantised.is_quantized = True
    with pytest.raises(UserError, match="LlamaForCausalLM with sdpa, quantised"):
        check_compilable(quantised, config)
    no_compiler = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with no_compiler, pytest.raises(UserError, match=r"none was found; install g\+\+"):
        check_compilable(build_llm("llama"), config)
    monkeypatch.setattr(torch, "__file__", "/a folder/torch/__init__.py")
    with pytest.raises(UserError, match="path with a space, /a folder/torch"):
        check_compilable(build_llm("llama"), config)


def test_the_efficiency_tool_times_what_is_compiled(dev_model: SALMONN) -> None:
    case = Case(build_synthetic_clip(1.0, seed=0), 1)
    before = count_graphs()
    plain, compiled = (
        Question(dev_model, load_log_mel(), PROMPT, is_compiled=is_compiled).ask(case, 8)
        for is_compiled in (False, True)
    )
    answer = compiled.answer()
    assert count_graphs() > before
    assert answer.num_new_tokens == 8
    counts = [count_operations(workload)["decode"] for workload in (plain, compiled)]
    assert counts[0]["weight_bytes"] == counts[1]["weight_bytes"]
    assert counts[1]["flops"] >= counts[0]["flops"]  # it attends to the whole bucket
    plain.answer()
    assert plain.outcome is not None
    assert compiled.outcome is not None
    assert torch.equal(plain.outcome.new_ids, compiled.outcome.new_ids)
