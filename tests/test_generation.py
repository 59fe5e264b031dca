"""From audio and prompt to text: prompts, limits, and where an answer ends."""

import dataclasses
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from audiolm.config import GenerateConfig
from audiolm.errors import UserError
from audiolm.models.decode import Answer, clean_texts, generate_answers, generate_ids
from audiolm.models.llm import stop_token_ids
from audiolm.models.salmonn import SALMONN
from audiolm.models.sampling import SeededNoise
from audiolm.models.splice import tokenize
from audiolm.models.stopping import RunawayCriteria, RunawayGuard, find_loop
from tests.golden import Golden, cut_at_stop

GREEDY = {"num_beams": 1, "max_new_tokens": 24}
LONG_TEXT = "she had your dark suit in greasy wash water all year " * 30


@pytest.fixture(scope="module")
def equal(dev: Golden) -> dict[str, Any]:
    """Three clips; decoded greedily, the first row ends before the limit and the others do not."""
    return dev.load_batch("equal")


@pytest.fixture(scope="module")
def prompts(dev: Golden) -> list[str]:
    return dev.generations["greedy.equal"]["prompts"]


def decode(
    model: SALMONN, samples: dict[str, Any], prompts: list[str], **options: Any
) -> list[list[int]]:
    """Greedy token ids of each row."""
    with torch.no_grad():
        inputs = model.prepare(samples, prompts)
        end_text = model.text_options.end_text
        cfg = GREEDY | options
        return generate_ids(model.llm, model.llama_tokenizer, inputs, cfg, end_text).tolist()


# Answers in training


@pytest.mark.parametrize("variant", ["dev", "nobeats"])
def test_long_answers_keep_their_end_symbol(variant: str) -> None:
    """Also where the end symbol is several tokens, as `</s>` is to this tokenizer."""
    golden = Golden(variant, "lora")
    model = golden.build_model(max_txt_len=12)
    end_ids = tokenize(model.llama_tokenizer, golden.config.model.end_sym)
    assert len(end_ids) == {"dev": 1, "nobeats": 4}[variant]
    ids = model.tokenize_answer(LONG_TEXT)
    assert len(ids) == 12
    assert ids[-len(end_ids) :] == end_ids
    start = tokenize(model.llama_tokenizer, LONG_TEXT)
    assert ids[: -len(end_ids)] == start[: 12 - len(end_ids)]
    short = model.tokenize_answer("she")
    assert short == tokenize(model.llama_tokenizer, "she" + golden.config.model.end_sym)


def test_end_symbol_is_the_tokenizer_s_own_by_default(dev: Golden) -> None:
    model = dev.build_model(end_sym="")
    assert model.text_options.end_text == model.llama_tokenizer.eos_token
    assert model.tokenize_answer("she")[-1] == model.llama_tokenizer.eos_token_id


# Prompts


def test_prompts_are_drawn_for_training(dev: Golden) -> None:
    """By task, with the question filled in."""
    model = dev.build_model()
    samples = dev.load_samples(annotation="annotation_mixed.json")
    expected = dev.values["prompt_tokens"]["mixed_prompts"]  # the file has one for each task
    with torch.no_grad():
        loss = model(samples)["loss"]
        assert loss == model(samples, prompts=expected)["loss"]
        assert loss != model(samples, prompts=expected[:1] * 3)["loss"]


def test_no_prompts_to_draw_from(dev: Golden) -> None:
    model = dev.build_model(prompt_path="")
    with pytest.raises(UserError, match="set model.prompt_path"):
        model(dev.load_batch("single.0"))


@pytest.mark.parametrize("prompt", ["USER: Write.", "<SpeechHere> and <SpeechHere>"])
def test_prompt_must_hold_the_marker_once(prompt: str, dev_model: SALMONN, dev: Golden) -> None:
    samples = dev.load_batch("single.0")
    for call in (dev_model, dev_model.generate):
        with pytest.raises(UserError, match="it must hold it exactly once"):
            call(samples, prompts=[prompt])


@pytest.mark.parametrize("num_prompts", [0, 1, 4])
def test_every_clip_needs_a_prompt(
    num_prompts: int, dev_model: SALMONN, equal: dict[str, Any], prompts: list[str]
) -> None:
    for call in (dev_model, dev_model.generate):
        with pytest.raises(UserError, match=f"3 clips but {num_prompts} prompts"):
            call(equal, prompts=[prompts[0]] * num_prompts)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_mixed_prompts_in_one_batch(num_beams: int, dev_model: SALMONN, dev: Golden) -> None:
    """What is around the audio may be of any length, even nothing."""
    mixed = ["<SpeechHere>", "A <SpeechHere> B", "USER: long before <SpeechHere> and long after it"]
    options = {"max_new_tokens": 10, "num_beams": num_beams}
    texts = dev_model.generate(dev.load_samples(), options, prompts=mixed)
    for row, prompt in enumerate(mixed):
        alone = dev_model.generate(dev.load_samples([row]), options, prompts=[prompt])
        assert texts[row] == alone[0]
    assert len(set(texts)) == 3


