"""BEATs, the general-audio encoder: Kaldi filterbanks in, one feature per 16 x 16 patch out.

Architecture: Chen et al. 2022, "BEATs: Audio Pre-Training with Acoustic Tokenizers" (a ViT over
filterbank patches whose Transformer has WavLM's gated relative position bias and DeepNorm
residuals). Parameters carry the names of the released `.pt` files, except that the relative bias
table, which those files repeat for every layer, exists once, in layer 0.

Shapes: B clips, F frames of 10 ms, P patches (8 for every 16 frames), D = encoder_embed_dim,
N = real patches of the whole batch. Inside, the clips of a batch are packed into one
(N, D) matrix, so a clip never meets another's padding and no work is spent on padding.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiolm.audio.features import NUM_FBANK_BINS
from audiolm.errors import UserError
from audiolm.models.beats_attention import BeatsAttention
from audiolm.models.beats_file import load_beats_file, select_encoder_weights

ACTIVATIONS = {"gelu": functional.gelu, "relu": functional.relu}


@dataclasses.dataclass(frozen=True)
class BeatsConfig:
    """The entries of a `.pt` file's `cfg` that the encoder reads, under the same names.

    `encoder_layerdrop` is not among them: layers are never dropped, so that training mode computes
    the same network as evaluation does.
    """

    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    embed_dim: int = 512
    input_patch_size: int = 16
    activation_fn: str = "gelu"
    conv_bias: bool = False
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = True
    num_buckets: int = 320
    max_distance: int = 800
    gru_rel_pos: bool = True
    deep_norm: bool = True
    layer_norm_first: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    dropout_input: float = 0.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BeatsConfig":
        """Take the known entries of `values`, ignore the others.

        Raises:
            UserError: the activation is not one of `ACTIVATIONS`.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        config = cls(**{name: value for name, value in values.items() if name in known})
        if config.activation_fn not in ACTIVATIONS:
            raise UserError(
                f"BEATs cfg: activation_fn is {config.activation_fn!r}, "
                f"allowed are {list(ACTIVATIONS)}"
            )
        return config


def read_beats_width(path: str | Path) -> int:
    """Width D of a `.pt` file's features, without reading its weights.

    Raises:
        UserError: the file is missing or is not a BEATs file.
    """
    values, _ = load_beats_file(path, is_mapped=True)
    return BeatsConfig.from_dict(values).encoder_embed_dim


