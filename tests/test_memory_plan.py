"""Memory plans: counts equal the built model's, and sums agree with what autograd really keeps."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import train as train_script
from torch import nn

from audiolm.config import Config
from audiolm.config_file import build_config, load_config
from audiolm.errors import UserError
from audiolm.evaluation.memory import measure_weights
from audiolm.models.random_stack import MIDSIZE, NANO, TINY, StackPaths, build_random_stack
from audiolm.models.salmonn import SALMONN
from audiolm.prompts import apply_template
from audiolm.training import memory_plan, plan_report
from audiolm.training.activation_memory import (
    BatchShape,
    compute_connector,
    compute_llm,
    compute_trained_encoders,
    plan_shape,
)
from audiolm.training.memory_plan import GIB, list_steps, plan_answering, plan_training
from audiolm.training.model_shapes import build_meta_model, find_model_sources
from audiolm.training.model_sizes import ModelSizes, Packing, measure_parts
from audiolm.training.plan_check import build_batch, run_measuring
from audiolm.training.plan_command import plan_run
from audiolm.training.plan_setting import TokenCounter, Workload, read_setting, read_workloads

ROOT = Path(__file__).resolve().parents[1]
SIZES_DIR = ROOT / "configs" / "models"
TEXTS = ("USER: <Speech> </Speech> write down what is said\nASSISTANT:", "a b c d e a a a a a")
TINY_QFORMER = {"hidden_size": 32, "num_heads": 4, "intermediate_size": 64}
VBLORA = {"vector_length": 8, "num_vectors": 16}
WORKLOAD = Workload("test", 4.0, 20, 12, "test")
NO_FILE = "no/such/"  # paths of the shipped configurations lead nowhere in a fresh checkout


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> StackPaths:
    return build_random_stack(tmp_path_factory.mktemp("tiny"), TINY, texts=TEXTS, seed=0)


def make_config(stack: StackPaths, *, clips: int = 3, **model: Any) -> Config:
    paths = {name: str(path) for name, path in vars(stack).items()}
    section = {**paths, "qformer": TINY_QFORMER, **model}
    run = {"batch_size_train": clips, "batch_size_eval": clips, "device": "cpu"}
    return build_config({"model": section, "run": run})


def read_shipped(name: str, *options: str) -> Config:
    config = load_config(ROOT / "configs" / name, options)
    if not Path(config.model.llama_path).is_dir():
        config.model.llama_path = "meta-llama/Llama-3.2-3B-Instruct"
    return config


@pytest.fixture
def offline_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has downloaded nothing."""
    monkeypatch.setattr("audiolm.training.model_shapes.try_to_load_from_cache", lambda *_: None)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"adapter": "dora"},
    {"adapter": "vblora", "adapter_options": VBLORA},
    {"adapter": "hra"},
    {"adapter": "none"},
    {"beats_path": ""},
    {"audio_encoder": "whisper_layers"},
    {"use_speech_Qformer": False},
    {"freeze_whisper": False, "freeze_beats": False, "freeze_llm": False},
    {"freeze_speech_QFormer": True, "freeze_speech_llama_proj": True},
    {"num_speech_query_token": 3, "lora_rank": 5},
    {"only_preprocessor": True},
]


def name_variant(variant: dict[str, Any]) -> str:
    return "-".join(f"{k}={v}" for k, v in variant.items() if not isinstance(v, dict)) or "plain"


@pytest.mark.parametrize("variant", VARIANTS, ids=name_variant)
def test_counts_equal_the_built_model(tiny: StackPaths, variant: dict[str, Any]) -> None:
    """Names, shapes and what trains, to the last parameter."""
    config = make_config(tiny, **variant)
    built = SALMONN.from_config(config.model)
    meta = build_meta_model(config.model, find_model_sources(config.model, SIZES_DIR))

    def describe(model: nn.Module) -> dict[str, Any]:
        return {n: (tuple(p.shape), p.requires_grad) for n, p in model.named_parameters()}

    assert describe(meta) == describe(built)
    assert {p.device.type for p in meta.parameters()} == {"meta"}
    parts = measure_parts(meta)
    assert sum(p.num_parameters for p in parts) == sum(p.numel() for p in built.parameters())
    assert sum(part.num_bytes for part in parts) == measure_weights(built)["total"]


