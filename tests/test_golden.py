"""The models against the reference's recorded numbers: LoRA and VB-LoRA, with BEATs and without.

Compared are all recordings that every correct implementation must reproduce: batches of equal
length and single clips, and of the padded batch the rows that had no padding (without BEATs: all).
BEATs' own features are in `test_beats.py`, the log-mel and the filterbank in `test_audio.py`.

Where this package deliberately differs, the recordings are not followed:
- BEATs' padding and prompts of other lengths in the batch never change a clip's result, so the
  padded rows of the batches `same` and `mixed` differ from the recordings.
- `max_new_tokens` and `min_length` count new tokens; the reference passed `max_length`, and its
  `min_length` had no effect (`greedy.max_length`, `greedy.alt_eos.min_length6`).
- Each row stops by itself, at the LLM's own stop tokens and at the end symbol, which cannot be
  replaced by another token id (`greedy.alt_eos`, `beam4.alt_eos`).
- Accumulated gradients are averaged (`trajectory.compressed_accum2` sums them).
- A checkpoint holds a shared VB-LoRA bank once, under its shortest name.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from audiolm.config import OptimsConfig
from audiolm.models.decode import generate_ids
from audiolm.models.key_names import to_file_key
from audiolm.models.llm import stop_token_ids
from audiolm.models.salmonn import SALMONN
from audiolm.models.whisper import encode_padded
from audiolm.training.optimiser import build_optimiser, set_learning_rate
from audiolm.training.schedule import compute_learning_rate
from tests.golden import GRAD_NORM_RTOL, LOSS_ATOL, ZERO_GRAD_ATOL, Golden

BATCHES = ("equal", "single.0", "single.1", "single.2")
TRAJECTORY_LOSS_ATOL = 2e-4  # rounding grows over 20 steps
LR_ATOL = 1e-12
BANK = "vblora_vector_bank.default"


class Case:
    """A recorded variant, its model, and the rows of the padded batch without a padding defect."""

    def __init__(self, variant: str, adapter: str) -> None:
        self.golden = Golden(variant, adapter)
        self.model = self.golden.build_model()
        # Row 2 is the longest clip; without BEATs nothing depends on the others' length.
        self.clean_rows = [0, 1, 2] if self.model.beats is None else [2]


CASES = ("dev-lora", "dev-vblora", "nobeats-lora")
only = functools.partial(pytest.mark.parametrize, "case", indirect=True, scope="module")


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param.split("-"))


@pytest.fixture(scope="module")
def golden(case: Case) -> Golden:
    return case.golden


@pytest.fixture(scope="module")
def model(case: Case) -> Iterator[SALMONN]:
    yield case.model
    case.model.zero_grad()


def capture_calls(module: nn.Module) -> list[dict[str, Any]]:
    """Keyword arguments and `output` of every later call of a module."""
    calls: list[dict[str, Any]] = []

    def record(module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        calls.append({**kwargs, "output": output})

    module.register_forward_hook(record, with_kwargs=True)
    return calls


def to_recorded_key(name: str) -> str:
    """Our parameter's name as the recordings have it (the shared bank: its first layer's name)."""
    shared = f"llama_model.base_model.{BANK}"
    first = f"llama_model.base_model.model.model.layers.0.self_attn.q_proj.{BANK}"
    return first if name == shared else to_file_key(name)


def compute_gradients(case: Case, batch: str) -> dict[str, torch.Tensor]:
    """Gradients of a batch's loss, in eval mode, by recorded name."""
    model, golden = case.model, case.golden
    samples = golden.load_samples() if batch == "same" else golden.load_batch(batch)
    model.zero_grad()
    model(samples, prompts=golden.prompts("equal"))["loss"].backward()
    return {
        to_recorded_key(name): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


# Audio to embeddings


@torch.no_grad()
def test_whisper_states(model: SALMONN, golden: Golden) -> None:
    hidden = encode_padded(model.speech_encoder, golden.load_samples()["spectrogram"])
    golden.assert_close("whisper.last_hidden_state_t11", hidden[:, ::11])


@torch.no_grad()
def test_speech_embeddings(model: SALMONN, golden: Golden) -> None:
    recorded = [name for name in BATCHES if golden.has_tensor(f"encode.speech_embeds.{name}")]
    assert len(recorded) >= 2
    for name in recorded:
        samples = golden.load_batch(name)
        embeds, mask = model.encode_speech(
            samples["spectrogram"],
            raw_wav=samples["raw_wav"],
            audio_padding_mask=samples["padding_mask"],
        )
        golden.assert_close(f"encode.speech_embeds.{name}", embeds)
        assert mask.shape == embeds.shape[:2]
        assert mask.all()


@torch.no_grad()
def test_speech_embeddings_of_the_padded_batch(case: Case) -> None:
    samples = case.golden.load_samples()
    arguments = samples["spectrogram"], samples["raw_wav"], samples["padding_mask"]
    embeds, _ = case.model.encode_speech(*arguments)
    rows = case.clean_rows
    case.golden.assert_close("encode.speech_embeds.batch", embeds[rows], rows=rows)


@torch.no_grad()
@only(argvalues=["dev-lora", "nobeats-lora"])
def test_windows_and_queries(case: Case) -> None:
    golden, model = case.golden, case.model
    assert model.speech_Qformer is not None
    calls = capture_calls(model.speech_Qformer)
    samples = golden.load_samples(case.clean_rows)
    model.encode_speech(samples["spectrogram"], samples["raw_wav"], samples["padding_mask"])
    windows, queries = calls[-1]["encoder_hidden_states"], calls[-1]["output"].last_hidden_state
    last = golden.tensor("encode.windows_sel").shape[0] - 1
    golden.assert_close("encode.windows_sel", windows[-1:], rows=[last])
    rows = range(len(golden.tensor("encode.qformer_out")))[-len(queries) :]
    golden.assert_close("encode.qformer_out", queries, rows=rows)


# Text


def test_padding_token(model: SALMONN, golden: Golden) -> None:
    """The row that the tokenizer's new padding token gets, in both tables."""
    assert model.llama_tokenizer.pad_token_id == golden.values["prompt_tokens"]["pad"]
    tables = model.llm.get_input_embeddings(), model.llm.get_output_embeddings()
    for key, table in zip(("pad_embedding_row", "pad_lm_head_row"), tables, strict=True):
        golden.assert_close(key, table.weight[-1])


def test_answer_tokens(model: SALMONN, golden: Golden) -> None:
    texts = golden.values["forward.same"]["texts"]
    expected = golden.values["prompt_tokens"]["text_ids"]
    assert [model.tokenize_answer(text) for text in texts] == expected


@torch.no_grad()
def test_prompt_embeddings(model: SALMONN, golden: Golden) -> None:
    samples = golden.load_batch("single.0")
    inputs = model.prepare(samples, golden.prompts("single.0"))
    before = golden.tensor("prompt_wrap.multi.before_embeds")
    after = golden.tensor("prompt_wrap.multi.after_embeds")
    golden.assert_close(
        "prompt_wrap.multi.before_embeds", inputs.inputs_embeds[0, 1 : len(before) + 1]
    )
    golden.assert_close("prompt_wrap.multi.after_embeds", inputs.inputs_embeds[0, -len(after) :])


# Loss


@torch.no_grad()
@pytest.mark.parametrize("batch", BATCHES)
def test_loss(batch: str, model: SALMONN, golden: Golden) -> None:
    samples = golden.load_batch(batch)
    output = model(samples, verbose=True, prompts=golden.prompts(batch))
    recorded = golden.values[f"forward.{batch}"]
    assert float(output["loss"]) == pytest.approx(recorded["loss"], abs=LOSS_ATOL)
    assert (output["correct"], output["total"]) == (recorded["correct"], recorded["total"])
    assert model(samples, prompts=golden.prompts(batch)).keys() == {"loss"}


@torch.no_grad()
def test_what_the_llm_reads_and_says(model: SALMONN, golden: Golden) -> None:
    calls = capture_calls(model.llm)
    model(golden.load_batch("equal"), prompts=golden.prompts("equal"))
    call = calls[-1]
    golden.assert_close("forward.equal.inputs_embeds", call["inputs_embeds"][:, :12])
    golden.assert_close("forward.equal.attention_mask", call["attention_mask"])
    # Logits are computed for the answers' columns only, and recorded for every 7th token.
    is_answer = golden.tensor("forward.equal.labels") != -100
    logits = call["output"].logits
    assert logits.shape[:2] == is_answer.shape
    golden.assert_close("forward.equal.text_logits", logits[..., ::7][is_answer], rows=is_answer)


@pytest.mark.parametrize("batch", ["equal", "same"])
def test_labels(batch: str, model: SALMONN, golden: Golden) -> None:
    samples = golden.load_samples() if batch == "same" else golden.load_batch(batch)
    answers = [model.tokenize_answer(text) for text in samples["text"]]
    inputs = model.prepare(samples, golden.prompts("equal"), answers)
    num_columns = golden.tensor(f"forward.{batch}.labels").shape[1]
    golden.assert_close(f"forward.{batch}.labels", inputs.labels[:, -num_columns:])
    golden.assert_close(f"forward.{batch}.attention_mask", inputs.attention_mask)
    assert (inputs.labels[:, :-num_columns] == -100).all()


# Decoding


def generate_recorded(case: Case, key: str, samples: Mapping[str, Any], rows: list[int]) -> None:
    """Decode with a recording's options and compare those of its rows."""
    golden, model = case.golden, case.model
    recorded = golden.generations[key]
    inputs = model.prepare(samples, [recorded["prompts"][row] for row in rows])
    assert inputs.inputs_embeds.shape[1] == recorded["input_len"]
    end_text = model.text_options.end_text
    ids = generate_ids(model.llm, model.llama_tokenizer, inputs, recorded["kwargs"], end_text)
    stop_ids = stop_token_ids(model.llm, model.llama_tokenizer, end_text)
    golden.assert_tokens(key, ids, stop_ids, rows)


@torch.no_grad()
@pytest.mark.parametrize("key", ["greedy.equal", "beam4.equal"])
def test_tokens_of_a_batch(key: str, case: Case) -> None:
    generate_recorded(case, key, case.golden.load_batch("equal"), [0, 1, 2])


@torch.no_grad()
@pytest.mark.parametrize("row", [0, 1, 2])
def test_greedy_tokens_of_a_clip(row: int, case: Case) -> None:
    generate_recorded(case, f"greedy.single.{row}", case.golden.load_samples([row]), [0])


@torch.no_grad()
@pytest.mark.parametrize("row", [0, 1, 2])
def test_greedy_tokens_by_task(row: int, case: Case) -> None:
    samples = case.golden.load_samples([row], annotation="annotation_mixed.json")
    generate_recorded(case, f"greedy.mixed_single.{row}", samples, [0])


@torch.no_grad()
@pytest.mark.parametrize("key", ["greedy", "greedy.rp1.5", "beam4", "beam4.lp0.6.rp1.3"])
def test_tokens_of_the_padded_batch(key: str, case: Case) -> None:
    generate_recorded(case, key, case.golden.load_samples(case.clean_rows), case.clean_rows)


@torch.no_grad()
def test_first_logits(case: Case) -> None:
    rows = case.clean_rows
    prompts = [case.golden.generations["greedy"]["prompts"][row] for row in rows]
    inputs = case.model.prepare(case.golden.load_samples(rows), prompts)
    embeds, mask = inputs.inputs_embeds, inputs.attention_mask
    logits = case.model.llm(inputs_embeds=embeds, attention_mask=mask).logits[:, -1]
    case.golden.assert_close("generate.first_logits", logits, rows=rows)


def test_generated_text(case: Case) -> None:
    """The public call, from audio to plain text."""
    recorded = case.golden.generations["salmonn_generate"]
    rows = case.clean_rows
    prompts = [case.golden.generations["greedy"]["prompts"][row] for row in rows]
    texts = case.model.generate(case.golden.load_samples(rows), recorded["kwargs"], prompts=prompts)
    assert texts == [recorded["text"][row] for row in rows]


# Training


def test_gradient_norms(case: Case) -> None:
    recorded = case.golden.optimisation["grad_norms_equal"]["norms"]
    scalars = case.golden.tolerances["scalars"]
    notes = scalars[f"{case.golden.adapter}.grad_norms_equal"]
    zeros = notes["theoretically_zero_gradients"]
    norms = {name: float(grad.norm()) for name, grad in compute_gradients(case, "equal").items()}
    assert norms.keys() == recorded.keys()
    for name, norm in norms.items():
        if name in zeros:
            assert norm < ZERO_GRAD_ATOL, name
        else:
            assert norm == pytest.approx(recorded[name], rel=GRAD_NORM_RTOL), name


@only(argvalues=["nobeats-lora"])
def test_gradients(case: Case) -> None:
    """Recorded of the padded batch, which has a padding defect with BEATs."""
    keys = [key for key in case.golden.tensors if ".grad." in key]
    assert len(keys) == 3
    gradients = compute_gradients(case, "same")
    for key in keys:
        case.golden.assert_close(key, gradients[key.split(".grad.")[1]])


def test_twenty_training_steps(case: Case) -> None:
    """One batch, eval mode, gradients not clipped, the reference's schedule."""
    recorded = case.golden.optimisation["trajectory.compressed_equal"]
    optims = OptimsConfig(**recorded["optims"], schedule="reference")
    total_steps = optims.max_epoch * recorded["iters_per_epoch"]
    model = case.golden.build_model()  # its own: the others' must not change
    optimiser = build_optimiser(model, optims)
    samples, prompts = case.golden.load_batch("equal"), case.golden.prompts("equal")
    losses, rates = [], []
    for step in range(total_steps):
        rates.append(compute_learning_rate(step, total_steps, optims))
        set_learning_rate(optimiser, rates[-1])
        optimiser.zero_grad()
        loss = model(samples, prompts=prompts)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert rates == pytest.approx(recorded["lr"], abs=LR_ATOL, rel=0)
    assert losses == pytest.approx(recorded["loss"], abs=TRAJECTORY_LOSS_ATOL, rel=0)
