"""From audio and prompt to text: prompts, limits, and where an answer ends."""

import dataclasses
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from audiolm.config import GenerateConfig
from audiolm.errors import UserError
from audiolm.models.decode import clean_texts, generate_ids
from audiolm.models.llm import stop_token_ids
from audiolm.models.salmonn import SALMONN
from audiolm.models.splice import tokenize
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