class BEATs(nn.Module):
    """The encoder without the classifier head of fine-tuned files.

    In training mode the dropouts of the configuration apply; layer drop never does.
    """

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        patch = config.input_patch_size
        self.patch_embedding = nn.Conv2d(
            1, config.embed_dim, kernel_size=patch, stride=patch, bias=config.conv_bias
        )
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.post_extract_proj = (
            nn.Linear(config.embed_dim, config.encoder_embed_dim)
            if config.embed_dim != config.encoder_embed_dim
            else None
        )
        self.dropout_input = nn.Dropout(config.dropout_input)
        self.encoder = BeatsEncoder(config)

    @classmethod
    def from_checkpoint(cls, path: str | Path, dtype: torch.dtype | None = None) -> "BEATs":
        """Load a released or fine-tuned `.pt` file (`{"cfg", "model"}`), on the CPU.

        Args:
            path: the file.
            dtype: of the parameters; None keeps the file's.

        Raises:
            UserError: the file is missing, is not a BEATs file, or does not fit its own `cfg`.
        """
        config_values, weights = load_beats_file(path)
        config = BeatsConfig.from_dict(config_values)
        with torch.device("meta"):
            model = cls(config)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        selected = select_encoder_weights(weights, shapes, path)
        model.load_state_dict(
            {name: tensor.to(dtype or tensor.dtype) for name, tensor in selected.items()},
            assign=True,
        )
        return model

    @property
    def embed_dim(self) -> int:
        """Width D of the features."""
        return self.config.encoder_embed_dim

    def forward(self, fbank: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch of filterbanks.

        Args:
            fbank: (B, F, 128) normalised filterbanks (`audio.features.kaldi_fbank`).
            num_frames: (B,) each clip's own number of frames; what lies beyond is not read.

        Returns:
            features (B, P, D), zero beyond a clip's own patches, and num_patches (B,). A clip's
            features do not depend on its batch mates.
        """
        patch = self.config.input_patch_size
        patches_per_column = NUM_FBANK_BINS // patch
        num_patches = torch.div(num_frames, patch, rounding_mode="floor") * patches_per_column
        lengths: list[int] = num_patches.tolist()

        patches = self.patch_embedding(fbank.to(self.patch_embedding.weight.dtype).unsqueeze(1))
        patches = patches.flatten(2).transpose(1, 2)  # (B, C, F/16, 8) -> (B, P, C), time outermost
        x = torch.cat(
            [clip[:length] for clip, length in zip(patches, lengths, strict=True)]
        )  # (N, C)
        x = self.layer_norm(x)
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)  # (N, C) -> (N, D)
        x = self.encoder(self.dropout_input(x), lengths)

        padded = nn.utils.rnn.pad_sequence(list(x.split(lengths)), batch_first=True)
        missing = patches.shape[1] - padded.shape[1]
        return functional.pad(padded, (0, 0, 0, missing)), num_patches


class BeatsEncoder(nn.Module):
    """Convolutional position embedding, then Transformer layers that share one position bias."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width = config.encoder_embed_dim
        self.is_norm_first = config.layer_norm_first
        # The list holds one module only to keep the released names (pos_conv.0.weight_v ...).
        self.pos_conv = nn.ModuleList(
            [PositionalConvolution(width, config.conv_pos, config.conv_pos_groups)]
        )
        self.layers = nn.ModuleList(
            [BeatsLayer(config, owns_bias=index == 0) for index in range(config.encoder_layers)]
        )
        self.layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        # How a layer is run in training with gradients: `activation_checkpointing` replaces it.
        self.run_layer: Callable[..., Tensor] | None = None

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        """(N, D) packed patches and their number per clip -> (N, D)."""
        position_bias = None
        if self.layers and max(lengths, default=0):
            first_attention: BeatsAttention = self.layers[0].self_attn  # pyright: ignore
            position_bias = first_attention.compute_position_bias(max(lengths))
        x = x + self.pos_conv[0](x, lengths)
        if not self.is_norm_first:
            x = self.layer_norm(x)
        x = self.dropout(x)
        run_layer = self.run_layer if self.training and torch.is_grad_enabled() else None
        for layer in self.layers:
            arguments = (x, lengths, position_bias)
            x = layer(*arguments) if run_layer is None else run_layer(layer, *arguments)
        return self.layer_norm(x) if self.is_norm_first else x


class PositionalConvolution(nn.Module):
    """Grouped convolution over time with weight normalisation per kernel tap, then GELU."""

    def __init__(self, width: int, kernel_size: int, num_groups: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.weight_v = nn.Parameter(torch.empty(width, width // num_groups, kernel_size))
        nn.init.normal_(self.weight_v, std=math.sqrt(4.0 / (kernel_size * width)))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, lengths: list[int]) -> Tensor:
        """(N, D) -> (N, D); each clip is convolved alone, with zeros around it."""
        # Five times faster than Tensor.norm over the leading dimensions.
        norm = self.weight_v.square().sum(dim=(0, 1), keepdim=True).sqrt()
        weight, bias = self.weight_v * (self.weight_g / norm), self.bias
        padding = weight.shape[2] // 2
        # oneDNN on processors with AMX: bfloat16 groups of 12 channels, say, come out wrong.
        is_unsafe = x.device.type == "cpu" and x.dtype == torch.bfloat16
        compute_type = torch.float32 if is_unsafe else x.dtype
        weight, bias = weight.to(compute_type), bias.to(compute_type)
        outputs = []
        for clip in x.to(compute_type).split(lengths):
            convolved = functional.conv1d(
                clip.T.unsqueeze(0), weight, bias, padding=padding, groups=self.num_groups
            )
            # An even kernel yields one position too many at the end.
            outputs.append(convolved[0, :, : clip.shape[0]].T)
        return functional.gelu(torch.cat(outputs)).to(x.dtype)


class BeatsLayer(nn.Module):
    """One Transformer layer: self-attention and feed-forward, with DeepNorm residuals."""

    def __init__(self, config: BeatsConfig, owns_bias: bool) -> None:
        super().__init__()
        width, ffn_width = config.encoder_embed_dim, config.encoder_ffn_embed_dim
        self.is_norm_first = config.layer_norm_first
        self.residual_scale = (2 * config.encoder_layers) ** 0.25 if config.deep_norm else 1.0
        self.activation = ACTIVATIONS[config.activation_fn]
        has_bias = config.relative_position_embedding
        self.self_attn = BeatsAttention(
            width,
            config.encoder_attention_heads,
            dropout=config.attention_dropout,
            is_gated=has_bias and config.gru_rel_pos,
            bias_buckets=(config.num_buckets, config.max_distance)
            if has_bias and owns_bias
            else None,
        )
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, ffn_width)
        self.fc2 = nn.Linear(ffn_width, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x: Tensor, lengths: list[int], position_bias: Tensor | None) -> Tensor:
        """(N, D) -> (N, D)."""
        if self.is_norm_first:
            x = x + self.dropout(
                self.self_attn(self.self_attn_layer_norm(x), lengths, position_bias)
            )
            return x + self.feed_forward(self.final_layer_norm(x))
        attended = self.dropout(self.self_attn(x, lengths, position_bias))
        x = self.self_attn_layer_norm(attended.add(x, alpha=self.residual_scale))
        return self.final_layer_norm(self.feed_forward(x).add(x, alpha=self.residual_scale))

    def feed_forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        hidden = self.activation_dropout(self.activation(self.fc1(x)))
        return self.dropout(self.fc2(hidden))
