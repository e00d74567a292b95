"""Peers that pack sequences end to end, without padding between them, for FlashAttention over each
sequence.

`Packed` and `PackedFp8` are not published engines. They are the fastest that we could build from
PyTorch's own parts. torch.compile fuses elementwise work, one product makes queries, keys and
values, and the other products are single library calls.
"""
import bisect
import dataclasses
import sys
import types
import typing

import numpy as np
import torch
import torch.nn.functional as F

from . import Peer, copy_linear
from .workloads import EOS, PAD

# ESM-2 scales embeddings by this factor when no token is masked.
EMBEDDING_SCALE = 1 - 0.15 * 0.8
LARGEST_E4M3 = 448.0
MAX_SEQUENCE_TOKENS = 1_024
# Batches are filled up to a multiple of this, so products are fast and sizes are few.
TOKENS_MULTIPLE = 128


def attention(query, key, value, ends, longest):
    """Attention over each sequence `ends[i]..ends[i + 1]` of `[tokens, heads, head_dim]`."""
    if query.is_cuda:
        return torch.ops.aten._flash_attention_forward(
            query, key, value, ends, ends, longest, longest, 0.0, False, False)[0]
    attended = torch.empty_like(query)
    bounds = ends.tolist()
    for start, end in zip(bounds, bounds[1:]):
        if start < end:
            heads_first = (tensor[None, start:end].transpose(1, 2) for tensor in (query, key, value))
            attended[start:end] = F.scaled_dot_product_attention(*heads_first)[0].transpose(0, 1)
    return attended


def dynamic(*tensors):
    """Tells the compiler that the first dimension changes from batch to batch, so it compiles
    once."""
    for tensor in tensors:
        # A batch of one sequence may be an exception.
        torch._dynamo.maybe_mark_dynamic(tensor, 0) if len(tensor) == 1 else torch._dynamo.mark_dynamic(tensor, 0)


def layer_norm(stream, bias, norm):
    """The layer norm of `stream + bias`, computed in f32."""
    weight, offset = norm
    normed = F.layer_norm(stream.float() + bias, stream.shape[-1:], weight.float(), offset.float(), 1e-5)
    return normed.to(stream.dtype)


def rotated(heads, cosine, sine):
    wide = heads.float()
    first, second = wide.chunk(2, -1)
    return (wide * cosine[:, None] + torch.cat((-second, first), -1) * sine[:, None]).to(heads.dtype)


def query_key(qkv, cosine, sine, heads):
    query, key, _ = qkv.view(qkv.shape[0], 3, heads, -1).unbind(1)
    return rotated(query, cosine, sine), rotated(key, cosine, sine)


def mean_pool(hidden, owners, reciprocals):
    """Means over residues. `owners` names each token's sequence. Tokens without one name one past
    the last."""
    count = reciprocals.shape[0]
    sums = torch.zeros(count + 1, hidden.shape[-1], device=hidden.device)
    return sums.index_add_(0, owners, hidden.float())[:count] * reciprocals[:, None]


def norm_and_pool(stream, bias, norm, owners, reciprocals):
    weight, offset = norm
    hidden = F.layer_norm(stream.float() + bias, stream.shape[-1:], weight.float(), offset.float(), 1e-5)
    return mean_pool(hidden, owners, reciprocals)


@dataclasses.dataclass
class PackedBatch:
    rows: list
    # By token: id, position in its sequence, sequence in the batch.
    by_token: torch.Tensor
    # By sequence: where it ends, after a 0, the last being padding; one over its residues.
    ends: torch.Tensor
    reciprocals: torch.Tensor
    longest: int


class PackedPeer(Peer):
    def lay_out(self, sequences, batch_tokens):
        """First-fit decreasing, as plm-fleet fills its batches: each goes on taking the longest
        that still fits."""
        by_length, batches = sorted(range(len(sequences)), key=lambda row: len(sequences[row])), []
        lengths = [len(sequences[row]) for row in by_length]
        while by_length:
            rows, free = [], batch_tokens
            # The longest sequence left opens a batch, however long it is.
            fitting = len(lengths)
            while fitting:
                free -= lengths.pop(fitting - 1)
                rows.append(by_length.pop(fitting - 1))
                fitting = bisect.bisect_right(lengths, free)
            batches.append(self.pack(sequences, rows))
        return batches

    def pack(self, sequences, rows):
        lengths = np.array([len(sequences[row]) for row in rows])
        padding = -lengths.sum() % TOKENS_MULTIPLE
        ids = np.concatenate([*(sequences[row] for row in rows), np.full(padding, PAD)])
        segments = np.append(lengths, padding)
        ends = np.append(0, segments.cumsum())
        positions = np.arange(len(ids)) - np.repeat(ends[:-1], segments)
        owners = np.where(ids > EOS, np.repeat(np.arange(len(segments)), segments), len(rows))
        by_token = np.stack([ids, positions, owners]).astype(np.int32)
        return PackedBatch(
            rows, self.to_host_tensor(by_token), self.to_host_tensor(ends.astype(np.int32)),
            self.to_host_tensor((1.0 / (lengths - 2)).astype(np.float32)), int(segments.max()))

    def embed(self, batch):
        by_token, ends, reciprocals = self.to_device(batch.by_token, batch.ends, batch.reciprocals)
        ids, positions, owners = by_token.unbind()
        return self.forward(ids, positions, owners, ends, reciprocals, batch.longest)


