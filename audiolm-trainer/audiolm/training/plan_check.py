"""Check a memory plan: real steps and real answers on the configured model, in a fresh process.

On a GPU the peak of the allocator's tensors is compared with the plan without its allowance. On a
processor it is the peak of the resident set over what the imports left. There glibc's heap would
keep much of what is freed (hundreds of MiB here) and hand it out again later; the process that
measures is started with `MEASURING_ENVIRONMENT`, so that tensors are mapped and unmapped one by one
and resident means live. A run without those variables holds that much more.
"""

import importlib
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from audiolm.audio.loading import SAMPLE_RATE_HZ
from audiolm.config import Config
from audiolm.errors import UserError
from audiolm.models.build import build_salmonn
from audiolm.models.device import choose_device, half_dtype, move_to
from audiolm.models.salmonn import SALMONN
from audiolm.prompts import apply_template, split_at_marker
from audiolm.training.memory_plan import PeakMemory, plan_answering, plan_training
from audiolm.training.model_sizes import ModelSizes
from audiolm.training.optimiser import build_optimiser
from audiolm.training.plan_report import format_gib, format_table
from audiolm.training.plan_setting import ASSUMED_PROMPT, Setting, Workload

MEASURING_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "TOKENIZERS_PARALLELISM": "false",
}
TOLERANCE = 0.15  # of the measured peak
NUM_STEPS = 2  # the first one makes the optimiser's state
SPECTROGRAM_FRAMES = 3000

# Opens a meter of a device: `read()` gives process_before_bytes, process_peak_bytes,
# gpu_peak_allocated_bytes (see `audiolm.evaluation.memory.PeakMeter`).
OpenMeter = Callable[[torch.device], Any]


def measure_steps(
    config: Config, setting: Setting, workload: Workload, open_meter: OpenMeter
) -> dict[str, Any]:
    """Train two steps and answer once; peaks by phase, in bytes over what the imports left.

    Returns:
        `phases` (forward, backward, optimiser, answering), and the numbers of prompt and answer
        tokens that the batch really had.

    Raises:
        UserError: this system does not tell a process's peak, or memory ran out.
    """
    device = choose_device(config.run.device)
    if setting.quantization != "none" or setting.optimiser == "adamw8bit":
        importlib.import_module("bitsandbytes")  # an import like the others, not the model's memory
    before = open_meter(device).read()
    base = 0 if device.type == "cuda" else before.process_before_bytes
    half = half_dtype(device) if device.type == "cuda" else torch.bfloat16
    dtype = half if setting.element_bytes == 2 else torch.float32
    model = build_salmonn(replace(config.model, objective="answer"), device=device, dtype=dtype)
    samples, prompts = build_batch(model, setting.count_clips(workload.seconds), workload)
    samples = move_to(samples, device)
    optimiser = build_optimiser(model, config.run.optims)
    phases: dict[str, int] = {}

    def note(phase: str, meter: Any) -> None:
        use = meter.read()
        peak = use.gpu_peak_allocated_bytes if base == 0 else use.process_peak_bytes
        if peak is None or base is None:
            raise UserError(
                "--verify needs a GPU, or a Linux that lets a process reset its own peak "
                "(/proc/self/clear_refs); run it outside the container"
            )
        phases[phase] = peak - base

    model.train()
    for _ in range(NUM_STEPS):
        for micro_batch in range(setting.num_micro_batches):
            meter = open_meter(device)
            with torch.autocast(device.type, half, enabled=setting.is_mixed):
                loss = model(samples, verbose=True, prompts=prompts)["loss"]
            if micro_batch == setting.num_micro_batches - 1:
                note("forward", meter)
                meter = open_meter(device)
            loss.backward()
        note("backward", meter)
        meter = open_meter(device)
        optimiser.step()
        note("optimiser", meter)
        optimiser.zero_grad(set_to_none=True)
        del loss
    del optimiser, meter
    model.eval()
    samples, prompts = build_batch(model, setting.num_eval_clips, workload)
    meter = open_meter(device)
    # Answers of full length, whatever an end symbol may come earlier.
    generate = replace(config.generate, min_length=config.generate.max_new_tokens)
    model.generate(move_to(samples, device), generate, prompts=prompts)
    note("answering", meter)
    return {"phases": phases, **count_tokens(model, samples, prompts)}


def build_batch(
    model: SALMONN, num_clips: int, workload: Workload
) -> tuple[dict[str, Any], list[str]]:
    """Noise of the workload's length, with answers of its tokens; all but one a bit shorter."""
    generator = torch.Generator().manual_seed(0)
    num_samples = round(workload.seconds * SAMPLE_RATE_HZ)
    num_mel_bins = model.speech_encoder.config.num_mel_bins
    answers = [build_answer(model, workload.num_answer_tokens)]
    # Rows of different lengths, as in real batches: they need an attention mask.
    answers += [build_answer(model, max(workload.num_answer_tokens - 2, 1))] * (num_clips - 1)
    samples = {
        "spectrogram": torch.randn(
            num_clips, num_mel_bins, SPECTROGRAM_FRAMES, generator=generator
        ),
        "raw_wav": 0.1 * torch.randn(num_clips, num_samples, generator=generator),
        "padding_mask": torch.zeros(num_clips, num_samples, dtype=torch.bool),
        "text": answers,
        "task": ["asr"] * num_clips,
        "Q": [""] * num_clips,
        "id": [str(i) for i in range(num_clips)],
    }
    template = model.text_options.prompt_template
    return samples, [build_prompt(model, template, workload.num_prompt_tokens)] * num_clips


