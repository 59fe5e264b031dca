"""The only list of options: one dataclass field is one option, with its meaning and unit.

In: a YAML file under SALMONN's key names (sections `model`, `datasets`, `run`, `generate`) and
`--options a.b=c` overrides. Out: plain dataclass objects, checked; an option left out or null has
the default below. What values may be is in `config_rules.py`; files are read in `config_file.py`.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class QFormerConfig:
    """Size of the Q-Former; the defaults are bert-base's, as in every released checkpoint."""

    hidden_size: int = 768
    num_heads: int = 12
    intermediate_size: int = 3072
    num_layers: int = 2
    dropout: float = 0.1  # of hidden states and attention, in training


@dataclass
class ModelConfig:
    """What the model is made of and where its weights come from."""

    llama_path: str = ""  # folder or hub id of any causal LLM
    whisper_path: str = ""  # folder or hub id of any Whisper
    beats_path: str = ""  # BEATs `.pt`; empty: no BEATs, Whisper alone
    audio_encoder: str | None = None  # beats | whisper_layers | none; unset: BEATs if it has a path
    token: str = ""  # hub access token; used for loading, never written anywhere
    only_preprocessor: bool = False  # build encoders, Q-Former and projector; no LLM
    ckpt: Any = ""  # trained weights: one `.pth`, or a list of them read in order
    freeze_whisper: bool = True
    freeze_beats: bool = True
    freeze_llm: bool = True  # the LLM's own weights; adapters always train
    use_speech_Qformer: bool = True  # False: stack each window's frames into the projector
    freeze_speech_QFormer: bool = False
    window_level_Qformer: bool = True  # False: the queries look at the whole clip at once
    num_speech_query_token: int = 1  # audio tokens per window (or per clip)
    second_per_window: float = 0.333333  # seconds of audio in one window
    second_stride: float = 0.333333  # seconds from one window's start to the next's
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    connector_dropout: float = 0.0  # of what goes into the projector, in training
    speech_llama_proj_model: str = ""  # separate file with the projector's weights
    freeze_speech_llama_proj: bool = False
    lora: bool = True  # False: no adapter, unless `adapter` names one
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    adapter: Any = None  # lora | dora | vblora | hra | none; true: hra; unset: `lora` decides
    adapter_options: dict[str, Any] = field(default_factory=dict)  # passed to peft's config
    quantization: str = "none"  # none | int8 | nf4, of the LLM's frozen weights
    nf4_double_quant: bool = True  # nf4's maxima in 8 bits too: 0.05 bytes less per weight
    low_resource: bool = False  # SALMONN's name for `quantization: nf4`
    encoder_dtype: str = "auto"  # auto | fp32 | fp16 | bf16 | int8: frozen encoders' weights
    merge_adapter: bool = False  # to answer: the adapter is added into the LLM; decodes faster
    attn_implementation: str = "auto"  # auto | sdpa | eager | flash_attention_2
    gradient_checkpointing: str = "none"  # none | llm | encoders (and Q-Former) | all: less memory
    audio_tokens: str = "fixed"  # fixed: always 30 s worth | length_aware: real audio only
    whisper_input: str = "padded"  # padded: always 30 s | trimmed: real frames only
    objective: str = "answer"  # answer: the LLM's | ctc: audio tokens, by its embeddings
    ctc_compression: bool = False  # leave out audio tokens that a `ctc` connector says are blank
    multi_prompt: bool = True  # draw a prompt per sample; False: one per task and batch
    prompt_template: str = "USER: {}\nASSISTANT:"
    prompt_path: str = ""  # training prompts: task -> list of sentences
    test_prompt_path: str = ""  # evaluation prompts: task -> one sentence
    max_txt_len: int = 300  # tokens of an answer, end symbol included; longer is cut before it
    end_sym: str = ""  # end of an answer; empty: the tokenizer's own end of text


@dataclass
class SpecAugmentConfig:
    """Masks on Whisper's log-mel of a training clip; sizes are drawn from 0 to the largest."""

    num_time_masks: int = 0
    max_mask_seconds: float = 1.0
    max_mask_share: float = 0.2  # of the clip's frames, for one time mask
    num_frequency_masks: int = 0
    max_mask_bins: int = 27  # mel bins, of Whisper's 80 or 128


@dataclass
class AugmentConfig:
    """Changes to training audio. Ranges are [lowest, highest], drawn evenly; [] is off."""

    speed: list[float] = field(default_factory=list)  # factor; 1.1 is 10 % shorter, higher pitch
    gain_db: list[float] = field(default_factory=list)
    noise_snr_db: list[float] = field(default_factory=list)  # clip's power over the noise's
    noise_share: float = 1.0  # of the clips that get noise
    noise_colour: str = "pink"  # pink | white: of made noise
    noise_dir: str = ""  # folder of recorded noise to mix in instead of made noise
    specaugment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)


