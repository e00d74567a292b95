#!/usr/bin/env python3
"""Golden values for ESM C, computed in float64 on the CPU.

    make_esmc_goldens.py random NAME SEED OUT_DIR          a small random checkpoint (see SHAPES) in
                                                           transformers' layout
    make_esmc_goldens.py esm CHECKPOINT_DIR OUT_DIR        the same weights with the names of the
                                                           package `esm`
    make_esmc_goldens.py pth CHECKPOINT_DIR OUT.pth        the same weights as EvolutionaryScale
                                                           released them: the state_dict of `ESMC`,
                                                           by torch.save (needs the package `esm`)
    make_esmc_goldens.py goldens CHECKPOINT_DIR FASTA OUT.safetensors

Needs: torch, transformers >= 5.24, safetensors, numpy (PyPI). If the package `esm` (PyPI, 3.2) can
be imported, `goldens` also computes each sequence with its class `ESMC`, and fails unless all
hidden states and logits agree with transformers' to 1e-12.

OUT.safetensors holds, for every record i of the FASTA (in file order, letters as given):
  {i}.input_ids            int64 [len+2]            <cls> + residues + <eos>
  {i}.mean                 f32   [layers+1, hidden] mean over residues of every hidden state: 0 is
                                                    the embedding, the last one is after the final
                                                    layer norm
  {i}.max                  f32   [layers+1, hidden] the same, maximum over residues
  {i}.bos                  f32   [layers+1, hidden] the same, the row of <cls>
for records of at most 64 residues:
  {i}.hidden               f32   [layers+1, len, hidden] residues of every hidden state
and for records of at most 200 residues:
  {i}.logits               f32   [len, 64]          masked-LM head
"""
import json
import os
import sys

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import EsmcConfig, EsmcForMaskedLM

VOCAB = ["<cls>", "<pad>", "<eos>", "<unk>"] + list("LAGVSERTIDPKQNFYMHWCXBUZO.-|") + ["<mask>"]
ID = {t: i for i, t in enumerate(VOCAB)}
#        layers hidden heads ffn   -> head_dim
SHAPES = {
    "hd32": (3, 96, 3, 256),
    "hd64": (3, 128, 2, 512),
    "one_head": (2, 64, 1, 256),
}


def read_fasta(path):
    name, parts = None, []
    for line in open(path):
        line = line.strip()
        if line.startswith(">"):
            if name is not None:
                yield name, "".join(parts)
            name, parts = line[1:].split()[0], []
        else:
            parts.append(line)
    if name is not None:
        yield name, "".join(parts)