@pytest.fixture(scope="module")
def midsize(tmp_path_factory: pytest.TempPathFactory) -> StackPaths:
    return build_random_stack(tmp_path_factory.mktemp("midsize"), MIDSIZE, texts=TEXTS, seed=0)


@pytest.mark.slow
def test_counts_of_the_midsize_stack(midsize: StackPaths) -> None:
    assert_equal_counts(midsize)


def test_counts_of_the_nano_stack(tmp_path: Path) -> None:
    assert_equal_counts(build_random_stack(tmp_path, NANO, texts=TEXTS, seed=0))


def assert_equal_counts(stack: StackPaths) -> None:
    config = make_config(stack)
    built = SALMONN.from_config(config.model)
    meta = build_meta_model(config.model, find_model_sources(config.model, SIZES_DIR))
    assert sum(p.numel() for p in meta.parameters()) == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize(
    ("options", "packing", "tolerance"),
    [
        ({"quantization": "nf4"}, Packing("nf4"), 0.0),
        ({"quantization": "nf4", "nf4_double_quant": False}, Packing("nf4", False), 0.0),
        # transformers' int8 layers hold their row scales only after the first call.
        ({"quantization": "int8"}, Packing("int8"), 0.02),
        ({"encoder_dtype": "int8"}, Packing(has_int8_encoders=True), 0.0),
    ],
    ids=str,
)
def test_quantised_weights_take_what_is_planned(
    tiny: StackPaths, options: dict[str, Any], packing: Packing, tolerance: float
) -> None:
    config = make_config(tiny, **options)
    built = SALMONN.from_config(config.model)
    meta = build_meta_model(config.model, find_model_sources(config.model, SIZES_DIR))
    planned = sum(part.num_bytes for part in measure_parts(meta, packing))
    assert planned == pytest.approx(measure_weights(built)["total"], rel=tolerance)


def test_published_sizes(offline_hub: None) -> None:
    """Source: the released files' own counts, and `docs` of checkpoints."""
    config = read_shipped("train_stage1.yaml")
    sources = find_model_sources(config.model, SIZES_DIR)
    parts = {p.name: p for p in measure_parts(build_meta_model(config.model, sources))}
    padding_row = 3072  # the tokenizer has no padding token, and gets one
    assert parts["LLM"].num_parameters - padding_row == 3_212_749_824
    assert parts["Whisper"].num_parameters == 636_968_960
    classifier = 768 * 527 + 527  # of the released file, not loaded
    assert parts["BEATs"].num_parameters + classifier == 90_717_055
    assert parts["projector"].num_parameters == 2_362_368
    assert parts["adapter"].num_parameters == parts["adapter"].num_trained == 2_293_760
    layer_norms = 2 * (1280 + 768)
    assert parts["Q-Former"].num_parameters - layer_norms - 768 == 22_837_248


# What autograd keeps