# Length


@pytest.mark.parametrize("limit", [1, 5])
def test_limit_counts_new_tokens(
    limit: int, dev_model: SALMONN, equal: dict[str, Any], prompts: list[str]
) -> None:
    """Also when the prompt is far longer than the limit."""
    full = decode(dev_model, equal, prompts)
    ids = decode(dev_model, equal, prompts, max_new_tokens=limit)
    assert ids == [row[:limit] for row in full]


def test_min_length_counts_new_tokens(
    dev_model: SALMONN, equal: dict[str, Any], prompts: list[str]
) -> None:
    stop_ids = stop_token_ids(dev_model.llm, dev_model.llama_tokenizer, "")
    free = cut_at_stop(decode(dev_model, equal, prompts)[0], stop_ids)
    forced = cut_at_stop(decode(dev_model, equal, prompts, min_length=22)[0], stop_ids)
    assert len(free) < 22 <= len(forced)
    assert forced[: len(free)] == free


# The end of an answer


def test_each_row_stops_by_itself(
    dev_model: SALMONN, equal: dict[str, Any], prompts: list[str]
) -> None:
    stop_ids = stop_token_ids(dev_model.llm, dev_model.llama_tokenizer, "")
    rows = decode(dev_model, equal, prompts)
    lengths = [len(cut_at_stop(row, stop_ids)) for row in rows]
    assert lengths[0] < lengths[1] == lengths[2] == GREEDY["max_new_tokens"]
    assert set(rows[0][lengths[0] :]) <= set(stop_ids)  # only padding follows


def test_stop_tokens_are_the_llm_s_and_the_end_symbol(dev_model: SALMONN) -> None:
    tokenizer = dev_model.llama_tokenizer
    own = dev_model.llm.generation_config.eos_token_id
    assert isinstance(own, list)
    assert stop_token_ids(dev_model.llm, tokenizer, "") == own
    (token,) = tokenize(tokenizer, " cri")
    assert stop_token_ids(dev_model.llm, tokenizer, " cri") == [*own, token]
    assert len(tokenize(tokenizer, "</s>")) > 1
    assert stop_token_ids(dev_model.llm, tokenizer, "</s>") == own


def test_end_text_of_several_tokens(
    dev_model: SALMONN, equal: dict[str, Any], prompts: list[str]
) -> None:
    """Only the rows that say it stop there, and it is not part of the answer."""
    end_text = " criesrite ba"
    assert len(tokenize(dev_model.llama_tokenizer, end_text)) > 1
    free = dev_model.generate(equal, GREEDY, prompts=prompts)
    assert [end_text in text for text in free] == [True, False, False]
    texts = dev_model.generate(equal, GREEDY | {"end_sym": end_text}, prompts=prompts)
    assert texts == [free[0].split(end_text)[0], free[1], free[2]]
    ids = decode(dev_model, equal, prompts, end_sym=end_text)
    full = decode(dev_model, equal, prompts)
    said = dev_model.llama_tokenizer.decode(full[0]).index(end_text)
    assert said < len(dev_model.llama_tokenizer.decode(cut_at_stop(ids[0], [991])))
    assert ids[0] != full[0]  # decoding of the row ended, it was not only cut


def test_no_special_token_in_a_text(
    dev_model: SALMONN, equal: dict[str, Any], prompts: list[str]
) -> None:
    ids = decode(dev_model, equal, prompts)
    tokenizer = dev_model.llama_tokenizer
    assert "<|eom_id|>" in tokenizer.decode(ids[0])
    texts = dev_model.generate(equal, GREEDY, prompts=prompts)
    assert not [text for text in texts if "<|" in text]
    special = [tokenizer.bos_token_id, 996, 999, 1000]
    assert clean_texts(tokenizer, [[*special, 17, *special]], "") == [tokenizer.decode([17])]


# The call itself


def test_nothing_is_kept_for_gradients(dev_model: SALMONN, dev: Golden) -> None:
    is_grad_enabled = []
    handle = dev_model.speech_llama_proj.register_forward_hook(
        lambda module, args, output: is_grad_enabled.append(output.requires_grad)
    )
    batch = dev.load_batch("single.0")
    dev_model.generate(batch, {"max_new_tokens": 1}, prompts=dev.prompts("single.0"))
    handle.remove()
    assert is_grad_enabled == [False]
    assert torch.is_grad_enabled()


