"""The objective `ctc`: the loss itself, and training a connector with it."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import train
from torch import nn

from audiolm.config import OptimsConfig
from audiolm.errors import UserError
from audiolm.models.ctc_loss import (
    BLANK,
    SHARPNESS,
    CtcVocabulary,
    compress_tokens,
    compute_ctc_loss,
    compute_token_logits,
    count_common,
    read_tokens,
)
from audiolm.models.salmonn import SALMONN
from audiolm.training.ctc import count_needed
from audiolm.training.optimiser import build_optimiser, set_learning_rate
from tests.golden import Golden
from tests.training_runs import arguments, read_log, run_folders

WIDTH, NUM_IDS = 6, 12
VOCABULARY = CtcVocabulary(torch.tensor([9, 4, 7]), {9: 0, 4: 1, 7: 2})  # 9 is the blank


@pytest.fixture
def embeddings() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(NUM_IDS, WIDTH)


def compute(audio: torch.Tensor, lengths: list[int], answers: list[list[int]], table: nn.Module):
    mask = (torch.arange(audio.shape[1]) < torch.tensor(lengths)[:, None]).long()
    return compute_ctc_loss(audio, mask, answers, table, VOCABULARY)


def collapse(path: tuple[int, ...]) -> list[int]:
    return [column for column, _ in itertools.groupby(path) if column != BLANK]


@pytest.mark.parametrize("answer", [[4], [4, 7], [7, 7], [4, 7, 4]])
def test_loss_is_the_probability_of_all_paths_that_read_as_the_answer(
    answer: list[int], embeddings: nn.Embedding
) -> None:
    """Graves et al. 2006, equations 2 and 3, by listing every path."""
    audio = torch.randn(1, 4, WIDTH)
    log_probabilities = compute_token_logits(audio, embeddings, VOCABULARY).log_softmax(-1)[0]
    columns = [VOCABULARY.columns[i] for i in answer]
    paths = [p for p in itertools.product(range(3), repeat=4) if collapse(p) == columns]
    expected = -torch.logsumexp(
        torch.stack([log_probabilities[range(4), p].sum() for p in paths]), 0
    )
    result = compute(audio, [4], [answer], embeddings)
    assert float(result.loss) == pytest.approx(float(expected) / len(answer), rel=1e-5)
    assert result.total == len(answer)


def test_an_embedding_itself_has_the_stated_logit(embeddings: nn.Embedding) -> None:
    audio = embeddings(VOCABULARY.ids)[None]
    own = compute_token_logits(audio, embeddings, VOCABULARY)[0].diagonal()
    assert float(own.mean().detach()) == pytest.approx(SHARPNESS, rel=1e-5)


def test_what_all_embeddings_share_does_not_count(embeddings: nn.Embedding) -> None:
    """The mean itself is like none of them."""
    mean = embeddings(VOCABULARY.ids).mean(0)
    logits = compute_token_logits(mean[None, None], embeddings, VOCABULARY)
    torch.testing.assert_close(logits, torch.zeros(1, 1, 3), atol=1e-5, rtol=0)


def test_embeddings_themselves_read_as_their_tokens(embeddings: nn.Embedding) -> None:
    audio = embeddings(torch.tensor([[4, 4, 9, 4, 7, 9]]))
    result = compute(audio, [6], [[4, 4, 7]], embeddings)
    assert (result.correct, result.total) == (3, 3)
    logits = compute_token_logits(audio, embeddings, VOCABULARY)
    assert read_tokens(logits, torch.ones(1, 6, dtype=torch.long)) == [[1, 1, 2]]
    assert read_tokens(logits, torch.tensor([[1, 1, 0, 0, 0, 0]])) == [[1]]


def test_rows_do_not_depend_on_one_another(embeddings: nn.Embedding) -> None:
    audio, answers = torch.randn(3, 6, WIDTH), [[4], [7, 4], [4, 7, 7]]
    lengths = [2, 4, 6]
    together = compute(audio, lengths, answers, embeddings)
    for row, (length, answer) in enumerate(zip(lengths, answers, strict=True)):
        alone = compute(audio[row : row + 1, :length], [length], [answer], embeddings)
        assert float(together.row_losses[row]) == pytest.approx(float(alone.row_losses), rel=1e-5)
        assert together.row_correct[row] == alone.row_correct
    assert float(together.loss) == pytest.approx(float(together.row_losses.sum()) / 6, rel=1e-5)


def test_a_clip_too_short_for_its_answer_adds_nothing(embeddings: nn.Embedding) -> None:
    audio = torch.randn(1, 2, WIDTH, requires_grad=True)
    result = compute(audio, [2], [[4, 4]], embeddings)  # needs a blank between
    result.loss.backward()
    assert float(result.loss.detach()) == 0
    assert audio.grad is not None
    assert not audio.grad.any()


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([], [1], 0), ([1, 2, 3], [1, 3], 2), ([1, 2], [2, 1], 1), ([5, 1, 5], [5, 5], 2)],
)
def test_count_common(one: list[int], other: list[int], expected: int) -> None:
    assert count_common(one, other) == expected


def test_the_connector_may_have_a_rate_of_its_own(dev: Golden) -> None:
    model = dev.build_model()
    optimiser = build_optimiser(model, OptimsConfig(connector_lr_scale=0.1))
    set_learning_rate(optimiser, 1e-3)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            expected = 1e-3 if name.startswith("llama_model.") else 1e-4
            assert rates[id(parameter)] == pytest.approx(expected), name


# In the model


@pytest.fixture(scope="module")
def ctc_model(dev: Golden) -> SALMONN:
    return dev.build_model(objective="ctc", audio_tokens="length_aware")


def draw_samples(texts: list[str]) -> dict[str, Any]:
    lengths = torch.tensor([16000 * 3] * len(texts))
    return {
        "spectrogram": torch.randn(len(texts), 80, 3000),
        "raw_wav": torch.randn(len(texts), 16000 * 3),
        "padding_mask": torch.arange(16000 * 3) >= lengths[:, None],
        "text": texts,
        "task": ["asr"] * len(texts),
        "Q": [""] * len(texts),
    }


def test_only_the_connector_gets_gradients(
    ctc_model: SALMONN, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("the LLM must not run")

    samples = draw_samples(["one", "no"])
    answers = [ctc_model.tokenize_answer(text) for text in samples["text"]]
    vocabulary = CtcVocabulary.of(ctc_model.llama_tokenizer, answers)
    monkeypatch.setattr(ctc_model, "ctc_vocabulary", vocabulary)
    monkeypatch.setattr(ctc_model.llm, "forward", refuse)
    ctc_model.zero_grad()
    result = ctc_model(samples, verbose=True)
    result["loss"].backward()
    assert math.isfinite(result["loss"].item())
    assert result["total"] == sum(map(len, answers))
    with_gradient = {n.split(".")[0] for n, p in ctc_model.named_parameters() if p.grad is not None}
    assert "speech_llama_proj" in with_gradient
    assert "llama_model" not in with_gradient


def test_words_alone_count(ctc_model: SALMONN) -> None:
    ids = ctc_model.tokenize_answer("one two")
    assert str(ctc_model.llama_tokenizer.decode(ids)).strip() == "one two"
    assert ctc_model.tokenize_answer(" one two ") == ids


def test_forward_without_vocabulary(ctc_model: SALMONN) -> None:
    with pytest.raises(UserError, match="ctc_vocabulary"):
        ctc_model(draw_samples(["one"]))


def test_a_new_projector_starts_at_the_mean_embedding(dev: Golden) -> None:
    model = dev.build_model(objective="ctc", ckpt="")
    table = model.llm.get_input_embeddings().weight
    torch.testing.assert_close(model.speech_llama_proj.bias, table.mean(0))


CTC_RUN = ["model.objective=ctc", "model.audio_tokens=length_aware", "run.iters_per_epoch=12"]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    windows = ["model.second_per_window=0.06", "model.second_stride=0.06"]
    rates = ["run.optims.init_lr=1e-2", "run.optims.warmup_start_lr=3e-3"]
    assert train.main(arguments(tmp_path, *CTC_RUN, *windows, *rates)) == 0
    (folder,) = run_folders(tmp_path)
    losses = [line["loss"] for line in read_log(folder) if line["event"] == "valid"]
    assert losses[-1] < 0.9 * losses[0]


def test_clips_too_short_for_ctc_are_told(tmp_path: Path) -> None:
    """A third of a second per audio token: as most clips would teach nothing, nothing starts."""
    with pytest.raises(UserError, match=r"8 of \d+ clips have fewer windows.*second_stride"):
        train.main(arguments(tmp_path, *CTC_RUN))
    assert not run_folders(tmp_path)


def test_equal_neighbours_need_a_blank_between() -> None:
    assert [count_needed(answer) for answer in ([], [1], [1, 2, 1], [1, 1, 1])] == [0, 1, 3, 5]


# Compression


def test_compression_leaves_one_token_per_reading(dev_model: SALMONN) -> None:
    """Blanks go, neighbours that read alike become one, a row of blanks keeps its first; what
    reads surely becomes the very embedding."""
    table, tokenizer = dev_model.llm.get_input_embeddings(), dev_model.llama_tokenizer
    blank = tokenizer(" ", add_special_tokens=False).input_ids[0]
    one, other = [i for i in range(len(tokenizer)) if i != blank][20:22]
    rows = [[blank, one, one, blank, one, other], [blank, blank, other, other, other, other]]
    mean = table.weight.mean(0).detach()
    embeds = mean + 3 * (table(torch.tensor(rows)).detach() - mean)  # three times as sure
    mask = torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0]])
    compressed, compressed_mask = compress_tokens(embeds, mask, table, tokenizer)
    assert compressed_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    expected = table(torch.tensor([one, one, other])).detach()
    torch.testing.assert_close(compressed[0].detach(), expected, atol=1e-4, rtol=1e-4)
    blank_row = table(torch.tensor(blank)).detach()
    torch.testing.assert_close(compressed[1, 0].detach(), blank_row, atol=1e-4, rtol=1e-4)


def test_compression_does_not_depend_on_the_batch(dev: Golden) -> None:
    model = dev.build_model(ctc_compression=True, audio_tokens="length_aware")
    samples = draw_samples(["one", "no"])
    together, mask = model.embed_audio(samples)
    plain = dev.build_model(audio_tokens="length_aware").embed_audio(samples)[1]
    assert int(mask.sum()) <= int(plain.sum())
    for row in range(2):
        alone = {name: value[row : row + 1] for name, value in samples.items()}
        embeds, alone_mask = model.embed_audio(alone)
        assert int(alone_mask.sum()) == int(mask[row].sum())
        torch.testing.assert_close(
            embeds[0], together[row, : embeds.shape[1]], atol=1e-5, rtol=1e-4
        )
