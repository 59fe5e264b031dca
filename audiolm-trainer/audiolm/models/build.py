"""Build the joint model from its options and load trained weights into it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from audiolm.config import ModelConfig
from audiolm.config_file import build_model_config
from audiolm.errors import UserError
from audiolm.models.activation_checkpointing import enable_checkpointing
from audiolm.models.adapter import attach_adapter, merge_adapter
from audiolm.models.audio_tokens import AudioTokenOptions
from audiolm.models.beats import BEATs, read_beats_width
from audiolm.models.checkpoint import load_checkpoints, load_projector
from audiolm.models.ctc_loss import start_near_embeddings
from audiolm.models.encoding import EncoderSizes
from audiolm.models.llm import load_llm, load_tokenizer, read_llm_width
from audiolm.models.qformer import Windows, build_qformer
from audiolm.models.quantisation import choose_encoder_dtype, quantise_linears
from audiolm.models.salmonn import SALMONN, TextOptions
from audiolm.models.whisper import load_whisper_encoder, read_whisper_config
from audiolm.prompts import PromptBook

# Values of model.gradient_checkpointing.
LLM_CHECKPOINTED = ("llm", "all")
ENCODERS_CHECKPOINTED = ("encoders", "all")


def build_salmonn(
    config: Any,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    has_encoders: bool = True,
) -> SALMONN:
    """Build the model from the `model` section and load `ckpt` when it is given.

    Args:
        config: dataclass, OmegaConf node or dict under the names of `ModelConfig`.
        device: where the model goes.
        dtype: of frozen weights; what trains is float32.
        has_encoders: False leaves out Whisper and BEATs, to train from their stored outputs; only
            their configuration is read.

    Returns:
        The model in eval mode.

    Raises:
        UserError: an unknown option, a path with nothing at it, or weights that do not fit.
    """
    options = build_model_config(config)
    whisper, beats = build_encoders(options, dtype, device) if has_encoders else (None, None)
    sizes = read_encoder_sizes(options)
    tokenizer = load_tokenizer(options.llama_path, options.token)
    llm = None if options.only_preprocessor else _build_llm(options, tokenizer, device, dtype)
    llm_width = (
        read_llm_width(options.llama_path, options.token)
        if llm is None
        else llm.get_input_embeddings().embedding_dim
    )
    model = assemble_salmonn(options, whisper, beats, sizes, llm, tokenizer, llm_width)
    if options.objective == "ctc":
        start_near_embeddings(model.speech_llama_proj, model.llm.get_input_embeddings())
    _load_trained(model, options)
    model = model.to(device)
    if options.merge_adapter and model.llama_model is not None:
        model.llama_model = merge_adapter(model.llama_model)
    return model


def assemble_salmonn(
    options: ModelConfig,
    whisper: WhisperEncoder | None,
    beats: BEATs | None,
    sizes: EncoderSizes,
    llm: nn.Module | None,
    tokenizer: Any,
    llm_width: int,
) -> SALMONN:
    """Join encoders and LLM by a new Q-Former and projector; what `options` freezes is frozen."""
    audio_options = read_audio_options(options)
    qformer, queries, projector = _build_connector(
        options, audio_options.windows, sizes.frame_width, llm_width
    )
    return SALMONN(
        whisper,
        beats,
        qformer,
        queries,
        projector,
        llm,
        tokenizer,
        encoder_sizes=sizes,
        audio_options=audio_options,
        text_options=TextOptions(
            max_answer_tokens=options.max_txt_len,
            end_text=options.end_sym or str(getattr(tokenizer, "eos_token", None) or ""),
            prompt_template=options.prompt_template,
            draws_per_sample=options.multi_prompt,
            objective=options.objective,
            ctc_compression=options.ctc_compression,
        ),
        prompts=PromptBook.load(options.prompt_path) if options.prompt_path else None,
        frozen=_frozen_parts(options),
        connector_dropout=options.connector_dropout,
    )


def _load_trained(model: SALMONN, options: ModelConfig) -> None:
    if options.speech_llama_proj_model:
        load_projector(model, options.speech_llama_proj_model)
    if options.ckpt:
        paths = options.ckpt if isinstance(options.ckpt, list) else [options.ckpt]
        load_checkpoints(model, [Path(path) for path in paths])


def resolve_adapter(model: ModelConfig) -> str:
    """The adapter's name: lora, dora, vblora, hra or none.

    `adapter` true means hra, a name means itself; unset or false leaves it to `lora`.
    """
    if isinstance(model.adapter, str):
        return model.adapter
    if model.adapter:
        return "hra"
    return "lora" if model.lora else "none"


def mixes_layers(options: ModelConfig) -> bool:
    """Whether the second stream is a learned mix of Whisper's layers."""
    return options.audio_encoder == "whisper_layers"


