"""What the options of `config.py` may be, and which of them name files.

Keys are `section.option`. `config_file.py` applies these tables to every configuration.
"""

# Options with a fixed set of values.
CHOICES: dict[str, tuple[str, ...]] = {
    "model.audio_encoder": ("beats", "whisper_layers", "none"),
    "model.quantization": ("none", "int8", "nf4"),
    "model.encoder_dtype": ("auto", "fp32", "fp16", "bf16", "int8"),
    "model.attn_implementation": ("auto", "sdpa", "eager", "flash_attention_2"),
    "model.audio_tokens": ("fixed", "length_aware"),
    "model.whisper_input": ("padded", "trimmed"),
    "model.gradient_checkpointing": ("none", "llm", "encoders", "all"),
    "model.objective": ("answer", "ctc"),
    "datasets.bad_audio": ("error", "skip"),
    "datasets.long_audio": ("truncate", "error", "skip", "chunk"),
    "run.optims.optimiser": ("adamw", "adamw8bit"),
    "datasets.augment.noise_colour": ("pink", "white"),
    "run.precision": ("auto", "fp32", "bf16", "fp16"),
    "run.best_metric": ("loss", "token_accuracy", "wer", "cider_d"),
    "run.optims.schedule": ("cosine", "reference"),
}

# Smallest allowed values; what is not here may be anything.
MINIMUMS: dict[str, float] = {
    "model.num_speech_query_token": 1,
    "model.second_per_window": 0.02,
    "model.second_stride": 0.02,
    "model.lora_rank": 1,
    "model.max_txt_len": 1,
    "datasets.task_temperature": 0.1,
    "datasets.augment.noise_share": 0,
    "datasets.augment.specaugment.num_time_masks": 0,
    "datasets.augment.specaugment.max_mask_seconds": 0,
    "datasets.augment.specaugment.max_mask_share": 0,
    "datasets.augment.specaugment.num_frequency_masks": 0,
    "datasets.augment.specaugment.max_mask_bins": 0,
    "run.seed": 0,
    "run.batch_seconds": 0,
    "run.iters_per_epoch": 1,
    "run.accum_grad_iters": 1,
    "run.batch_size_train": 1,
    "run.batch_size_eval": 1,
    "run.num_workers": 0,
    "run.log_freq": 1,
    "run.save_every_steps": 0,
    "run.save_every_minutes": 0,
    "run.keep_last": 0,
    "run.keep_best": 1,
    "run.eval_every": 0,
    "run.eval_clips": 0,
    "run.early_stop_patience": 0,
    "run.max_time_minutes": 0,
    "run.max_skipped_steps": 0,
    "run.optims.max_epoch": 1,
    "run.optims.warmup_steps": 0,
    "run.optims.connector_lr_scale": 0,
    "run.optims.max_grad_norm": 0,
    "run.distil.weight": 0,
    "run.distil.temperature": 0.1,
    "run.distil.top_k": 0,
    "generate.max_new_tokens": 1,
    "generate.num_beams": 1,
}

# Largest allowed values.
MAXIMUMS: dict[str, float] = {
    "model.second_per_window": 30,  # the longest clip
    "model.lora_dropout": 1,
    "model.connector_dropout": 1,
    "model.qformer.dropout": 1,
    "datasets.augment.noise_share": 1,
    "datasets.augment.specaugment.max_mask_share": 1,
    "run.distil.weight": 1,
}

# Options that are empty or [lowest, highest], and what both may be.
RANGES: dict[str, tuple[float, float]] = {
    "datasets.augment.speed": (0.5, 2.0),
    "datasets.augment.gain_db": (-60.0, 60.0),
    "datasets.augment.noise_snr_db": (-30.0, 100.0),
}

# Options that name a file or folder to read.
INPUT_PATHS: tuple[str, ...] = (
    "model.llama_path",
    "model.whisper_path",
    "model.beats_path",
    "model.ckpt",
    "model.speech_llama_proj_model",
    "model.prompt_path",
    "model.test_prompt_path",
    "datasets.prefix",
    "datasets.train_ann_path",
    "datasets.valid_ann_path",
    "datasets.test_ann_path",
    "datasets.test_ann_path_asr",
    "datasets.test_ann_path_aac",
    "datasets.whisper_path",
    "datasets.augment.noise_dir",
    "run.distil.teacher",
)
# Paths that are read, when they are set, along with one that must be there.
READ_ALONG: dict[str, tuple[str, ...]] = {
    "model.llama_path": ("model.beats_path", "model.ckpt", "model.speech_llama_proj_model"),
    "datasets.train_ann_path": (
        "datasets.prefix", "datasets.whisper_path", "datasets.augment.noise_dir",
        "run.distil.teacher",
    ),
}  # fmt: skip
HUB_PATHS = ("model.llama_path", "model.whisper_path", "datasets.whisper_path")

# Other spellings in users' files.
ALIASES: dict[str, str] = {"model.beat_path": "model.beats_path"}

# Keys of older files that no longer do anything, and what replaces them.
RETIRED: dict[str, str] = {
    "model.lora_16bit": "adapters train in float32",
    "model.device_8bit": "run.device",
    "run.use_distributed": "launch with torchrun",
    "run.world_size": "torchrun --nproc_per_node",
    "run.dist_url": "torchrun's own rendezvous",
}
