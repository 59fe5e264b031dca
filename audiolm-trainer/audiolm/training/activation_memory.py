"""What a training step keeps for its backward pass, and what the encoders need while they work.

Counted from shapes, by what the modules of transformers, peft and this package save for their
gradients with SDPA attention; `tests/test_memory_plan.py` compares the sums with autograd's own.

In the functions, e is the bytes of a number that a frozen module computes, t of a trained one's.
"""

from dataclasses import dataclass, replace

import torch

from audiolm.audio.features import NUM_FBANK_BINS, num_fbank_frames
from audiolm.audio.loading import SAMPLE_RATE_HZ
from audiolm.models.audio_tokens import plan_frames
from audiolm.models.whisper import MEL_PER_FRAME
from audiolm.training.model_sizes import Dimensions
from audiolm.training.plan_setting import Setting, Workload

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Amount:
    """Bytes of one thing, and how they come about."""

    name: str
    num_bytes: int
    why: str


@dataclass(frozen=True)
class BatchShape:
    """A batch in which every clip is as long as the workload says."""

    num_clips: int
    num_samples: int
    num_frames: int  # that Whisper encodes, per clip
    num_patches: int  # of BEATs, per clip
    num_windows: int  # of all clips together
    frames_per_window: int
    num_audio_tokens: int  # per clip
    num_prompt_tokens: int
    num_answer_tokens: int

    @property
    def num_positions(self) -> int:
        """Length of a row that trains."""
        return self.num_prompt_tokens + self.num_audio_tokens + self.num_answer_tokens