def rotary_tables(head_dim, device):
    frequencies = 1.0 / 10_000 ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angles = torch.outer(torch.arange(MAX_SEQUENCE_TOKENS, device=device).float(), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


class Layer(typing.NamedTuple):
    """The weights of a layer. Those of products are `[inputs, outputs]` views."""
    attention_norm: tuple
    qkv: torch.Tensor
    qkv_bias: torch.Tensor
    out: torch.Tensor
    out_bias: torch.Tensor
    feed_forward_norm: tuple
    fc1: torch.Tensor
    fc1_bias: torch.Tensor
    fc2: torch.Tensor
    fc2_bias: torch.Tensor


def layers_of(model, convert):
    """The layers of a transformers model. `convert` makes the weights of products from
    `[outputs, inputs]`."""
    for layer in model.encoder.layer:
        of_three = [getattr(layer.attention.self, name) for name in ("query", "key", "value")]
        out, fc1, fc2 = layer.attention.output.dense, layer.intermediate.dense, layer.output.dense
        yield Layer(
            attention_norm=(layer.attention.LayerNorm.weight, layer.attention.LayerNorm.bias),
            qkv=convert(torch.cat([linear.weight for linear in of_three])),
            qkv_bias=torch.cat([linear.bias for linear in of_three]),
            out=convert(out.weight), out_bias=out.bias,
            feed_forward_norm=(layer.LayerNorm.weight, layer.LayerNorm.bias),
            fc1=convert(fc1.weight), fc1_bias=fc1.bias, fc2=convert(fc2.weight), fc2_bias=fc2.bias)


class Packed(PackedPeer):
    """Uses cuBLASLt's epilogues: bias and GELU after fc1, and the residual added to out and fc2.

    The products accumulate into the residual stream, which therefore lacks the biases of out and
    fc2. Their sum up to a layer is one vector, which the layer norms add. On a GPU, GELU is
    cuBLASLt's, by tanh."""
    name = "packed"
    slow = False

    def __init__(self, model):
        super().__init__(model)
        self.embedding = self.parameter * EMBEDDING_SCALE
        self.heads = self.config.num_attention_heads
        self.cosine, self.sine = rotary_tables(self.config.hidden_size // self.heads, self.device)
        self.last_norm = (model.encoder.emb_layer_norm_after.weight, model.encoder.emb_layer_norm_after.bias)
        self.prepare(model)

    def prepare(self, model):
        self.layers = list(layers_of(model, lambda weight: weight.t()))
        # These biases are added to the stream before each layer's attention, before its
        # feed-forward, and after the last layer.
        self.biases = [torch.zeros(self.config.hidden_size, device=self.device)]
        for layer in self.layers:
            for bias in (layer.out_bias, layer.fc2_bias):
                self.biases.append(self.biases[-1] + bias.float())
        self.layer_norm, self.query_key = self.compiled(layer_norm), self.compiled(query_key)
        self.norm_and_pool = self.compiled(norm_and_pool)

    def forward(self, ids, positions, owners, ends, reciprocals, longest):
        stream = F.embedding(ids, self.embedding)
        cosine, sine = self.cosine[positions], self.sine[positions]
        dynamic(stream, cosine, sine)
        for layer, bias, bias_between in zip(self.layers, self.biases[::2], self.biases[1::2]):
            normed = self.layer_norm(stream, bias, layer.attention_norm)
            qkv = torch.addmm(layer.qkv_bias, normed, layer.qkv)
            dynamic(qkv)
            query, key = self.query_key(qkv, cosine, sine, self.heads)
            value = qkv.view(len(qkv), 3, self.heads, -1)[:, 2]
            attended = attention(query, key, value, ends, longest)
            stream.addmm_(attended.view(stream.shape), layer.out)
            normed = self.layer_norm(stream, bias_between, layer.feed_forward_norm)
            inner = torch._addmm_activation(layer.fc1_bias, normed, layer.fc1, use_gelu=True)
            stream.addmm_(inner, layer.fc2)
        dynamic(owners, reciprocals)
        return self.norm_and_pool(stream, self.biases[-1], self.last_norm, owners, reciprocals)


class Fp8(typing.NamedTuple):
    """A weight `[inputs, outputs]` in e4m3, with one scale for each output: `[1, outputs]`."""
    weight: torch.Tensor
    scale: torch.Tensor


def row_wise_fp8(rows):
    """`rows` in e4m3, with one scale for each row: `[rows, 1]`."""
    scale = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / LARGEST_E4M3
    return (rows.float() / scale).to(torch.float8_e4m3fn), scale


def fp8_weight(weight):
    rows, scale = row_wise_fp8(weight)
    return Fp8(rows.t(), scale.t().contiguous())


def fp8_product(rows, row_scale, weight, bias):
    if rows.is_cuda:
        return torch._scaled_mm(rows, weight.weight, scale_a=row_scale, scale_b=weight.scale, bias=bias,
                                out_dtype=bias.dtype, use_fast_accum=True)
    return (torch.mm(rows.float(), weight.weight.float()) * row_scale * weight.scale + bias.float()).to(bias.dtype)


def fp8_linear(inputs, weight, bias):
    return fp8_product(*row_wise_fp8(inputs), weight, bias)


def fp8_attention_inputs(stream, update, layer, cosine, sine, heads):
    stream = stream + update
    qkv = fp8_linear(layer_norm(stream, 0.0, layer.attention_norm), layer.qkv, layer.qkv_bias)
    value = qkv.view(qkv.shape[0], 3, heads, -1)[:, 2]
    return stream, *query_key(qkv, cosine, sine, heads), value


def fp8_feed_forward(stream, attended, layer):
    stream = stream + fp8_linear(attended.view(stream.shape), layer.out, layer.out_bias)
    normed = layer_norm(stream, 0.0, layer.feed_forward_norm)
    inner = F.gelu(fp8_linear(normed, layer.fc1, layer.fc1_bias))
    return stream, fp8_linear(inner, layer.fc2, layer.fc2_bias)


class PackedFp8(Packed):
    """Products in fp8 (e4m3). Weights are scaled once for each output, activations for each
    token."""
    name = "packed-fp8"
    dtype = "fp8"

    def prepare(self, model):
        self.layers = list(layers_of(model, fp8_weight))
        self.attention_inputs = self.compiled(fp8_attention_inputs)
        self.feed_forward = self.compiled(fp8_feed_forward)
        self.norm_and_pool = self.compiled(norm_and_pool)

    def forward(self, ids, positions, owners, ends, reciprocals, longest):
        stream = F.embedding(ids, self.embedding)
        update = torch.zeros_like(stream)
        cosine, sine = self.cosine[positions], self.sine[positions]
        dynamic(cosine, sine)
        for layer in self.layers:
            dynamic(stream, update)
            stream, query, key, value = self.attention_inputs(stream, update, layer, cosine, sine, self.heads)
            attended = attention(query, key, value, ends, longest)
            dynamic(stream, attended)
            stream, update = self.feed_forward(stream, attended, layer)
        dynamic(stream, update, owners, reciprocals)
        return self.norm_and_pool(stream, update, self.last_norm, owners, reciprocals)


def stand_in_for_flash_attn():
    """A module `flash_attn` with what esm-efficient imports from it, on PyTorch's own
    FlashAttention."""
    def flash_attn_varlen_func(query, key, value, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, causal):
        if dropout_p != 0 or causal or cu_seqlens_q is not cu_seqlens_k:
            raise NotImplementedError("only full self-attention")
        return attention(query, key, value, cu_seqlens_q, max_seqlen_q)

    flash_attn, bert_padding = types.ModuleType("flash_attn"), types.ModuleType("flash_attn.bert_padding")
    flash_attn.flash_attn_varlen_func = flash_attn_varlen_func
    # These are for padded inputs, which it never gets here.
    bert_padding.pad_input = bert_padding.unpad_input = None
    sys.modules |= {"flash_attn": flash_attn, "flash_attn.bert_padding": bert_padding}


class EsmEfficient(PackedPeer):
    """It does not scale embeddings, so the scale goes into the weights."""
    name = "esm-efficient"

    def __init__(self, model):
        super().__init__(model)
        stand_in_for_flash_attn()
        from esme.esm import ESM2

        config = self.config
        with torch.device(self.device):
            self.model = ESM2(config.num_hidden_layers, config.hidden_size, config.num_attention_heads,
                              dtype=self.parameter.dtype)
        self.model.eval().requires_grad_(False)
        self.model.embed_tokens.weight.copy_(self.parameter * EMBEDDING_SCALE)
        copy_linear(self.model.emb_layer_norm_after, model.encoder.emb_layer_norm_after)
        for target, source in zip(self.model.layers, model.encoder.layer, strict=True):
            copy_linear(target.self_attn.norm, source.attention.LayerNorm)
            copy_linear(target.self_attn.q, source.attention.self.query)
            copy_linear(target.self_attn.k, source.attention.self.key)
            copy_linear(target.self_attn.v, source.attention.self.value)
            copy_linear(target.self_attn.out, source.attention.output.dense)
            norm, fc1, _, fc2 = target.final
            copy_linear(norm, source.LayerNorm)
            copy_linear(fc1, source.intermediate.dense)
            copy_linear(fc2, source.output.dense)

    def forward(self, ids, positions, owners, ends, reciprocals, longest):
        return mean_pool(self.model.forward_representation(ids, (ends, longest)), owners, reciprocals)