@dataclass
class DatasetsConfig:
    """Where annotations and audio are, and what happens to bad audio."""

    prefix: str = ""  # folder that every annotation's `path` is joined to
    train_ann_path: Any = ""  # a file, a list of them, or a list of {path: FILE, weight: 1.0}
    task_temperature: float = 1.0  # tasks' shares go by clips ** (1 / this); above 1 evens them out
    valid_ann_path: str = ""
    test_ann_path: str = ""  # for both evaluation modes, unless one of the two below is given
    test_ann_path_asr: str = ""
    test_ann_path_aac: str = ""
    whisper_path: str = ""  # source of the mel settings; empty: model.whisper_path
    bad_audio: str = "error"  # error | skip: an unreadable clip stops the run, or is left out
    long_audio: str = "truncate"  # truncate | error | skip | chunk (evaluation): clips over 30 s
    group_by_length: bool = False  # batches of clips of similar length
    shard_url: str = ""  # to fetch shards: "pipe:ssh HOST cat {shard}", "https://HOST/{shard}"
    shard_cache: str = ""  # folder for fetched shards, one for all processes of a machine
    feature_cache: str = ""  # folder for the frozen encoders' outputs, computed once; empty: off
    feature_cache_check: bool = True  # compare one stored clip with the encoders at the start
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # of training clips


@dataclass
class OptimsConfig:
    """AdamW and its learning rate, per optimiser step."""

    optimiser: str = "adamw"  # adamw | adamw8bit: 2 bytes of state per trained weight, not 8
    max_epoch: int = 30
    warmup_steps: int = 3000
    warmup_start_lr: float = 1e-6
    init_lr: float = 3e-5
    min_lr: float = 1e-5
    connector_lr_scale: float = 1.0  # of the Q-Former, its queries, projector and ln_*: times this
    weight_decay: float = 0.05
    beta2: float = 0.999
    schedule: str = "cosine"  # cosine: from the end of warm-up | reference: SALMONN's jump
    max_grad_norm: float = 0.0  # gradients are clipped to this norm; 0: not clipped


@dataclass
class DistilConfig:
    """A larger model that the trained one learns from, besides the answers themselves."""

    teacher: str = ""  # YAML file whose `model` section is the teacher, `ckpt` included; empty: off
    weight: float = 0.5  # of the divergence from the teacher; 1 - weight is the answers'
    temperature: float = 1.0  # softens both sides' probabilities
    top_k: int = 0  # teacher's likeliest tokens, compared along with the rest as one; 0: all tokens
    cache: str = ""  # folder for what the teacher says of each clip, computed once; needs top_k


@dataclass
class RunConfig:
    """One training or evaluation run."""

    seed: int = 42
    output_dir: str = "outputs"  # each run makes its own folder inside
    exp_name: str = "audiolm"
    evaluate: bool = False  # decode the test set instead of training
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    precision: str = "auto"  # fp32 | bf16 | fp16 | auto: bf16 or fp16 by GPU, fp32 on CPU
    amp: bool = True  # SALMONN's switch: False casts nothing under `precision: auto`
    epoch_based: bool = False  # True: an epoch is one pass; False: `iters_per_epoch` batches
    iters_per_epoch: int = 3000  # micro-batches per process
    fsdp: bool = False  # split the frozen LLM's layers over the processes of torchrun
    accum_grad_iters: int = 1  # micro-batches per optimiser step
    batch_size_train: int = 8  # clips per process and micro-batch
    batch_seconds: float = 0.0  # most padded audio per process and micro-batch; 0: any amount
    batch_size_eval: int = 8
    num_workers: int = 2  # data loading processes per training process
    log_freq: int = 5  # optimiser steps between lines of log.jsonl
    save_every_steps: int = 0  # optimiser steps between saves; 0: at each epoch's end only
    save_every_minutes: float = 0.0  # the same by the clock
    keep_last: int = 3  # newest saves kept; 0: all
    keep_best: int = 1  # best checkpoints kept besides, by `best_metric`
    best_metric: str = "loss"  # loss | token_accuracy | wer | cider_d, of validations
    average_best: bool = False  # at the end, write and validate the mean of the best ones
    eval_every: int = 0  # optimiser steps between validations; 0: at each epoch's end only
    eval_clips: int = 0  # validation clips that are answered and scored each time; 0: loss only
    early_stop_patience: int = 0  # validations without a better `best_metric`; 0: never stop
    max_time_minutes: float = 0.0  # then save and stop; 0: no limit
    max_skipped_steps: int = 10  # more in a row (non-finite loss, out of memory) stop the run
    loggers: list[str] = field(default_factory=list)  # any of tensorboard, wandb
    optims: OptimsConfig = field(default_factory=OptimsConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)


@dataclass
class GenerateConfig:
    """How answers are decoded."""

    max_new_tokens: int = 200
    num_beams: int = 4
    do_sample: bool = False
    min_length: int = 1  # new tokens
    temperature: float = 1.0
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    end_sym: str = ""  # ends an answer, as model.end_sym does
    prefix_cache: bool = True  # without beams, what is before the audio is read once per prompt
    torch_compile: bool = False  # without beams, a token by torch.compile; the first takes long
    runaway_guard: bool = True  # end answers that loop or are too long for their audio


@dataclass
class Config:
    """A whole configuration file."""

    model: ModelConfig = field(default_factory=ModelConfig)
    datasets: DatasetsConfig = field(default_factory=DatasetsConfig)
    run: RunConfig = field(default_factory=RunConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
