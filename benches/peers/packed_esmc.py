"""`packed` for ESM C: from PyTorch's own parts, like that for ESM-2 in packed.py.

It differs in what ESM C has. One product makes gates and values. torch.compile fuses the layer norm
of queries and keys with their rotation, and SiLU with the gating. The scale of the residual
branches goes into the weights.
"""
import math
import typing

import torch
import torch.nn.functional as F

from .packed import PackedPeer, attention, dynamic, mean_pool, rotary_tables, rotated
from .shapes import ESMC


def f32_layer_norm(stream, weight, bias=None):
    return F.layer_norm(stream.float(), stream.shape[-1:], weight.float(), None if bias is None else bias.float(), 1e-5)


def layer_norm(stream, norm):
    return f32_layer_norm(stream, *norm).to(stream.dtype)


def query_key(qkv, weights, cosine, sine, heads):
    """Queries and keys, each normalised over all heads at once, with `weights` of `[2, hidden]`,
    and then rotated."""
    tokens, (_, hidden) = len(qkv), weights.shape
    both = qkv.view(tokens, 3, hidden)[:, :2].float()
    normed = F.layer_norm(both, (hidden,), eps=1e-5) * weights.float()
    turned = rotated(normed.view(tokens, 2 * heads, -1), cosine, sine).to(qkv.dtype)
    return turned.view(tokens, 2, heads, -1).unbind(1)


def swiglu(gates_and_values):
    gates, values = gates_and_values.float().chunk(2, -1)
    return (F.silu(gates) * values).to(gates_and_values.dtype)


def norm_and_pool(stream, weight, owners, reciprocals):
    return mean_pool(f32_layer_norm(stream, weight), owners, reciprocals)


class Layer(typing.NamedTuple):
    """The weights of a layer. Those of products are `[inputs, outputs]` views."""
    attention_norm: tuple
    qkv: torch.Tensor
    # [2, hidden]
    query_key_norms: torch.Tensor
    out: torch.Tensor
    feed_forward_norm: tuple
    gates_and_values: torch.Tensor
    down: torch.Tensor


def layers_of(model):
    """The layers of a transformers EsmcModel."""
    scale = math.sqrt(model.config.num_hidden_layers / 36)

    def side_by_side(*linears):
        return torch.cat([linear.weight for linear in linears]).t()

    def onto_stream(linear):
        return (linear.weight.float() / scale).to(linear.weight.dtype).t()

    for layer in model.layers:
        own, mlp = layer.self_attn, layer.mlp
        yield Layer(
            attention_norm=(layer.input_layernorm.weight, layer.input_layernorm.bias),
            qkv=side_by_side(own.q_proj, own.k_proj, own.v_proj),
            query_key_norms=torch.stack([own.q_norm.weight, own.k_norm.weight]),
            out=onto_stream(own.o_proj),
            feed_forward_norm=(layer.post_attention_layernorm.weight, layer.post_attention_layernorm.bias),
            gates_and_values=side_by_side(mlp.gate_proj, mlp.up_proj),
            down=onto_stream(mlp.down_proj))


class PackedEsmc(PackedPeer):
    """The products out and down accumulate into the residual stream."""
    name = "packed"
    families = (ESMC,)
    slow = False

    def __init__(self, model):
        super().__init__(model)
        self.heads = self.config.num_attention_heads
        self.cosine, self.sine = rotary_tables(self.config.hidden_size // self.heads, self.device)
        self.layers, self.last_norm = list(layers_of(model)), model.norm.weight
        self.layer_norm, self.query_key = self.compiled(layer_norm), self.compiled(query_key)
        self.swiglu, self.norm_and_pool = self.compiled(swiglu), self.compiled(norm_and_pool)

    def forward(self, ids, positions, owners, ends, reciprocals, longest):
        stream = F.embedding(ids, self.parameter)
        cosine, sine = self.cosine[positions], self.sine[positions]
        dynamic(stream, cosine, sine)
        for layer in self.layers:
            qkv = torch.mm(self.layer_norm(stream, layer.attention_norm), layer.qkv)
            dynamic(qkv)
            query, key = self.query_key(qkv, layer.query_key_norms, cosine, sine, self.heads)
            value = qkv.view(len(qkv), 3, self.heads, -1)[:, 2]
            attended = attention(query, key, value, ends, longest)
            stream.addmm_(attended.view(stream.shape), layer.out)
            gates_and_values = torch.mm(self.layer_norm(stream, layer.feed_forward_norm), layer.gates_and_values)
            dynamic(gates_and_values)
            stream.addmm_(self.swiglu(gates_and_values), layer.down)
        dynamic(owners, reciprocals)
        return self.norm_and_pool(stream, self.last_norm, owners, reciprocals)
