"""How much memory training and answering need at their peak, from shapes alone.

In: sizes of the model, a `Setting`, a `Workload`. Out: `PeakMemory`, whose rows say how each number
comes about, and the steps that lower it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from audiolm.training.activation_memory import (
    FLOAT_BYTES,
    Amount,
    BatchShape,
    compute_batch,
    compute_connector,
    compute_encoders_at_work,
    compute_llm,
    compute_logits,
    compute_trained_encoders,
    plan_shape,
    without_answer,
)
from audiolm.training.model_sizes import (
    ENCODERS,
    Dimensions,
    ModelSizes,
    Packing,
    PartSize,
    adam8_bytes,
    measure_parts,
)
from audiolm.training.plan_setting import Setting, Workload

GIB = 2**30
# Assumed, not counted. On a GPU: its context, kernels and cuBLAS' workspaces, and what the
# allocator cannot use of its blocks. On a processor: pages of library code that a step touches.
CUDA_CONTEXT_BYTES = GIB // 2
FRAGMENTATION = 0.05
PROCESSOR_CODE_BYTES = 115 * 2**20


@dataclass(frozen=True)
class PeakMemory:
    """What a piece of work holds. `phases` are sums at the moments that can be its peak."""

    shape: BatchShape
    rows: tuple[Amount, ...]
    phases: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        return max(self.phases.values())

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=lambda name: self.phases[name])

    def row(self, name: str) -> Amount:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


def plan_training(sizes: ModelSizes, setting: Setting, workload: Workload) -> PeakMemory:
    """Memory of one optimiser step of one process."""
    dims = sizes.dims
    shape = plan_shape(workload, setting, dims, setting.count_clips(workload.seconds))
    weights = sum_weights(list_parts(sizes, setting))
    gradients = Amount(
        "gradients", FLOAT_BYTES * sizes.num_trained, f"{sizes.num_trained:,} trained x 4 bytes"
    )
    optimiser = _compute_optimiser(sizes, setting)
    casts = _compute_casts(sizes, setting)
    batch = compute_batch(shape, setting, dims)
    at_work = compute_encoders_at_work(shape, setting, dims)
    encoders = compute_trained_encoders(shape, setting, dims)
    connector = compute_connector(shape, setting, dims)
    nothing = Amount("LLM", 0, "only_preprocessor: no LLM")
    llm = compute_llm(shape, setting, dims) if setting.has_llm else nothing
    logits = (
        compute_logits(shape, setting, dims)
        if setting.has_llm
        else Amount("logits", 0, nothing.why)
    )
    unpacking = _compute_unpacking(setting, dims)
    workspace = _compute_workspace(sizes, setting)

    held = weights.num_bytes + optimiser.num_bytes + batch.num_bytes
    is_accumulating = setting.num_micro_batches > 1
    during = held + (gradients.num_bytes if is_accumulating else 0)
    saved = sum(part.num_bytes for part in (casts, encoders, connector, llm))
    phases = {
        "encoders": during + at_work.num_bytes,
        # The third copy of the logits is a gradient.
        "forward": during + saved + max(logits.num_bytes * 2 // 3, unpacking.num_bytes),
        "backward": max(
            during + saved + max(logits.num_bytes, unpacking.num_bytes),
            held + gradients.num_bytes + casts.num_bytes,
        ),
        "optimiser": held + gradients.num_bytes + workspace.num_bytes,
    }
    allowance = _compute_allowance(setting, max(phases.values()))
    rows = (
        weights, gradients, optimiser, casts, batch, at_work, encoders, connector, llm, logits,
        unpacking, workspace, allowance,
    )  # fmt: skip
    return PeakMemory(
        shape, rows, {name: total + allowance.num_bytes for name, total in phases.items()}
    )


def plan_answering(sizes: ModelSizes, setting: Setting, workload: Workload) -> PeakMemory:
    """Memory of decoding a batch of answers, with beams."""
    # Whoever answers has audio, and no gradients.
    setting = replace(setting, has_feature_cache=False, is_mixed=False)
    dims = sizes.dims
    shape = without_answer(plan_shape(workload, setting, dims, setting.num_eval_clips))
    weights = sum_weights(list_parts(sizes, setting))
    batch = compute_batch(shape, setting, dims)
    at_work = compute_encoders_at_work(shape, setting, dims)
    frames = shape.num_clips * shape.num_frames + shape.num_windows * shape.frames_per_window
    connector = Amount(
        "connector",
        frames * dims.frame_width * FLOAT_BYTES,
        f"{frames:,} frames, of clips and of windows, x {dims.frame_width} x 4 bytes",
    )
    cache, prefill, scores = _compute_decoding(shape, setting, dims)
    unpacking = _compute_unpacking(setting, dims)
    held = weights.num_bytes + batch.num_bytes
    growth = cache.num_bytes // dims.llm.num_hidden_layers  # one layer's is copied as it grows
    phases = {
        "encoders": held + at_work.num_bytes,
        "connector": held + connector.num_bytes,
        "prefill": held + prefill.num_bytes + cache.num_bytes + unpacking.num_bytes,
        "decoding": held + cache.num_bytes + growth + scores.num_bytes + unpacking.num_bytes,
    }
    if not setting.has_llm:
        phases = {name: phases[name] for name in ("encoders", "connector")}
    allowance = _compute_allowance(setting, max(phases.values()))
    rows = (
        weights, batch, at_work, connector, prefill, cache, scores, unpacking, allowance,
    )  # fmt: skip
    return PeakMemory(
        shape, rows, {name: total + allowance.num_bytes for name, total in phases.items()}
    )


def list_parts(sizes: ModelSizes, setting: Setting) -> list[PartSize]:
    """Parts of the model that are loaded."""
    packing = Packing(setting.quantization, setting.is_double_quantised, setting.has_int8_encoders)
    parts = measure_parts(sizes.model, packing)
    # Encoders are not loaded when their outputs are stored.
    return [part for part in parts if not (setting.has_feature_cache and part.name in ENCODERS)]


def sum_weights(parts: list[PartSize]) -> Amount:
    """All weights together."""
    names = ", ".join(part.name for part in parts)
    return Amount("weights", sum(part.num_bytes for part in parts), f"as loaded: {names}")


def _compute_optimiser(sizes: ModelSizes, setting: Setting) -> Amount:
    num_trained = sizes.num_trained
    if setting.optimiser == "adamw8bit":
        why = f"8-bit AdamW: two moments x {num_trained:,} x 1 byte, small tensors in float32"
        return Amount("optimiser state", adam8_bytes(sizes.trained_shapes), why)
    why = f"AdamW: two moments x {num_trained:,} x 4 bytes"
    return Amount("optimiser state", 2 * FLOAT_BYTES * num_trained, why)


def _compute_casts(sizes: ModelSizes, setting: Setting) -> Amount:
    if not setting.is_mixed:
        return Amount("half-precision copies", 0, "products are in the weights' own type")
    why = f"{sizes.num_trained:,} trained x 2 bytes, kept by autocast until the backward pass"
    return Amount("half-precision copies", 2 * sizes.num_trained, why)


def _compute_unpacking(setting: Setting, dims: Dimensions) -> Amount:
    """A quantised layer is unpacked each time it is used."""
    if setting.quantization == "none":
        return Amount("unpacking", 0, "nothing is quantised")
    numbers, e = dims.largest_llm_matrix, setting.element_bytes
    return Amount("unpacking", numbers * e, f"the largest quantised layer, {numbers:,} x {e} bytes")


def _compute_workspace(sizes: ModelSizes, setting: Setting) -> Amount:
    if setting.optimiser == "adamw8bit":
        return Amount("optimiser at work", 0, "each tensor is updated in place")
    if setting.is_gpu:
        why = "square roots of one moment of all trained weights (torch's foreach)"
        return Amount("optimiser at work", FLOAT_BYTES * sizes.num_trained, why)
    largest = sizes.dims.largest_trained
    why = f"three copies of the largest tensor, {largest:,} x 4 bytes"
    return Amount("optimiser at work", 3 * FLOAT_BYTES * largest, why)


def _compute_allowance(setting: Setting, num_bytes: int) -> Amount:
    if setting.is_gpu:
        why = (
            f"assumed: context and kernels {CUDA_CONTEXT_BYTES / GIB:.1f} GiB, and "
            f"{FRAGMENTATION:.0%} that the allocator cannot use"
        )
        total = CUDA_CONTEXT_BYTES + round(FRAGMENTATION * num_bytes)
        return Amount("allowance", total, why)
    why = "assumed: pages of library code that a step touches and an import does not"
    return Amount("allowance", PROCESSOR_CODE_BYTES, why)


def _compute_decoding(
    shape: BatchShape, setting: Setting, dims: Dimensions
) -> tuple[Amount, Amount, Amount]:
    """KV cache, one layer of the prefill, and scores of one step."""
    llm, e = dims.llm, setting.element_bytes
    rows, positions = shape.num_clips * setting.num_beams, shape.num_positions
    length = positions + setting.num_new_tokens
    heads = llm.num_key_value_heads
    cache = Amount(
        "KV cache",
        2 * llm.num_hidden_layers * heads * dims.head_dim * length * rows * e,
        f"keys and values x {llm.num_hidden_layers} layers x {heads} heads x {dims.head_dim} x "
        f"({positions} + {setting.num_new_tokens}) positions x {shape.num_clips} clips x "
        f"{setting.num_beams} beams x {e} bytes",
    )
    per_position = 2 * llm.hidden_size * FLOAT_BYTES + 3 * llm.intermediate_size * e
    prefill = Amount(
        "prefill at work",
        rows * positions * per_position,
        f"{rows * positions:,} positions of one layer x {per_position:,} bytes",
    )
    scores = Amount(
        "scores",
        3 * rows * dims.vocabulary * FLOAT_BYTES,
        f"{rows} rows x {dims.vocabulary:,} entries x 3 x 4 bytes",
    )
    return cache, prefill, scores


def list_steps(setting: Setting) -> list[tuple[str, Setting]]:
    """What to switch on to need less, in order: (options, the setting with all up to there)."""
    result = []
    for text, change in _possible_steps():
        changed = change(setting)
        if changed != setting:
            setting = changed
            result.append((text, setting))
    while setting.num_clips > 1:
        clips = setting.num_clips // 2
        batches = setting.num_micro_batches * setting.num_clips // clips
        setting = replace(setting, num_clips=clips, num_micro_batches=batches)
        result.append((f"run.batch_size_train: {clips}, run.accum_grad_iters: {batches}", setting))
    return result


def _possible_steps() -> list[tuple[str, Callable[[Setting], Setting]]]:
    def light(s: Setting) -> Setting:
        return replace(s, audio=replace(s.audio, is_length_aware=True, is_trimmed=True))

    def quantised(s: Setting) -> Setting:
        # HRA multiplies the weights themselves, which must not be packed.
        can = s.has_llm and "llm" in s.frozen and s.quantization == "none" and s.adapter != "hra"
        can = can and not s.is_sharded  # packed weights are not split
        return replace(s, quantization="nf4") if can else s

    def cached(s: Setting) -> Setting:
        can = {"whisper", "beats"} <= s.frozen and not s.mixes_layers
        return replace(s, has_feature_cache=True) if can else s

    def checkpointed(s: Setting) -> Setting:
        return replace(s, checkpointing="all")

    return [
        ("model.audio_tokens: length_aware, model.whisper_input: trimmed", light),
        ("model.quantization: nf4", quantised),
        ("model.gradient_checkpointing: all", checkpointed),
        ("datasets.feature_cache: FOLDER", cached),
        ("run.optims.optimiser: adamw8bit", lambda s: replace(s, optimiser="adamw8bit")),
    ]