def measure_kept(model: SALMONN, samples: dict[str, Any], prompts: Sequence[str]) -> dict[str, int]:
    """Bytes that the forward pass saves for the backward pass, by part; weights are not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes = model.encoder_sizes
    mixed_shape = (len(prompts), sizes.speech_width) if sizes.num_mixed else None
    vocabulary = model.llm.get_input_embeddings().num_embeddings
    stack, kept, by_part = ["top"], {}, {"connector": 0, "LLM": 0, "encoders": 0, "top": 0}
    names = {"llama_model": "LLM", "speech_encoder": "encoders", "beats": "encoders"}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and storage.data_ptr() not in kept:
            kept[storage.data_ptr()] = tensor  # alive, so that no other gets its place
            part = "top" if tensor.shape[-1:] == (vocabulary,) else stack[-1]
            if part == "top" and mixed_shape == (*tensor.shape[:1], *tensor.shape[2:]):
                part = "connector"  # a hidden state of Whisper, mixed outside of any module
            by_part[part] += storage.nbytes()
        return tensor

    handles = []
    for name, child in model.named_children():
        part = names.get(name, "connector")
        handles.append(child.register_forward_pre_hook(lambda *_, part=part: stack.append(part)))
        handles.append(child.register_forward_hook(lambda *_: stack.pop() and None))
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(samples, prompts=prompts)
    for handle in handles:
        handle.remove()
    return by_part


def plan_kept(
    config: Config, model: SALMONN, samples: dict[str, Any], prompts: Sequence[str], **setting: Any
) -> tuple[BatchShape, dict[str, int]]:
    planned = dataclasses.replace(read_setting(config, is_gpu=False), **setting)
    dims = ModelSizes.of(model, model.llm.config).dims
    tokens = [len(model.tokenize_answer(text)) for text in samples["text"]]
    count = TokenCounter(model.llama_tokenizer).count
    prompt = 1 + sum(count(part) for part in prompts[0].split("<SpeechHere>"))
    workload = Workload("test", WORKLOAD.seconds, prompt, max(tokens), "test")
    shape = plan_shape(workload, planned, dims, len(prompts))
    functions = {
        "connector": compute_connector,
        "LLM": compute_llm,
        "encoders": compute_trained_encoders,
    }
    return shape, {name: f(shape, planned, dims).num_bytes for name, f in functions.items()}


# Small things that the formulas leave out: masks, means of norms, gates. HRA under autocast and
# trained encoders are rougher.
KEPT: list[tuple[dict[str, Any], float]] = [
    ({}, 0.04),
    ({"audio_tokens": "length_aware", "whisper_input": "trimmed"}, 0.04),
    ({"lora_dropout": 0}, 0.04),
    ({"adapter": "dora"}, 0.04),
    ({"adapter": "vblora", "adapter_options": VBLORA}, 0.04),
    ({"adapter": "hra"}, 0.04),
    ({"adapter": "none"}, 0.04),
    ({"beats_path": ""}, 0.04),
    ({"audio_encoder": "whisper_layers"}, 0.04),
    ({"use_speech_Qformer": False}, 0.04),
    ({"window_level_Qformer": False}, 0.04),
    ({"freeze_speech_QFormer": True}, 0.12),
    ({"freeze_llm": False}, 0.05),
    ({"freeze_whisper": False, "freeze_beats": False}, 0.12),
]


@pytest.mark.parametrize(
    ("variant", "tolerance"), KEPT, ids=[name_variant(variant) for variant, _ in KEPT]
)
def test_what_is_kept_for_the_backward_pass(
    tiny: StackPaths, variant: dict[str, Any], tolerance: float
) -> None:
    config = make_config(tiny, **variant)
    model = SALMONN.from_config(config.model)
    samples, prompts = build_batch(model, 3, WORKLOAD)
    kept = measure_kept(model, samples, prompts)
    _, planned = plan_kept(config, model, samples, prompts)
    for part, num_bytes in planned.items():
        assert num_bytes == pytest.approx(kept[part], rel=tolerance), part


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_what_is_kept_in_half_precision(tiny: StackPaths, adapter: str) -> None:
    config = make_config(tiny, clips=2, adapter=adapter)
    model = SALMONN.from_config(config.model, dtype=torch.bfloat16)
    samples, prompts = build_batch(model, 2, WORKLOAD)
    with torch.autocast("cpu", torch.bfloat16):
        kept = measure_kept(model, samples, prompts)
    _, planned = plan_kept(config, model, samples, prompts, element_bytes=2, is_mixed=True)
    # Autocast's copies of the trained weights are a row of their own.
    copies = 2 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = planned["connector"] + planned["LLM"]
    assert total + copies == pytest.approx(kept["connector"] + kept["LLM"], rel=0.08)


def test_a_single_row_needs_no_mask(tiny: StackPaths) -> None:
    config = make_config(tiny, clips=1)
    model = SALMONN.from_config(config.model)
    samples, prompts = build_batch(model, 1, WORKLOAD)
    kept = measure_kept(model, samples, prompts)
    _, planned = plan_kept(config, model, samples, prompts)
    assert planned["LLM"] == pytest.approx(kept["LLM"], rel=0.04)


# The plan


@pytest.fixture(scope="module")
def full_size() -> Any:
    """Sizes and options of shipped stage 1, planned for a GPU."""
    config = read_shipped("train_stage1.yaml", "run.amp=true")
    return plan_run(config, SIZES_DIR, is_gpu=True)


LONG = Workload("long", 10.0, 32, 60, "test")


def plan(full_size: Any, workload: Workload = LONG, **changes: Any) -> memory_plan.PeakMemory:
    setting = dataclasses.replace(full_size.setting, **changes)
    return plan_training(full_size.sizes, setting, workload)


def test_quantised_weights_are_smaller(full_size: Any) -> None:
    sizes = [
        plan(full_size, quantization=q).row("weights").num_bytes for q in ("nf4", "int8", "none")
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] / GIB == pytest.approx(3.55, abs=0.01)  # 0.516 bytes for 2.8 of 4 billion


@pytest.mark.parametrize(
    "changes",
    [
        {"checkpointing": "llm"},
        {"checkpointing": "all"},
        {"quantization": "nf4"},
        {"has_feature_cache": True},
        {"optimiser": "adamw8bit"},
        {"num_clips": 4},
        {"batch_seconds": 40},
    ],
    ids=str,
)
def test_what_is_switched_on_lowers_the_peak(full_size: Any, changes: dict[str, Any]) -> None:
    assert plan(full_size, **changes).peak_bytes < plan(full_size).peak_bytes


def test_light_mode_lowers_the_peak_of_short_clips_only(full_size: Any) -> None:
    exact = dataclasses.replace(full_size.setting.audio, is_length_aware=False)
    light = dataclasses.replace(exact, is_length_aware=True, is_trimmed=True)
    for seconds, is_lower in ((10.0, True), (30.0, False)):
        workload = dataclasses.replace(LONG, seconds=seconds)
        peaks = [plan(full_size, workload, audio=audio).peak_bytes for audio in (light, exact)]
        # 30 s are 1,496 frames of whole windows, not 1,500: next to nothing less.
        assert (peaks[0] < 0.99 * peaks[1]) is is_lower


def test_checkpointing_keeps_layer_inputs_only(full_size: Any) -> None:
    rows = {
        mode: plan(full_size, checkpointing=mode).row("LLM").num_bytes for mode in ("none", "llm")
    }
    shape = plan(full_size).shape
    inputs = 28 * shape.num_clips * shape.num_positions * 3072 * 2
    assert inputs < rows["llm"] < inputs + rows["none"] / 20


def test_a_trained_parameter_takes_sixteen_bytes_of_state(full_size: Any) -> None:
    memory = plan(full_size)
    num_trained = full_size.sizes.num_trained
    assert memory.row("gradients").num_bytes == 4 * num_trained
    assert memory.row("optimiser state").num_bytes == 8 * num_trained
    eight_bit = plan(full_size, optimiser="adamw8bit").row("optimiser state").num_bytes
    assert 2.0 < eight_bit / num_trained < 2.1


def test_beams_multiply_the_cache(full_size: Any) -> None:
    one, four = (
        plan_answering(
            full_size.sizes, dataclasses.replace(full_size.setting, num_beams=beams), LONG
        ).row("KV cache")
        for beams in (1, 4)
    )
    assert four.num_bytes == 4 * one.num_bytes
    positions = 32 + 30 + 200  # prompt, audio, new tokens
    assert one.num_bytes == 2 * 28 * 8 * 128 * positions * 8 * 2


def test_steps_never_need_more(full_size: Any) -> None:
    steps = list_steps(full_size.setting)
    assert len(steps) >= 4
    peaks = [plan_training(full_size.sizes, setting, LONG).peak_bytes for _, setting in steps]
    assert peaks == sorted(peaks, reverse=True)
    global_batch = full_size.setting.num_clips * full_size.setting.num_micro_batches
    assert all(s.num_clips * s.num_micro_batches == global_batch for _, s in steps)


def test_phases_hold_the_peak(full_size: Any) -> None:
    memory = plan(full_size)
    assert memory.peak_phase == "backward"
    names = ("weights", "optimiser state", "half-precision copies", "batch")
    names += ("connector", "LLM", "logits", "allowance")
    assert memory.peak_bytes == sum(memory.row(name).num_bytes for name in names)


# The command


def run_plan(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    train_script.main([*arguments])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["train_stage1.yaml", "train_stage2.yaml"])
def test_shipped_configurations_are_planned_offline(
    name: str, offline_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    text = run_plan(capsys, "--cfg-path", str(ROOT / "configs" / name), "--plan")
    assert "published sizes of llama-3.2-3b used" in text
    for expected in ("3,212,752,896", "636,968,960", "27,498,240", "KV cache", "24 GiB: training"):
        assert expected in text, expected
    assert all(f"{card} GiB" in text for card in plan_report.CARDS_GIB)
    assert not list(tmp_path.iterdir())


def test_the_page_shows_the_plan_of_both_stages(
    offline_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """docs/training.md holds the printed plan of stage 1 and says that stage 2's is the same.

    The READMEs hold sections of it.
    """
    monkeypatch.chdir(ROOT)
    if Path("models").exists() or Path("data").exists():
        pytest.skip("this checkout holds models or data, which the plan would use")
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for stage in (1, 2):
        text = run_plan(capsys, "--cfg-path", f"configs/train_stage{stage}.yaml", "--plan")
        assert text.rstrip().replace(f"stage{stage}.yaml", "stage1.yaml") in page, stage
        for name in ("README.md", "README.ko.md"):
            readme = (ROOT / name).read_text(encoding="utf-8")
            (shown,) = re.findall(r"<!-- plan -->\n```text\n(.+?)```", readme, re.DOTALL)
            assert [s for s in shown.strip().split("\n\n") if s not in text] == [], (name, stage)


def test_shards_are_told_with_what_they_take_off(
    offline_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """28 layers of Llama-3.2-3B: 2 x 2,818,744,320 bytes, of which two layers are whole."""
    monkeypatch.chdir(tmp_path)
    planned = plan_run(read_shipped("train_stage1.yaml", "run.fsdp=true"), SIZES_DIR, is_gpu=True)
    layers = 2 * 2_818_744_320 / GIB
    (note,) = [note for note in planned.notes if note.startswith("run.fsdp")]
    assert f"({layers:.2f} GiB)" in note
    for num in (2, 4, 8):
        assert f"{layers * (1 - 1 / num - 2 / 28):.2f} with {num} processes" in note
    assert not [text for text, _ in list_steps(planned.setting) if "nf4" in text]


def test_own_folders_come_first(tiny: StackPaths) -> None:
    config = make_config(tiny)
    assert not find_model_sources(config.model, SIZES_DIR).notes


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("whisper_path", "no sizes of that name are shipped .*whisper-large-v3"),
        ("llama_path", "no sizes of that name are shipped .*llama-3.2-3b"),
        ("beats_path", "download the .pt, or leave the option empty"),
    ],
)
def test_unknown_models_are_told(
    tiny: StackPaths, offline_hub: None, option: str, message: str
) -> None:
    config = make_config(tiny, **{option: NO_FILE + "unknown-7b"})  # pyright: ignore
    with pytest.raises(UserError, match=message):
        find_model_sources(config.model, SIZES_DIR)


def test_a_folder_without_config_is_told(tiny: StackPaths, tmp_path: Path) -> None:
    config = make_config(tiny, llama_path=str(tmp_path))
    with pytest.raises(UserError, match=r"holds no config\.json"):
        find_model_sources(config.model, SIZES_DIR)


def test_another_kind_of_model_is_told(tiny: StackPaths) -> None:
    config = make_config(tiny, whisper_path=str(tiny.llama_path))
    with pytest.raises(UserError, match="'llama' model, expected 'whisper'"):
        find_model_sources(config.model, SIZES_DIR)


def test_workloads_come_from_the_annotation(tiny: StackPaths, tmp_path: Path) -> None:
    rows = [{"path": "a.wav", "text": "a", "duration": s} for s in (2.0, 3.0, 45.0)]
    rows[0]["text"] = "a a a a a a"
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"annotation": rows}), encoding="utf-8")
    config = make_config(tiny)
    config.datasets.train_ann_path = str(path)
    counter = TokenCounter(find_model_sources(config.model, SIZES_DIR).tokenizer)
    typical, longest = read_workloads(config, counter)
    assert (typical.seconds, longest.seconds) == (3.0, 30.0)  # longer clips are cut
    assert longest.num_answer_tokens == counter.count("a a a a a a") + 1
    assert longest.num_answer_tokens > typical.num_answer_tokens


def test_unknown_lengths_count_as_the_longest(tiny: StackPaths) -> None:
    config = make_config(tiny, max_txt_len=77)
    typical, longest = read_workloads(config, TokenCounter(None))
    assert (longest.seconds, longest.num_answer_tokens, longest.why) == (30.0, 77, "assumed")
    assert typical.seconds < longest.seconds


@pytest.mark.parametrize(
    ("options", "element_bytes", "is_mixed"),
    [({"amp": True}, 2, True), ({"amp": False}, 2, False)],
)
def test_precision_on_a_gpu(
    tiny: StackPaths, options: dict[str, Any], element_bytes: int, is_mixed: bool
) -> None:
    config = make_config(tiny)
    config.run.amp = options["amp"]
    setting = read_setting(config, is_gpu=True)
    assert (setting.element_bytes, setting.is_mixed) == (element_bytes, is_mixed)
    assert read_setting(config, is_gpu=False).element_bytes == 4


# The check by real steps


def write_config(stack: StackPaths, folder: Path, **sections: Any) -> Path:
    annotation = folder / "train.json"
    row = {"path": "a.wav", "text": "a a a a a a a a a a a a a a", "duration": 10.0}
    annotation.write_text(json.dumps({"annotation": [row]}), encoding="utf-8")
    paths = {name: str(path) for name, path in vars(stack).items()}
    content = {
        "model": {**paths, **sections.get("model", {})},
        "datasets": {"train_ann_path": str(annotation)},
        "run": {"device": "cpu", "batch_size_train": 4, "batch_size_eval": 1},
        "generate": {"max_new_tokens": 4, "num_beams": 2},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return path


@pytest.mark.slow
def test_the_plan_is_within_15_percent_of_two_real_steps(
    midsize: StackPaths, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The mid-size stack of 136 million parameters, four clips of 10 s, on the processor."""
    path = write_config(midsize, tmp_path)
    text = run_plan(capsys, "--cfg-path", str(path), "--plan", "--verify")
    assert ", within 15%" in text, text[-600:]
    for phase in ("forward", "backward", "optimiser", "answering"):
        assert f"\n  {phase}" in text.split("Checked by")[1]


def test_a_measuring_process_that_fails_is_told() -> None:
    import sys

    with pytest.raises(UserError, match="no such thing"):
        run_measuring([sys.executable, "-c", "import sys; sys.exit('error: no such thing')"])
    with pytest.raises(UserError, match="signal 9"):
        run_measuring([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])


def test_prompts_and_answers_of_the_check_have_the_planned_length(tiny: StackPaths) -> None:
    model = SALMONN.from_config(make_config(tiny).model)
    samples, prompts = build_batch(model, 3, Workload("x", 2.0, 60, 40, "test"))
    lengths = [len(model.tokenize_answer(text)) for text in samples["text"]]
    assert 40 <= max(lengths) <= 42
    assert len(set(lengths)) == 2  # as in real batches: rows differ, so there is a mask
    assert prompts[0].startswith("USER: <Speech><SpeechHere>")
    assert apply_template(model.text_options.prompt_template, "x") not in prompts
