"""Operations and bytes are counted from what is really multiplied and read."""

from typing import Any

import pytest
import torch
from torch import nn

from audiolm.evaluation.operation_counts import OperationCounter
from audiolm.evaluation.roofline import (
    MachineLimits,
    compute_roofline,
    count_operations,
    measure_limits,
)
from audiolm.evaluation.timing_clip import build_synthetic_clip
from audiolm.evaluation.workload import Workload
from audiolm.models.salmonn import SALMONN
from tests.golden import Golden
from tests.test_efficiency import PROMPT, load_log_mel

NUM_NEW = 6


def count(model: nn.Module, *calls: Any) -> OperationCounter:
    counter = OperationCounter(model)
    with torch.no_grad(), counter:
        for call in calls:
            call()
            counter.end_phase("work")
    return counter


def test_linear_layer() -> None:
    layer = nn.Linear(48, 32)
    work = count(layer, lambda: layer(torch.ones(5, 48))).phases["work"]
    assert work.flops == 2 * 5 * 48 * 32
    assert work.weight_bytes == 4 * (48 * 32 + 32)


def test_attention_and_convolution() -> None:
    query, key = torch.ones(2, 4, 7, 16), torch.ones(2, 4, 9, 16)
    attend = nn.functional.scaled_dot_product_attention
    work = count(nn.Identity(), lambda: attend(query, key, key)).phases["work"]
    assert work.flops == 2 * (2 * 4 * 7 * 9 * 16) * 2  # scores, and their sums of values
    assert work.weight_bytes == 0
    convolution = nn.Conv1d(6, 10, 3, padding=1)
    work = count(convolution, lambda: convolution(torch.ones(1, 6, 20))).phases["work"]
    assert work.flops == 2 * 20 * 10 * 6 * 3


def test_only_the_rows_of_an_embedding_that_are_read_count() -> None:
    table = nn.Embedding(1000, 8)
    work = count(table, lambda: table(torch.tensor([[3, 5, 3]]))).phases["work"]
    assert work.weight_bytes == 3 * 8 * 4


def test_a_weight_counts_once_per_pass_whatever_reads_it() -> None:
    layer = nn.Linear(16, 16, bias=False)

    def use_twice() -> None:
        layer(layer(torch.ones(1, 16)))
        torch.mm(torch.ones(1, 16), layer.weight)  # the same memory, turned

    counter = count(layer, use_twice, use_twice)
    assert counter.phases["work"].weight_bytes == 2 * 4 * 16 * 16
    assert counter.phases["work"].flops == 2 * 3 * 2 * 16 * 16


@pytest.fixture(scope="module")
def counts(dev_model: SALMONN) -> tuple[SALMONN, Workload, dict[str, dict[str, int]]]:
    clip = build_synthetic_clip(1.0, seed=0)
    workload = Workload(dev_model, load_log_mel(), clip.samples, PROMPT, num_new_tokens=NUM_NEW)
    return dev_model, workload, count_operations(workload)


def llm_weight_bytes(model: SALMONN) -> int:
    """What one step reads: every weight, of the tied table as output layer."""
    return sum(p.nbytes for p in model.llm.parameters())


def test_decoding_reads_every_weight_of_the_llm_per_token(counts: Any) -> None:
    model, workload, found = counts
    steps = NUM_NEW - 1
    per_step = found["decode"]["weight_bytes"] / steps
    # the rotary frequencies are buffers, a few bytes more
    assert per_step == pytest.approx(llm_weight_bytes(model), rel=0.001)
    linears = [m for m in model.llm.modules() if isinstance(m, nn.Linear)]
    products = steps * sum(2 * m.in_features * m.out_features for m in linears)
    config = model.llm.config
    width = config.num_attention_heads * config.head_dim
    first = workload.outcome.num_prompt_positions + 1
    attention = sum(4 * config.num_hidden_layers * width * (first + step) for step in range(steps))
    assert found["decode"]["flops"] == products + attention
    per_position = workload.outcome.cache_bytes // workload.outcome.num_cache_positions
    positions = sum(first + step for step in range(steps))
    assert found["decode"]["cache_bytes"] == per_position * positions


def test_whisper_is_counted_whole(counts: Any) -> None:
    model, _, found = counts
    encoder = model.speech_encoder
    assert found["whisper"]["weight_bytes"] == sum(p.nbytes for p in encoder.parameters())
    assert found["log_mel"]["weight_bytes"] == 0


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_weights_count_packed(dev: Golden, dev_model: Any, quantization: str) -> None:
    pytest.importorskip("bitsandbytes")
    model = dev.build_model(quantization=quantization)
    clip = build_synthetic_clip(1.0, seed=0)
    workload = Workload(model, load_log_mel(), clip.samples, PROMPT, num_new_tokens=NUM_NEW)
    workload.answer()  # the first call may repack
    found = count_operations(workload)["decode"]
    plain = count_operations(
        Workload(dev_model, load_log_mel(), clip.samples, PROMPT, num_new_tokens=NUM_NEW)
    )["decode"]
    assert found["flops"] == pytest.approx(plain["flops"], rel=0.01)
    names = ("Linear4bit", "Linear8bitLt")
    linears: list[Any] = [
        m for m in model.llm.modules()
        if type(m).__name__ in names and not hasattr(m, "base_layer")
    ]  # fmt: skip
    num_packed = sum(m.in_features * m.out_features for m in linears)
    saved = (NUM_NEW - 1) * num_packed * (4 - (0.5 if quantization == "nf4" else 1))
    # block maxima and row scales come on top
    scales = (NUM_NEW - 1) * num_packed * 4 / 16
    difference = plain["weight_bytes"] - found["weight_bytes"]
    assert saved - scales <= difference <= saved


def test_share_is_that_of_the_tighter_limit() -> None:
    limits = MachineLimits(1e9, 1e10, "float32")
    counts = {
        "decode": {"flops": 10**8, "weight_bytes": 10**8, "cache_bytes": 10**8},
        "whisper": {"flops": 10**10, "weight_bytes": 10**8, "cache_bytes": 0},
    }
    rows = compute_roofline(counts, {"decode": 0.4, "whisper": 2.0}, limits)
    shown = [(row.phase, row.bound, row.limit_seconds, row.share) for row in rows]
    assert shown == [("whisper", "compute", 1.0, 0.5), ("decode", "memory", 0.2, 0.5)]


def test_limits_come_from_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from audiolm.evaluation import roofline

    monkeypatch.setattr(roofline, "measure_bandwidth_bytes_per_second", lambda device: 5.0)
    monkeypatch.setattr(roofline, "measure_matmul_flops_per_second", lambda device, dtype: 7.0)
    limits = measure_limits(torch.device("cpu"), torch.bfloat16)
    assert limits.as_dict() == {
        "bandwidth_bytes_per_second": 5.0, "matmul_flops_per_second": 7.0, "dtype": "bfloat16",
    }  # fmt: skip
