"""Writes one small ESM-2 in every layout that people hold, and what fair-esm computes with it.

    python3 tests/pickles/make_pickles.py tests/pickles

needs torch, transformers, huggingface_hub and fair-esm (the class ESM2 of PyPI's fair-esm 2.0).
The weights are random, in float32, and the same in all files. All files are written by `torch.save`
or by the functions that these libraries call it from:

    reference/               EsmForMaskedLM.save_pretrained: config.json and model.safetensors
    zip/ legacy/             pytorch_model.bin in both containers of torch.save
    sharded/                 pytorch_model-0000N-of-0000M.bin and their index, by huggingface_hub
    strided/                 pytorch_model.bin with matrices that were transposed and not copied
    protocol_4/              pytorch_model.bin with pickle_protocol=4
    fair/esm2_t2_tiny.pt     as fair-esm releases ESM-2: settings in an argparse.Namespace, names
                             below encoder.sentence_encoder; and esm2_t2_tiny-contact-regression.pt
    fair_legacy/             the same in the older container
    fair_f16/                the same in half precision, as 3B and 15B were released
    expected.safetensors     what fair-esm's ESM2 gives in float64, from fair/: token ids, hidden
                             states after the last layer, logits, contacts
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch
from esm.data import Alphabet
from esm.model.esm2 import ESM2
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from transformers import EsmConfig, EsmForMaskedLM

LAYERS, HIDDEN, HEADS = 2, 16, 2
SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQ", "M", "GAVLXBUZO", "ACDEFGHIKLMNPQRSTVWY" * 2]
NAME = "esm2_t2_tiny"

#: The names of fair-esm, from those of transformers.
NAMES = [
    ("esm.embeddings.word_embeddings", "embed_tokens"),
    ("esm.encoder.emb_layer_norm_after", "emb_layer_norm_after"),
    ("esm.encoder.layer.", "layers."),
    ("attention.self.query", "self_attn.q_proj"),
    ("attention.self.key", "self_attn.k_proj"),
    ("attention.self.value", "self_attn.v_proj"),
    ("attention.output.dense", "self_attn.out_proj"),
    ("attention.LayerNorm", "self_attn_layer_norm"),
    ("intermediate.dense", "fc1"),
    ("output.dense", "fc2"),
    ("LayerNorm", "final_layer_norm"),
    ("esm.contact_head.", "contact_head."),
    ("lm_head.decoder.weight", "lm_head.weight"),
]


def transformers_model():
    config = EsmConfig(
        vocab_size=33,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,
        mask_token_id=32,
        pad_token_id=1,
        layer_norm_eps=1e-5,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
    )
    model = EsmForMaskedLM(config).eval()
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    return model


def fair_model(weights):
    """fair-esm's own class with these weights. It accepts all of them, and needs no others."""
    model = ESM2(LAYERS, HIDDEN, HEADS, Alphabet.from_architecture("ESM-1b"), token_dropout=True)
    state = {}
    for name, tensor in weights.items():
        for ours, theirs in NAMES:
            name = name.replace(ours, theirs)
        state[name] = tensor
    computed = {name: tensor for name, tensor in model.state_dict().items() if "inv_freq" in name}
    ignored = {"lm_head.decoder.bias", "esm.embeddings.position_embeddings.weight"}
    ignored |= {name for name in state if name.endswith("rotary_embeddings.inv_freq")}
    state = {name: tensor for name, tensor in state.items() if name not in ignored}
    model.load_state_dict(state | computed, strict=True)
    return model.eval()


def save_fair(model, folder, dtype=torch.float32, **how):
    """Saves a model as fair-esm loads ESM-2: see `_load_model_and_alphabet_core` there."""
    folder.mkdir()
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    head = {name: state.pop(name) for name in list(state) if name.startswith("contact_head.")}
    prefixed = {}
    for name, tensor in state.items():
        above = "encoder." if name.startswith("lm_head.") else "encoder.sentence_encoder."
        prefixed[above + name] = tensor
    settings = argparse.Namespace(
        arch="esm2",
        encoder_layers=LAYERS,
        encoder_embed_dim=HIDDEN,
        encoder_ffn_embed_dim=4 * HIDDEN,
        encoder_attention_heads=HEADS,
        token_dropout=True,
        dropout=0.0,
        max_positions=1024,
        data="/data/uniref50",
    )
    checkpoint = {"cfg": {"_name": None, "model": settings}, "model": prefixed}
    torch.save(checkpoint, folder / f"{NAME}.pt", **how)
    torch.save({"model": head}, folder / f"{NAME}-contact-regression.pt", **how)


def expected(model):
    batch_converter = model.alphabet.get_batch_converter()
    model = model.double()
    out = {}
    for number, sequence in enumerate(SEQUENCES):
        _, _, tokens = batch_converter([("", sequence)])
        with torch.no_grad():
            result = model(tokens, repr_layers=[LAYERS], return_contacts=True)
        out[f"{number}.tokens"] = tokens[0]
        out[f"{number}.hidden"] = result["representations"][LAYERS][0]
        out[f"{number}.logits"] = result["logits"][0]
        out[f"{number}.contacts"] = result["contacts"][0]
    return {name: tensor.contiguous() for name, tensor in out.items()}


def main(out):
    hf = transformers_model()
    hf.save_pretrained(out / "reference")
    weights = hf.state_dict()
    config = out / "reference" / "config.json"

    def folder(name):
        (out / name).mkdir()
        shutil.copy(config, out / name)
        return out / name / "pytorch_model.bin"

    torch.save(weights, folder("zip"))
    torch.save(weights, folder("legacy"), _use_new_zipfile_serialization=False)
    torch.save(weights, folder("protocol_4"), pickle_protocol=4)
    strided = {
        name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor
        for name, tensor in weights.items()
    }
    torch.save(strided, folder("strided"))
    folder("sharded")
    save_torch_state_dict(
        weights, out / "sharded", max_shard_size=20_000, safe_serialization=False
    )

    fair = fair_model(weights)
    save_fair(fair, out / "fair")
    save_fair(fair, out / "fair_legacy", _use_new_zipfile_serialization=False)
    save_fair(fair, out / "fair_f16", dtype=torch.float16)
    save_file(expected(fair), out / "expected.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
