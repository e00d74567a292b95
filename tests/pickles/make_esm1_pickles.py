"""Writes small models of the kinds of ESM-1b and ESM-1v in the layouts that people hold, and what
fair-esm computes with them.

    python3 tests/pickles/make_esm1_pickles.py tests/pickles

needs torch, transformers and fair-esm (the class ProteinBertModel of PyPI's fair-esm 2.0). The
weights are random, in float32. They have 40 positions. For each of the two:

    esm1b/fair/esm1b_t2_tiny.pt   as fair-esm releases ESM-1b: settings in an argparse.Namespace,
                                  names below encoder.sentence_encoder, and a row for <mask> that
                                  fair-esm zeroes when it loads the file; with
                                  esm1b_t2_tiny-contact-regression.pt, which ESM-1v does not have
    esm1b/reference/              the model that fair-esm loads from that, as an EsmForMaskedLM:
                                  config.json and model.safetensors
    esm1b/zip/                    the same by torch.save: pytorch_model.bin
    esm1b/expected.safetensors    what fair-esm gives in float64, from fair/: token ids, hidden
                                  states after the embedding and the last layer, logits, contacts

fair-esm's own loader reads the files in fair/, so they are laid out as it expects. transformers
gives the same from reference/, but for rounding, or this script fails.
"""

import argparse
import functools
import sys
from pathlib import Path

import esm
import torch
from safetensors.torch import save_file
from transformers import EsmConfig, EsmForMaskedLM

LAYERS, HIDDEN, HEADS, POSITIONS = 2, 16, 2, 40
#: The third has as many tokens as there are positions. The last has masked ones.
SEQUENCES = [
    "MKTAYIAKQRQISFVKSHFSRQ",
    "M",
    "ACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTV",
    "MK<mask>AYIAKQ<mask>QISFVKSH",
]

#: The names of transformers, from those of fair-esm.
NAMES = [
    ("embed_tokens.", "esm.embeddings.word_embeddings."),
    ("embed_positions.", "esm.embeddings.position_embeddings."),
    ("emb_layer_norm_before.", "esm.embeddings.layer_norm."),
    ("emb_layer_norm_after.", "esm.encoder.emb_layer_norm_after."),
    ("self_attn.q_proj", "attention.self.query"),
    ("self_attn.k_proj", "attention.self.key"),
    ("self_attn.v_proj", "attention.self.value"),
    ("self_attn.out_proj", "attention.output.dense"),
    ("self_attn_layer_norm", "attention.LayerNorm"),
    ("final_layer_norm", "LayerNorm"),
    ("fc1", "intermediate.dense"),
    ("fc2", "output.dense"),
    ("contact_head.", "esm.contact_head."),
    ("lm_head.weight", "lm_head.decoder.weight"),
]