def plan_shape(
    workload: Workload, setting: Setting, dims: Dimensions, num_clips: int
) -> BatchShape:
    """Frames, windows and tokens of a batch, by the model's own plan."""
    num_samples = round(workload.seconds * SAMPLE_RATE_HZ)
    max_frames = dims.whisper.max_source_positions
    plan = plan_frames(torch.tensor([num_samples]), max_frames, setting.audio)
    patch = dims.beats.input_patch_size if dims.beats is not None else 1
    columns = num_fbank_frames(num_samples) // patch
    windows = int(plan.num_windows)
    is_windowed = setting.audio.is_window_level
    return BatchShape(
        num_clips=num_clips,
        num_samples=num_samples,
        num_frames=int(plan.num_encoded),
        num_patches=columns * (NUM_FBANK_BINS // patch) if dims.beats is not None else 0,
        num_windows=num_clips * windows,
        frames_per_window=setting.audio.windows.length if is_windowed else int(plan.num_used),
        num_audio_tokens=windows * dims.num_queries,
        num_prompt_tokens=workload.num_prompt_tokens,
        num_answer_tokens=workload.num_answer_tokens,
    )


def compute_batch(shape: BatchShape, setting: Setting, dims: Dimensions) -> Amount:
    """The batch itself: log-mel and waveforms, or the encoders' stored outputs."""
    b = shape.num_clips
    if setting.has_feature_cache:
        numbers = b * (shape.num_frames * dims.whisper.d_model)
        if dims.beats is not None:
            numbers += b * shape.num_patches * dims.beats.encoder_embed_dim
        why = f"stored encoder outputs, {numbers:,} x {setting.encoder_bytes} bytes"
        return Amount("batch", numbers * setting.encoder_bytes, why)
    mel = dims.whisper.num_mel_bins * dims.whisper.max_source_positions * MEL_PER_FRAME
    why = f"{b} x (log-mel {mel:,} + waveform {shape.num_samples:,}) x 4 bytes"
    return Amount("batch", b * (mel + shape.num_samples) * FLOAT_BYTES, why)


def compute_encoders_at_work(shape: BatchShape, setting: Setting, dims: Dimensions) -> Amount:
    """The most that Whisper or BEATs holds while it runs without gradients; freed afterwards."""
    if setting.has_feature_cache:
        return Amount("encoders at work", 0, "not loaded: their outputs are read from the cache")
    whisper, e, b = dims.whisper, setting.encoder_bytes, shape.num_clips
    frames, width, ffn = b * shape.num_frames, whisper.d_model, whisper.encoder_ffn_dim
    conv = frames * MEL_PER_FRAME * (whisper.num_mel_bins + 2 * width) * e
    layer = frames * (2 * width + 2 * ffn) * e
    if setting.is_eager:
        layer = max(layer, 2 * frames * shape.num_frames * whisper.encoder_attention_heads * e)
    speech = max(conv, layer)
    why = f"Whisper: {frames:,} frames x (2 x {width} + 2 x {ffn}) x {e} bytes"
    if dims.num_mixed:
        states = dims.num_mixed * frames * width
        speech += states * e
        why += f", and {dims.num_mixed} hidden states"
    if dims.beats is None:
        return Amount("encoders at work", speech, why)
    beats = dims.beats
    patches, beats_width = b * shape.num_patches, beats.encoder_embed_dim
    bias = 2 * beats.encoder_attention_heads * shape.num_patches**2 * e
    layer = patches * max(2 * beats_width + 2 * beats.encoder_ffn_embed_dim, 6 * beats_width) * e
    # Whisper's output waits meanwhile, before and after its layer norm.
    audio = layer + bias + 2 * frames * width * FLOAT_BYTES
    if audio > speech:
        why = (
            f"BEATs: {patches:,} patches x (2 x {beats_width} + 2 x {beats.encoder_ffn_embed_dim}) "
            f"x {e} bytes, two position biases, and Whisper's output"
        )
    return Amount("encoders at work", max(speech, audio), why)


def compute_connector(shape: BatchShape, setting: Setting, dims: Dimensions) -> Amount:
    """Saved for layer norms, Q-Former and projector."""
    frames, patches = shape.num_clips * shape.num_frames, shape.num_clips * shape.num_patches
    saved = frames * dims.whisper.d_model * FLOAT_BYTES
    if dims.beats is not None:
        saved += patches * dims.beats.encoder_embed_dim * FLOAT_BYTES
    if dims.num_mixed:  # every hidden state, for its weight's gradient, and their sum
        saved += (dims.num_mixed + 1) * frames * dims.whisper.d_model * FLOAT_BYTES
    t = setting.trained_bytes
    window_numbers = shape.num_windows * shape.frames_per_window * dims.frame_width
    what = f"layer norms' inputs; {shape.num_windows} windows x {shape.frames_per_window} frames"
    if dims.qformer is None:
        return Amount("connector", saved + window_numbers * t, f"{what}, as the projector's input")
    qformer = dims.qformer
    layers = qformer.num_hidden_layers
    per_layer = _qformer_layer_bytes(shape, setting, dims)
    if setting.are_encoders_checkpointed:
        inputs = window_numbers * FLOAT_BYTES
        rows = layers * shape.num_windows * dims.num_queries * qformer.hidden_size * FLOAT_BYTES
        again = per_layer + _window_copies(setting, 1) * window_numbers * t
        why = f"{what}, and one of {layers} Q-Former layers at a time, run again"
        return Amount("connector", saved + inputs + rows + again, why)
    copies = _window_copies(setting, layers)
    saved += copies * window_numbers * t + layers * per_layer
    why = f"{what} x {dims.frame_width} x {t} bytes x {copies}; {layers} Q-Former layers"
    return Amount("connector", saved, why)


def _window_copies(setting: Setting, num_layers: int) -> int:
    """How often the windows are kept: keys and values share them, unless each casts its own."""
    if "qformer" in setting.frozen:
        return 0  # a frozen layer's gradient does not need its input
    return 2 * num_layers if setting.is_mixed else 1


def _qformer_layer_bytes(shape: BatchShape, setting: Setting, dims: Dimensions) -> int:
    """Keys and values of the windows, and what each query passes through."""
    qformer, t = dims.qformer, setting.trained_bytes
    width, ffn = qformer.hidden_size, qformer.intermediate_size
    queries = shape.num_windows * dims.num_queries
    keys = shape.num_windows * shape.frames_per_window
    # With dropout, a processor's attention computes in float32.
    attention = t if setting.is_gpu or not setting.qformer_dropout else FLOAT_BYTES
    probabilities = 3 * queries * qformer.num_attention_heads * shape.frames_per_window
    per_query = 7 * width + ffn if "qformer" in setting.frozen else 15 * width + 2 * ffn
    return (2 * keys * width + probabilities) * attention + queries * per_query * t


def compute_llm(shape: BatchShape, setting: Setting, dims: Dimensions) -> Amount:
    """Saved by the LLM's layers, or their inputs and one layer run again (checkpointing)."""
    rows = shape.num_clips * shape.num_positions
    layers, width = dims.llm.num_hidden_layers, dims.llm.hidden_size
    layer, why = _llm_layer_bytes(shape, setting, dims)
    norm = rows * width * FLOAT_BYTES  # the last one's input
    if setting.is_llm_checkpointed:
        inputs = layers * rows * width * setting.element_bytes
        inputs_why = f"{rows:,} x {width} x {setting.element_bytes} bytes"
        why = f"{layers} layers' inputs {inputs_why} + one layer of: {why}"
        return Amount("LLM", inputs + layer + norm, why)
    return Amount("LLM", layers * layer + norm, f"{layers} layers x {why}")


def _llm_layer_bytes(shape: BatchShape, setting: Setting, dims: Dimensions) -> tuple[int, str]:
    llm, e = dims.llm, setting.element_bytes
    rows = shape.num_clips * shape.num_positions
    attended = llm.num_attention_heads * dims.head_dim
    norms = 2 * llm.hidden_size * FLOAT_BYTES  # in float32 whatever the weights are
    attention = 4 * attended * e  # query, key and value at all heads, output
    mask = shape.num_positions * e
    if shape.num_clips == 1:  # no padding, so no mask, and keys and values are not repeated
        attention = 2 * (attended + llm.num_key_value_heads * dims.head_dim) * e
        mask = 0
    mask += llm.num_attention_heads * FLOAT_BYTES
    if setting.is_eager:
        mask += 2 * llm.num_attention_heads * shape.num_positions * max(e, FLOAT_BYTES)
    feed_forward = 3 * llm.intermediate_size * e
    per_row = norms + attention + mask + feed_forward
    why = f"{rows:,} positions x (norms {norms:,} + attention {attention:,} + MLP {feed_forward:,}"
    if "llm" not in setting.frozen:
        inputs = _trained_input_bytes(setting, dims)
        per_row += inputs
        why += f" + inputs of trained layers {inputs:,}"
    adapter_rows, adapter_matrices = _adapter_bytes(setting, dims)
    adapter_rows //= llm.num_hidden_layers
    adapter_matrices //= llm.num_hidden_layers
    why += f" + {setting.adapter} {adapter_rows:,}) bytes"
    if adapter_matrices:
        why += f" + {setting.adapter}'s matrices {adapter_matrices:,} bytes"
    return rows * (per_row + adapter_rows) + adapter_matrices, why


def _trained_input_bytes(setting: Setting, dims: Dimensions) -> int:
    """Per position and layer: what linear layers and norms read, when their own weights train."""
    llm, t = dims.llm, setting.trained_bytes
    normalised = 2 * llm.hidden_size * FLOAT_BYTES
    if not setting.is_mixed:  # q, k and v read one tensor, as do the two first of the MLP
        return normalised + (2 * llm.hidden_size + llm.intermediate_size) * t
    attended = llm.num_attention_heads * dims.head_dim
    return normalised + (5 * llm.hidden_size + attended + llm.intermediate_size) * t


def _adapter_bytes(setting: Setting, dims: Dimensions) -> tuple[int, int]:
    """Bytes saved by all adapted layers: per position, and whatever the batch (whole matrices)."""
    t, rank, adapter = setting.trained_bytes, dims.adapter_rank, setting.adapter
    cast = t if setting.element_bytes < FLOAT_BYTES else 0  # the frozen weight, in another type
    has_dropout = setting.has_adapter_dropout and adapter != "hra"
    # Dropout keeps its noise: a byte a number on a GPU, a float on the processor.
    noise = (1 if setting.is_gpu else FLOAT_BYTES) if has_dropout else 0
    per_row, matrices = 0, 0
    sources: dict[str, int] = {}
    for layer in dims.adapted:
        inputs, outputs = layer.num_inputs, layer.num_outputs
        if has_dropout or setting.is_mixed:  # each its own, dropped out or cast
            per_row += inputs * (noise + t)
        elif not layer.source.endswith("o_proj"):  # attention's output is kept anyway
            sources[layer.source] = inputs
        if adapter == "hra":  # the whole weight is reflected, and kept at each step
            matrices += ((rank + 1) * inputs**2 + inputs * outputs) * t + inputs * outputs * cast
            continue
        per_row += rank * t
        if adapter == "dora":  # the base layer's result and LoRA's, to be scaled
            per_row += 2 * outputs * t
            matrices += inputs * outputs * cast
        if adapter == "vblora":  # vectors drawn from the bank, and the matrices they make
            matrices += rank * (inputs + outputs) * (2 + 1) * FLOAT_BYTES
    return per_row + t * sum(sources.values()), matrices


def compute_logits(shape: BatchShape, setting: Setting, dims: Dimensions) -> Amount:
    """Scores of the answer rows at the start of the backward pass: nothing else gets logits."""
    numbers = shape.num_clips * shape.num_answer_tokens * dims.vocabulary
    copies = 3 * FLOAT_BYTES
    why = (
        f"{shape.num_clips} x {shape.num_answer_tokens} answer tokens x {dims.vocabulary:,} "
        f"entries x {copies} bytes (log-probabilities and two gradients in float32)"
    )
    return Amount("logits", numbers * copies, why)


def compute_trained_encoders(shape: BatchShape, setting: Setting, dims: Dimensions) -> Amount:
    """Saved by encoders that train; nothing when they are frozen."""
    t, num_bytes, names = setting.trained_bytes, 0, []
    factor = 1 if not setting.are_encoders_checkpointed else 0
    if "whisper" not in setting.frozen:
        whisper, frames = dims.whisper, shape.num_clips * shape.num_frames
        width, ffn, layers = whisper.d_model, whisper.encoder_ffn_dim, whisper.encoder_layers
        layer = frames * (2 * width * FLOAT_BYTES + (7 * width + 2 * ffn) * t)
        num_bytes += frames * MEL_PER_FRAME * (whisper.num_mel_bins + 2 * width) * t
        num_bytes += frames * width * t
        num_bytes += layer * (layers if factor else 1)
        num_bytes += 0 if factor else layers * frames * width * FLOAT_BYTES
        names.append(f"Whisper {layers} layers x {frames:,} frames")
    if dims.beats is not None and "beats" not in setting.frozen:
        beats, patches = dims.beats, shape.num_clips * shape.num_patches
        width, ffn = beats.encoder_embed_dim, beats.encoder_ffn_embed_dim
        layers = beats.encoder_layers
        bias = beats.encoder_attention_heads * shape.num_patches**2 * shape.num_clips  # gated
        layer = patches * (2 * width * FLOAT_BYTES + (6 * width + 2 * ffn) * t) + bias * t
        num_bytes += layer * (layers if factor else 1)
        num_bytes += beats.encoder_attention_heads * shape.num_patches**2 * t  # before its gates
        num_bytes += 0 if factor else layers * patches * width * FLOAT_BYTES
        names.append(f"BEATs {layers} layers x {patches:,} patches")
    why = " and ".join(names) or "frozen encoders keep nothing"
    if names and not factor:
        why += ": inputs of all layers, one layer run again"
    return Amount("encoders", num_bytes, why)


def without_answer(shape: BatchShape) -> BatchShape:
    """The rows that are answered, not trained on."""
    return replace(shape, num_answer_tokens=0)