def read_audio_options(options: ModelConfig) -> AudioTokenOptions:
    """Which audio becomes tokens."""
    return AudioTokenOptions(
        Windows.from_seconds(options.second_per_window, options.second_stride),
        is_window_level=options.window_level_Qformer or not options.use_speech_Qformer,
        is_length_aware=options.audio_tokens == "length_aware",
        is_trimmed=options.whisper_input == "trimmed",
    )


def read_encoder_sizes(options: ModelConfig) -> EncoderSizes:
    """The encoders' sizes, from their configurations alone."""
    whisper = read_whisper_config(options.whisper_path, options.token)
    beats_width = read_beats_width(options.beats_path) if options.beats_path else 0
    return EncoderSizes.of(whisper, beats_width, mixes_layers=mixes_layers(options))


def build_encoders(
    options: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[WhisperEncoder, BEATs | None]:
    """Whisper's encoder, and BEATs when a file is given, on the CPU.

    Where frozen they are in `dtype` or as `encoder_dtype` says; 8-bit weights are on `device`.
    """
    dtype = choose_encoder_dtype(options, dtype, device)
    whisper = load_whisper_encoder(
        options.whisper_path,
        dtype=dtype if options.freeze_whisper else torch.float32,
        attn_implementation=options.attn_implementation,
        token=options.token,
    )
    beats = None
    if options.beats_path:
        beats_dtype = dtype if options.freeze_beats else torch.float32
        beats = BEATs.from_checkpoint(options.beats_path, beats_dtype)
    if options.encoder_dtype == "int8":
        quantise_linears(whisper, device)
        if beats is not None:
            quantise_linears(beats, device)
    if options.gradient_checkpointing in ENCODERS_CHECKPOINTED:  # without effect where frozen
        enable_checkpointing(whisper)
        if beats is not None:
            enable_checkpointing(beats)
    return whisper, beats


def _build_llm(options: ModelConfig, tokenizer: Any, device: Any, dtype: torch.dtype) -> Any:
    quantization = "nf4" if options.low_resource else options.quantization
    if quantization != "none" and not options.freeze_llm:
        raise UserError(
            f"model.freeze_llm: false cannot train an LLM quantised to {quantization}; "
            "set model.quantization: none, or freeze the LLM and train its adapter"
        )
    llm = load_llm(
        options.llama_path,
        tokenizer,
        dtype=dtype if options.freeze_llm else torch.float32,
        quantization=quantization,
        is_double_quantised=options.nf4_double_quant,
        attn_implementation=options.attn_implementation,
        device=device,
        token=options.token,
    )
    return adapt_llm(options, llm)


def adapt_llm(options: ModelConfig, llm: Any) -> nn.Module:
    """The frozen LLM with its adapter; all of it trains when `freeze_llm` is off."""
    adapted = attach_adapter(
        llm,
        resolve_adapter(options),
        rank=options.lora_rank,
        alpha=options.lora_alpha,
        dropout=options.lora_dropout,
        options=options.adapter_options,
    )
    if not options.freeze_llm:
        llm.requires_grad_(True)
    if options.gradient_checkpointing in LLM_CHECKPOINTED:
        enable_checkpointing(llm)
    return adapted


def _build_connector(
    options: ModelConfig, windows: Windows, frame_width: int, llm_width: int
) -> tuple[nn.Module | None, nn.Parameter | None, nn.Linear]:
    """Q-Former, its queries, and the projector to the LLM's width."""
    if not options.use_speech_Qformer:
        return None, None, nn.Linear(frame_width * windows.length, llm_width)
    size = options.qformer
    qformer = build_qformer(
        hidden_size=size.hidden_size,
        num_heads=size.num_heads,
        intermediate_size=size.intermediate_size,
        num_layers=size.num_layers,
        frame_width=frame_width,
        dropout=size.dropout,
    )
    if options.gradient_checkpointing in ENCODERS_CHECKPOINTED:
        enable_checkpointing(qformer)
    std = qformer.config.initializer_range
    shape = (1, options.num_speech_query_token, size.hidden_size)
    queries = nn.Parameter(torch.randn(shape) * std)
    return qformer, queries, nn.Linear(size.hidden_size, llm_width)


def _frozen_parts(options: ModelConfig) -> frozenset[str]:
    flags = {
        "speech_encoder": options.freeze_whisper,
        "beats": options.freeze_beats,
        "llama_model": options.freeze_llm,
        "speech_Qformer": options.freeze_speech_QFormer,
        "speech_query_tokens": options.freeze_speech_QFormer,
        "speech_llama_proj": options.freeze_speech_llama_proj,
    }
    return frozenset(part for part, is_frozen in flags.items() if is_frozen)