def build_answer(model: SALMONN, num_tokens: int) -> str:
    """A text of at least `num_tokens` tokens, end symbol included, and not many more."""
    text = "a"
    while len(model.tokenize_answer(text)) < num_tokens:
        text += " a"
    return text


def build_prompt(model: SALMONN, template: str, num_tokens: int) -> str:
    """A templated prompt of at least `num_tokens` tokens, <bos> included, and not many more."""
    sentence = ASSUMED_PROMPT.split("</Speech>")[0] + "</Speech>"
    while _count_prompt(model, apply_template(template, sentence)) < num_tokens:
        sentence += " a"
    return apply_template(template, sentence)


def _count_prompt(model: SALMONN, prompt: str) -> int:
    parts = split_at_marker(prompt)
    ids = [model.llama_tokenizer(part, add_special_tokens=False).input_ids for part in parts]
    return 1 + sum(map(len, ids))


def count_tokens(model: SALMONN, samples: dict[str, Any], prompts: Sequence[str]) -> dict[str, int]:
    """Tokens of the longest row's prompt and answer."""
    return {
        "num_prompt_tokens": _count_prompt(model, prompts[0]),
        "num_answer_tokens": max(len(model.tokenize_answer(text)) for text in samples["text"]),
    }


def run_measuring(command: Sequence[str]) -> dict[str, Any]:
    """Run `command` in a fresh process; its last line is the result of `measure_steps`.

    Raises:
        UserError: it failed; its own message is passed on.
    """
    environment = os.environ | MEASURING_ENVIRONMENT
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise UserError(
            f"--verify: the measuring process was ended by signal {-done.returncode}, which is how "
            "a system that runs out of memory ends it; choose a smaller batch"
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"--verify: {reason.removeprefix('error: ')}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def format_check(
    sizes: ModelSizes, setting: Setting, workload: Workload, measured: dict[str, Any]
) -> str:
    """Predicted and measured peaks by phase, and whether the peak is within `TOLERANCE`."""
    predicted = predict_phases(sizes, setting, workload, measured)
    rows = []
    for phase, found in measured["phases"].items():
        values = format_gib(predicted[phase]), format_gib(found)
        rows.append([phase, *values, f"{predicted[phase] / found - 1:+.1%}"])
    table = format_table(["phase", "predicted", "measured", "difference"], rows, right=(1, 2, 3))
    training = [phase for phase in predicted if phase != "answering"]
    peaks = [max(source[p] for p in training) for source in (predicted, measured["phases"])]
    difference = peaks[0] / peaks[1] - 1
    verdict = "within" if abs(difference) <= TOLERANCE else "NOT within"
    where = "tensors on the GPU" if setting.is_gpu else "resident set over the imports"
    return (
        f"Checked by {NUM_STEPS} real steps and one batch of answers: {workload.seconds:.1f} s "
        f"clips, {measured['num_prompt_tokens']} prompt and {measured['num_answer_tokens']} answer "
        f"tokens; GiB, {where}\n{table}\n"
        f"training peak: predicted {format_gib(peaks[0])}, measured {format_gib(peaks[1])}: "
        f"{difference:+.1%}, {verdict} {TOLERANCE:.0%}\n{_describe_mapping(setting)}"
    )


def _describe_mapping(setting: Setting) -> str:
    if setting.is_gpu or setting.quantization == "none":
        return ""
    return (
        "The measured set holds pages of the LLM's file, which stays mapped after quantising; the "
        "system takes them back when memory is short, so the plan leaves them out.\n"
    )


def predict_phases(
    sizes: ModelSizes, setting: Setting, workload: Workload, measured: dict[str, Any]
) -> dict[str, int]:
    """The plan's phases for the tokens that were measured; without the allowance on a GPU."""
    workload = replace(
        workload,
        num_prompt_tokens=measured["num_prompt_tokens"],
        num_answer_tokens=measured["num_answer_tokens"],
    )
    training = plan_training(sizes, setting, workload)
    answering = plan_answering(sizes, setting, workload)

    def counted(memory: PeakMemory, num_bytes: int) -> int:
        return num_bytes - (memory.row("allowance").num_bytes if setting.is_gpu else 0)

    phases = {name: counted(training, total) for name, total in training.phases.items()}
    phases["forward"] = max(phases["forward"], phases.pop("encoders"))
    phases["answering"] = counted(answering, answering.peak_bytes)
    return phases