def test_options_of_any_kind(
    dev_model: SALMONN, dev: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, prompts = dev.load_batch("single.0"), dev.prompts("single.0")
    options = {"max_new_tokens": 6, "num_beams": 2, "repetition_penalty": 1.5}
    as_dataclass = GenerateConfig(**options)
    kinds = [options, as_dataclass, OmegaConf.create(options), OmegaConf.structured(as_dataclass)]
    texts = [dev_model.generate(samples, kind, prompts=prompts) for kind in kinds]
    assert all(text == texts[0] for text in texts)
    short = dataclasses.replace(as_dataclass, max_new_tokens=2)
    assert texts[0] != dev_model.generate(samples, short, prompts=prompts)
    with pytest.raises(UserError, match="generate.num_beam: did you mean num_beams"):
        dev_model.generate(samples, {"num_beam": 2}, prompts=prompts)


def test_sampling_follows_the_seed(dev_model: SALMONN, dev: Golden) -> None:
    options = {"do_sample": True, "temperature": 3.0, "top_p": 1.0, "num_beams": 1}
    texts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        samples, prompts = dev.load_batch("single.0"), dev.prompts("single.0")
        texts += dev_model.generate(samples, options | {"max_new_tokens": 8}, prompts=prompts)
    assert texts[0] == texts[1] != texts[2]


# What is known of an answer


def answer(
    model: SALMONN, samples: dict[str, Any], prompts: list[str], **options: Any
) -> list[Answer]:
    inputs = model.prepare(samples, prompts)
    seconds = options.pop("seconds", [100.0] * len(prompts))
    return generate_answers(
        model.llm,
        model.llama_tokenizer,
        inputs,
        GREEDY | options,
        model.text_options.end_text,
        audio_seconds=seconds,
        seeds=options.pop("seeds", range(len(prompts))),
    )


def test_answers_are_the_texts_of_generate(
    dev_model: SALMONN, equal: dict[str, Any], prompts: list[str]
) -> None:
    for beams in (1, 4):
        answers = answer(dev_model, equal, prompts, num_beams=beams)
        texts = dev_model.generate(equal, GREEDY | {"num_beams": beams}, prompts=prompts)
        assert [found.text for found in answers] == texts


def test_tokens_and_reasons_are_those_of_each_row(
    dev_model: SALMONN, equal: dict[str, Any], prompts: list[str]
) -> None:
    stop_ids = stop_token_ids(dev_model.llm, dev_model.llama_tokenizer, "")
    rows = [cut_at_stop(row, stop_ids) for row in decode(dev_model, equal, prompts)]
    answers = answer(dev_model, equal, prompts)
    assert [found.num_tokens for found in answers] == [len(row) for row in rows]
    assert [found.stop_reason for found in answers] == [
        "end_token",
        "max_new_tokens",
        "max_new_tokens",
    ]
    assert answers[0].raw_text.endswith("<|eom_id|>")
    assert "<|" not in answers[0].text
    ended = answer(dev_model, equal, prompts, end_sym=" criesrite ba")
    assert ended[0].stop_reason == "end_text"
    assert ended[0].num_tokens < answers[0].num_tokens
    assert "criesrite" in ended[0].raw_text
    assert "criesrite" not in ended[0].text


def test_log_probability_is_the_sum_over_the_tokens(
    dev_model: SALMONN, equal: dict[str, Any], prompts: list[str]
) -> None:
    """Against the scores that transformers collects while it decodes."""
    inputs = dev_model.prepare(equal, prompts)
    output = dev_model.llm.generate(
        inputs_embeds=inputs.inputs_embeds,
        attention_mask=inputs.attention_mask,
        max_new_tokens=24,
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    stop_ids = stop_token_ids(dev_model.llm, dev_model.llama_tokenizer, "")
    for row, found in enumerate(answer(dev_model, equal, prompts)):
        ids = output.sequences[row].tolist()
        num_tokens = min(len(cut_at_stop(ids, stop_ids)) + 1, len(ids))
        expected = sum(
            float(output.logits[step][row].log_softmax(-1)[ids[step]]) for step in range(num_tokens)
        )
        # float32 sums of 24 terms, computed one step at a time or all at once
        assert found.log_probability == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["one pass", "beams"])
def test_sampled_answers_follow_the_clip_s_own_seed(
    options: dict[str, Any], dev_model: SALMONN, equal: dict[str, Any], prompts: list[str]
) -> None:
    """Alone or beside others, in any order of calls; other seeds give other answers."""
    sampling = {"do_sample": True, "temperature": 3.0, "top_p": 1.0, "max_new_tokens": 8}
    texts = [found.text for found in answer(dev_model, equal, prompts, **sampling, **options)]
    one = {
        name: value[1:2] if isinstance(value, torch.Tensor | list) else value
        for name, value in equal.items()
    }
    inputs = dev_model.prepare(one, prompts[1:2])
    for seed, is_same in ((1, True), (5, False)):
        (alone,) = generate_answers(
            dev_model.llm,
            dev_model.llama_tokenizer,
            inputs,
            GREEDY | sampling | options,
            dev_model.text_options.end_text,
            audio_seconds=[100.0],
            seeds=[seed],
        )
        assert (alone.text == texts[1]) == is_same


def test_sampling_draws_from_the_distribution() -> None:
    """10,000 draws of four tokens: five standard errors."""
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    noise = SeededNoise([0])
    counts = torch.zeros(4)
    for _ in range(10_000):
        counts[noise(torch.zeros(1, 0), scores).argmax()] += 1
    expected = scores.exp()[0]
    error = 5 * (expected * (1 - expected) / 10_000).sqrt()
    assert ((counts / 10_000 - expected).abs() < error).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"temperature": 0.0}, "generate.temperature: 0"), ({"top_p": 0.0}, "generate.top_p: 0")],
)
def test_sampling_needs_a_temperature(
    options: dict[str, Any], message: str, dev_model: SALMONN, dev: Golden
) -> None:
    with pytest.raises(UserError, match=message):
        dev_model.generate(
            dev.load_batch("single.0"),
            {"do_sample": True, "num_beams": 1, **options},
            prompts=dev.prompts("single.0"),
        )