def random_model(has_norm, seed):
    """fair-esm's own class. Biases and gains are far from what a plain init gives."""
    settings = argparse.Namespace(
        arch="roberta_large",
        layers=LAYERS,
        embed_dim=HIDDEN,
        ffn_embed_dim=4 * HIDDEN,
        attention_heads=HEADS,
        max_positions=POSITIONS,
        token_dropout=True,
        emb_layer_norm_before=has_norm,
    )
    model = esm.ProteinBertModel(settings, esm.Alphabet.from_architecture("roberta_large"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.add_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    return model.eval()


def save_fair(model, name, folder):
    """Saves a model as fairseq did: see `_load_model_and_alphabet_core_v1` of fair-esm."""
    folder.mkdir(parents=True)
    state = model.state_dict()
    head = {key: state.pop(key) for key in list(state) if key.startswith("contact_head.")}
    prefixed = {}
    for key, tensor in state.items():
        above = "encoder." if key.startswith("lm_head.") else "encoder.sentence_encoder."
        prefixed[above + key] = tensor
    settings = argparse.Namespace(
        arch="roberta_large",
        encoder_layers=LAYERS,
        encoder_embed_dim=HIDDEN,
        encoder_ffn_embed_dim=4 * HIDDEN,
        encoder_attention_heads=HEADS,
        max_positions=POSITIONS,
        token_dropout=True,
        activation_fn="gelu",
        dropout=0.0,
        data="/data/uniref50",
    )
    torch.save({"args": settings, "model": prefixed}, folder / f"{name}.pt")
    if name.startswith("esm1b"):
        torch.save({"model": head}, folder / f"{name}-contact-regression.pt")


def load_fair(path):
    """The model as fair-esm's own loader reads it. It predates torch's `weights_only`."""
    load = torch.load
    torch.load = functools.partial(load, weights_only=False)
    try:
        return esm.pretrained.load_model_and_alphabet_local(path)[0].eval()
    finally:
        torch.load = load


def as_transformers(model):
    """The model as an `EsmForMaskedLM`, as transformers' conversion script makes it."""
    config = EsmConfig(
        vocab_size=33,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=POSITIONS + 2,
        mask_token_id=32,
        pad_token_id=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        position_embedding_type="absolute",
        emb_layer_norm_before=model.emb_layer_norm_before is not None,
        token_dropout=True,
    )
    # Contacts are made of attention maps, which no other implementation gives.
    converted = EsmForMaskedLM._from_config(config, attn_implementation="eager").eval()
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("layers."):
            name = "esm.encoder.layer." + name.removeprefix("layers.")
        for theirs, ours in NAMES:
            if theirs in name and not name.startswith(ours):
                name = name.replace(theirs, ours)
        state[name] = tensor
    missing, unexpected = converted.load_state_dict(state, strict=False)
    left = {"lm_head.decoder.bias", "esm.embeddings.position_ids"}
    left |= {name for name in missing if name.endswith("rotary_embeddings.inv_freq")}
    assert not set(missing) - left and not unexpected, (missing, unexpected)
    return converted


@torch.no_grad()
def expected(model, converted):
    batch_converter = model.alphabet.get_batch_converter()
    model, converted = model.double(), converted.double()
    out = {}
    for number, sequence in enumerate(SEQUENCES):
        _, _, tokens = batch_converter([("", sequence)])
        result = model(tokens, repr_layers=[0, LAYERS], return_contacts=True)
        again = converted.esm(
            tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True
        )
        hidden = [result["representations"][layer] for layer in (0, LAYERS)]
        pairs = [
            (hidden[0], again.hidden_states[0]),
            (hidden[1], again.last_hidden_state),
            (result["logits"], converted.lm_head(again.last_hidden_state)),
            (result["contacts"], converted.esm.predict_contacts(tokens, torch.ones_like(tokens))),
        ]
        # fair-esm's softmax is in f32.
        for (ours, theirs), tolerance in zip(pairs, [1e-12, 2e-6, 2e-6, 2e-6]):
            assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance), number
        out[f"{number}.tokens"] = tokens[0]
        out[f"{number}.embedding"] = hidden[0][0]
        out[f"{number}.hidden"] = hidden[1][0]
        out[f"{number}.logits"] = result["logits"][0]
        out[f"{number}.contacts"] = result["contacts"][0]
    return {name: tensor.contiguous() for name, tensor in out.items()}


def main(out):
    for kind, has_norm, seed in [("esm1b", True, 21), ("esm1v", False, 22)]:
        name = f"{kind}_t2_tiny"
        folder = out / kind
        save_fair(random_model(has_norm, seed), name, folder / "fair")
        model = load_fair(folder / "fair" / f"{name}.pt")
        model.alphabet = esm.Alphabet.from_architecture("roberta_large")
        converted = as_transformers(model)
        converted.save_pretrained(folder / "reference")
        (folder / "zip").mkdir()
        config = (folder / "reference" / "config.json").read_bytes()
        (folder / "zip" / "config.json").write_bytes(config)
        torch.save(converted.state_dict(), folder / "zip" / "pytorch_model.bin")
        save_file(expected(model, converted), folder / "expected.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
