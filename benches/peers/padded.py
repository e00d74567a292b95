"""Peers that pad the sequences of a batch to the longest: Hugging Face transformers and
fair-esm."""
import copy
import dataclasses
import functools

import numpy as np
import torch

from . import Peer, copy_linear
from .shapes import ESM2, ESMC
from .workloads import EOS, MASK, PAD


def class_and_config(shape):
    """transformers' class for a model of this shape, and its configuration."""
    sizes = {
        "hidden_size": shape.hidden_size, "num_hidden_layers": shape.num_layers, "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate_size, "attn_implementation": "sdpa"}
    if shape.family == ESMC:
        from transformers import EsmcConfig, EsmcModel

        return EsmcModel, EsmcConfig(**sizes)
    from transformers import EsmConfig, EsmModel

    config = EsmConfig(
        vocab_size=33, mask_token_id=MASK, pad_token_id=PAD, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        max_position_embeddings=1026, layer_norm_eps=1e-5, position_embedding_type="rotary", emb_layer_norm_before=False,
        token_dropout=True, **sizes)
    return functools.partial(EsmModel, add_pooling_layer=False), config


def random_model(shape, dtype, device, seed=1):
    """A transformers model with random weights. It is made on the device in its number format,
    which takes seconds for 3B."""
    Model, config = class_and_config(shape)
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Model(config)
    finally:
        torch.set_default_dtype(before)
    frequencies = next(buffer for name, buffer in model.named_buffers() if name.endswith(".inv_freq"))
    if frequencies.dtype != torch.float32 or frequencies.device.type != torch.device(device).type:
        raise RuntimeError(f"rotary frequencies in {frequencies.dtype} on {frequencies.device}")
    # transformers makes biases of 0, which would hide a forgotten one.
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.0, 0.02)
    return model.eval().requires_grad_(False)


@dataclasses.dataclass
class PaddedBatch:
    rows: list
    # [sequences, tokens of the longest]
    ids: torch.Tensor
    has_padding: bool


class Padded(Peer):
    def lay_out(self, sequences, batch_tokens):
        return [self.pad(sequences, rows) for rows in self.plan(sequences, batch_tokens)]

    def plan(self, sequences, batch_tokens):
        """The rows of each batch, longest first. `batch_tokens` counts padding."""
        batches = [[]]
        for row in sorted(range(len(sequences)), key=lambda row: -len(sequences[row])):
            batch = batches[-1]
            if batch and len(sequences[batch[0]]) * (len(batch) + 1) > batch_tokens:
                batches.append([])
            batches[-1].append(row)
        return batches

    def pad(self, sequences, rows):
        lengths = [len(sequences[row]) for row in rows]
        ids = np.full((len(rows), max(lengths)), PAD, dtype=np.int64)
        for position, row in enumerate(rows):
            ids[position, : len(sequences[row])] = sequences[row]
        return PaddedBatch(rows, self.to_host_tensor(ids), min(lengths) < max(lengths))

    def embed(self, batch):
        ids, = self.to_device(batch.ids)
        hidden = self.hidden_states(ids, batch.has_padding)
        is_residue = (ids > EOS).float()
        sums = torch.bmm(is_residue[:, None], hidden.float())[:, 0]
        return sums / is_residue.sum(1, keepdim=True)

    def hidden_states(self, ids, has_padding):
        raise NotImplementedError


class Transformers(Padded):
    name = "transformers"
    families = (ESM2, ESMC)
    batch_tokens = (8_192, 16_384, 32_768)

    def __init__(self, model):
        super().__init__(model)
        self.model = model

    def hidden_states(self, ids, has_padding):
        # sdpa has faster kernels without a mask.
        mask = (ids != PAD).long() if has_padding else None
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


class CompiledTransformers(Transformers):
    name = "transformers-compile"

    def __init__(self, model):
        # This compiles the model in place.
        super().__init__(copy.deepcopy(model))
        layers = self.model.layers if self.config.model_type == "esmc" else self.model.encoder.layer
        for layer in layers:
            layer.compile(dynamic=True, backend=self.compiler)


class FairEsm(Padded):
    """fair-esm in half precision, with the batches of its scripts/extract.py."""
    name = "fair-esm"
    dtype = "f16"
    batch_tokens = (4_096,)

    def __init__(self, model):
        from esm.data import FastaBatchedDataset
        from esm.model.esm2 import ESM2

        super().__init__(model)
        self.batching = FastaBatchedDataset
        config = self.config
        with torch.device(self.device):
            self.model = ESM2(config.num_hidden_layers, config.hidden_size, config.num_attention_heads, "ESM-1b")
        self.model.to(torch.float16 if self.device.type == "cuda" else self.parameter.dtype).eval().requires_grad_(False)
        self.model.embed_tokens.weight.copy_(self.parameter)
        copy_linear(self.model.emb_layer_norm_after, model.encoder.emb_layer_norm_after)
        for target, source in zip(self.model.layers, model.encoder.layer, strict=True):
            copy_linear(target.self_attn_layer_norm, source.attention.LayerNorm)
            copy_linear(target.self_attn.q_proj, source.attention.self.query)
            copy_linear(target.self_attn.k_proj, source.attention.self.key)
            copy_linear(target.self_attn.v_proj, source.attention.self.value)
            copy_linear(target.self_attn.out_proj, source.attention.output.dense)
            copy_linear(target.final_layer_norm, source.LayerNorm)
            copy_linear(target.fc1, source.intermediate.dense)
            copy_linear(target.fc2, source.output.dense)

    def plan(self, sequences, batch_tokens):
        residues = [sequence[1:-1] for sequence in sequences]
        return self.batching(range(len(residues)), residues).get_batch_indices(batch_tokens, extra_toks_per_seq=1)

    def hidden_states(self, ids, has_padding):
        last = self.model.num_layers
        return self.model(ids, repr_layers=[last])["representations"][last]
