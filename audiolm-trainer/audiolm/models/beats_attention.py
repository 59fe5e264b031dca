"""BEATs' self-attention: a relative position bias, bucketed as in T5 and gated by the query.

In: packed patches of several clips, each clip's length, the position bias that all layers share.
Out: attended patches; a clip attends to itself only. Sources: Chi et al. 2022 (XLM-E, the gate),
Chen et al. 2021 (WavLM, equations 3-5), Raffel et al. 2020 (T5, the buckets).

Shapes: N = patches of all clips, D width, H heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class BeatsAttention(nn.Module):
    """Self-attention with an additive position bias.

    Args:
        width: D.
        num_heads: H.
        dropout: of the attention weights, in training mode.
        is_gated: scale the bias of every query by a factor computed from that query.
        bias_buckets: (number of buckets, largest distance told apart) when this layer owns the bias
            table of the whole encoder, else None.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        dropout: float,
        is_gated: bool,
        bias_buckets: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout_probability = dropout
        self.is_gated = is_gated
        self.bias_buckets = bias_buckets
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        if is_gated:
            self.grep_linear = nn.Linear(width // num_heads, 8)
            self.grep_a = nn.Parameter(torch.ones(1, num_heads, 1, 1))
        if bias_buckets is not None:
            self.relative_attention_bias = nn.Embedding(bias_buckets[0], num_heads)
            nn.init.normal_(self.relative_attention_bias.weight, std=0.02)

    def compute_position_bias(self, length: int) -> Tensor | None:
        """(H, length, length) bias of every key position for every query position, or None."""
        if self.bias_buckets is None:
            return None
        table = self.relative_attention_bias.weight
        distances = torch.arange(1 - length, length, device=table.device)
        buckets = compute_relative_buckets(distances, *self.bias_buckets)
        by_distance = table[buckets].T.contiguous()  # (H, 2 * length - 1), distance = key - query
        rows = by_distance.unfold(1, length, 1)  # row r starts at distance r + 1 - length
        return rows.flip(1).contiguous()  # row q starts at distance -q

    def forward(self, x: Tensor, lengths: list[int], position_bias: Tensor | None) -> Tensor:
        """(N, D) -> (N, D); each clip attends to itself only."""
        head_shape = (x.shape[0], self.num_heads, -1)
        query = self.q_proj(x).view(head_shape)  # (N, H, D/H)
        key = self.k_proj(x).view(head_shape)
        value = self.v_proj(x).view(head_shape)
        gate = self.compute_gate(query) if self.is_gated else None
        dropout = self.dropout_probability if self.training else 0.0
        outputs, start = [], 0
        for length in lengths:
            rows = slice(start, start + length)
            bias = None
            if position_bias is not None:
                bias = position_bias[:, :length, :length]
                bias = (bias if gate is None else bias * gate[:, rows]).unsqueeze(0)
            q, k, v = (part[rows].transpose(0, 1).unsqueeze(0) for part in (query, key, value))
            attended = functional.scaled_dot_product_attention(q, k, v, bias, dropout)
            outputs.append(attended[0].transpose(0, 1).flatten(1))  # (1, H, P, D/H) -> (P, D)
            start += length
        return self.out_proj(torch.cat(outputs))

    def compute_gate(self, query: Tensor) -> Tensor:
        """(N, H, D/H) unscaled queries -> (H, N, 1) factors of the position bias."""
        halves = self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1).sigmoid()  # (N, H, 2)
        update, reset = halves.transpose(0, 1).split(1, dim=-1)
        return update * (reset * self.grep_a[0] - 1.0) + 2.0


def compute_relative_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Bucket index of every signed distance key - query (T5's bidirectional scheme).

    Half of the buckets serve each sign; of those, the first half hold one distance each and the
    rest grow logarithmically up to `max_distance`. Source: Raffel et al. 2020, section 2.1.
    """
    num_one_sided = num_buckets // 2
    num_exact = num_one_sided // 2
    magnitude = distances.abs()
    growth = torch.log(magnitude.clamp(min=1).float() / num_exact) / math.log(
        max_distance / num_exact
    )
    coarse = num_exact + (growth * (num_one_sided - num_exact)).long()
    bucket = torch.where(magnitude < num_exact, magnitude, coarse.clamp(max=num_one_sided - 1))
    return bucket + (distances > 0).long() * num_one_sided