# Runaway and looping text


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2, 3], None),
        ([7] * 31, None),
        ([7] * 32, 1),
        ([1, 2, *[7] * 32], 3),
        ([1, *[5, 6] * 16], 3),
        ([9, *[5, 6] * 16, 5], 3),
        ([0, *list(range(1, 17)) * 4], 17),
        ([*range(1, 18)] * 4, None),  # a period of 17
        ([*[7] * 40, 1], None),  # it stopped by itself
    ],
)
def test_loops(ids: list[int], expected: int | None) -> None:
    assert find_loop(ids) == expected
    if ids:
        criteria = RunawayCriteria(RunawayGuard((1000,)))
        assert bool(criteria(torch.tensor([ids]), None)[0]) == (expected is not None)


def test_guard_is_per_row_and_per_beam() -> None:
    criteria = RunawayCriteria(RunawayGuard((3, 5)))
    ids = torch.arange(16).view(4, 4)  # two beams of two clips, four tokens each
    assert criteria(ids, None).tolist() == [True, True, False, False]


def test_limit_follows_the_audio() -> None:
    assert RunawayGuard.from_seconds([1.0, 30.0]).limits == (76, 424)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_runaway_and_looping_answers_end_early(
    num_beams: int,
    dev_model: SALMONN,
    equal: dict[str, Any],
    prompts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the rows concerned end; with the guard off, none does."""
    monkeypatch.setattr("audiolm.models.stopping.BASE_TOKENS", 4)
    options = {"num_beams": num_beams, "min_length": 20, "seconds": [0.5, 100.0, 100.0]}
    answers = answer(dev_model, equal, prompts, **options)
    assert [found.stop_reason == "runaway" for found in answers] == [True, False, False]
    assert answers[0].num_tokens == 10
    free = answer(dev_model, equal, prompts, runaway_guard=False, **options)
    assert [found.text for found in free][1:] == [found.text for found in answers][1:]
    assert free[0].num_tokens > 10


def test_looping_answer_keeps_one_round(
    dev_model: SALMONN, equal: dict[str, Any], prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The LLM is made to say the same two tokens for ever."""
    first, second = 300, 400

    calls = []

    def force(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        forced = torch.full_like(output, -100.0)
        forced[..., first if len(calls) % 2 else second] = 100.0
        return forced

    handle = dev_model.llm.get_output_embeddings().register_forward_hook(force)
    try:
        answers = answer(dev_model, equal, prompts, max_new_tokens=60)
        calls.clear()
        free = answer(dev_model, equal, prompts, max_new_tokens=60, runaway_guard=False)
    finally:
        handle.remove()
    decode_ids = dev_model.llama_tokenizer.decode
    assert {found.stop_reason for found in answers} == {"looping"}
    assert {found.num_tokens for found in answers} == {32}
    assert answers[0].text == str(decode_ids([first, second])).strip()
    assert answers[0].raw_text == decode_ids([first, second] * 16)
    assert {found.num_tokens for found in free} == {60}