def random_checkpoint(shape, seed, out_dir):
    """Random weights with what trained ones have and a plain init lacks: biases, layer-norm gains
    far from 1, outlier channels."""
    layers, hidden, heads, ffn = SHAPES[shape]
    torch.manual_seed(seed)
    config = EsmcConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=ffn)
    model = EsmcForMaskedLM(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "embed_tokens" in name:
                p.normal_(0, 0.5)
            elif "norm" in name and name.endswith("weight"):
                p.uniform_(0.3, 1.7)
                p[torch.randint(0, p.numel(), (2,))] = 6.0
            elif name.endswith("bias"):
                p.normal_(0, 0.2)
            elif p.ndim == 2:
                p.normal_(0, 1.3 / p.shape[1] ** 0.5)
    model.save_pretrained(out_dir, safe_serialization=True)


def of_esm(tensors, layers):
    """The tensors of an EsmcForMaskedLM under the names of ESMC of the package `esm`."""
    out = {
        "embed.weight": tensors["esmc.embed_tokens.weight"],
        "transformer.norm.weight": tensors["esmc.norm.weight"],
    }
    for number, name in [(0, "dense"), (2, "layer_norm"), (3, "decoder")]:
        for part in ["weight", "bias"]:
            out[f"sequence_head.{number}.{part}"] = tensors[f"lm_head.{name}.{part}"]
    for i in range(layers):
        own = lambda name: tensors[f"esmc.layers.{i}.{name}"]
        block = {
            "attn.layernorm_qkv.0.weight": own("input_layernorm.weight"),
            "attn.layernorm_qkv.0.bias": own("input_layernorm.bias"),
            "attn.layernorm_qkv.1.weight": np.concatenate([own(f"self_attn.{p}_proj.weight") for p in "qkv"]),
            "attn.q_ln.weight": own("self_attn.q_norm.weight"),
            "attn.k_ln.weight": own("self_attn.k_norm.weight"),
            "attn.out_proj.weight": own("self_attn.o_proj.weight"),
            "ffn.0.weight": own("post_attention_layernorm.weight"),
            "ffn.0.bias": own("post_attention_layernorm.bias"),
            "ffn.1.weight": np.concatenate([own("mlp.gate_proj.weight"), own("mlp.up_proj.weight")]),
            "ffn.3.weight": own("mlp.down_proj.weight"),
        }
        out.update({f"transformer.blocks.{i}.{name}": t for name, t in block.items()})
    return out


def esm_checkpoint(checkpoint, out_dir):
    config = json.load(open(os.path.join(checkpoint, "config.json")))
    tensors = load_file(os.path.join(checkpoint, "model.safetensors"))
    os.makedirs(out_dir, exist_ok=True)
    save_file(of_esm(tensors, config["num_hidden_layers"]), os.path.join(out_dir, "model.safetensors"))
    sizes = {
        "model_type": "esmc",
        "d_model": config["hidden_size"],
        "n_heads": config["num_attention_heads"],
        "n_layers": config["num_hidden_layers"],
    }
    json.dump(sizes, open(os.path.join(out_dir, "config.json"), "w"), indent=2)


def reference_of_esm(model):
    """The same model as ESMC of the package `esm` in float64, if the package is there."""
    try:
        from esm.models.esmc import ESMC
        from esm.tokenization import EsmSequenceTokenizer
    except ImportError as error:
        print(f"not compared with esm: {error}", file=sys.stderr)
        return None
    config = model.config
    own = ESMC(config.hidden_size, config.num_attention_heads, config.num_hidden_layers, EsmSequenceTokenizer(), use_flash_attn=False)
    assert own.tokenizer.convert_tokens_to_ids(VOCAB) == list(range(33))
    tensors = of_esm({name: t.numpy() for name, t in model.state_dict().items()}, config.num_hidden_layers)
    own = own.double().eval()
    own.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()})
    return own


@torch.no_grad()
def goldens(checkpoint, fasta, out):
    model = EsmcForMaskedLM.from_pretrained(checkpoint, attn_implementation="eager").double().eval()
    own = reference_of_esm(model)
    tensors, names = {}, []
    for i, (name, seq) in enumerate(read_fasta(fasta)):
        ids = torch.tensor([[0] + [ID[c] for c in seq] + [2]])
        r = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        hs = list(r.hidden_states)
        last = model.esmc(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        assert len(hs) == model.config.num_hidden_layers + 1
        if own is not None:
            theirs = own(ids)
            # esm's hidden states have no embedding, and the last is before the final norm.
            for ours, other in zip(hs[1:-1] + [last, r.logits], list(theirs.hidden_states[:-1]) + [theirs.embeddings, theirs.sequence_logits]):
                assert (ours - other).norm() <= 1e-12 * other.norm(), (i, (ours - other).norm() / other.norm())
        hs[-1] = last
        tensors[f"{i}.input_ids"] = ids[0].numpy()
        tensors[f"{i}.mean"] = torch.stack([h[0, 1:-1].mean(0) for h in hs]).float().numpy()
        tensors[f"{i}.max"] = torch.stack([h[0, 1:-1].amax(0) for h in hs]).float().numpy()
        tensors[f"{i}.bos"] = torch.stack([h[0, 0] for h in hs]).float().numpy()
        if len(seq) <= 64:
            tensors[f"{i}.hidden"] = torch.stack([h[0, 1:-1] for h in hs]).float().numpy().copy()
        if len(seq) <= 200:
            tensors[f"{i}.logits"] = r.logits[0, 1:-1].float().numpy().copy()
        names.append(name)
    assert all(np.isfinite(t).all() for t in tensors.values())
    save_file(tensors, out, metadata={"ids": json.dumps(names), "reference": "transformers EsmcForMaskedLM, eager, float64"})


if __name__ == "__main__":
    if sys.argv[1] == "random":
        random_checkpoint(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    elif sys.argv[1] == "pth":
        own = reference_of_esm(EsmcForMaskedLM.from_pretrained(sys.argv[2]))
        torch.save(own.float().state_dict(), sys.argv[3])
    elif sys.argv[1] == "esm":
        esm_checkpoint(sys.argv[2], sys.argv[3])
    else:
        goldens(sys.argv[2], sys.argv[3], sys.argv[4])
