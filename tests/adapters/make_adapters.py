"""Writes adapters of peft for small models that are here already, and what peft makes of these.

    python3 tests/adapters/make_adapters.py tests/adapters

needs torch, transformers 5.24, peft 0.21 and fair-esm 2.0 (PyPI). The base models are
`tests/pickles/reference`, an ESM-2 that `tests/pickles` has in every layout, and
`tests/goldens/esmc/hd32`, an ESM C. Each adapter is made by `get_peft_model` of peft, gets random
numbers in f32, also where peft begins with zeros, and is written by `save_pretrained`:

    plain/            on EsmModel: queries and values
    default/          the same with the names that older versions of peft wrote
    patterns/         on EsmForMaskedLM, in adapter_model.bin: all of attention and `dense`, also in
                      the head; rank_pattern, alpha_pattern, use_rslora, and the biases of the model
    classifier/       on EsmForSequenceClassification: DoRA, targets by a regular expression, in one
                      layer, and its own classifier
    all_linear/       on EsmForTokenClassification: "all-linear", also in its classifier; the
                      biases of modules with LoRA, and its own last layer norm
    embedding/        on EsmForMaskedLM: the token embedding, and queries of layers_to_transform
    saved_head/       on EsmForMaskedLM: queries, and its own lm_head and embedding
    esmc/             on EsmcForMaskedLM: projections and the token embedding
    hd64/             on EsmForMaskedLM of `tests/goldens/hd64`, whose shape GPUs compute: queries,
                      values and `dense`

    fair_esm/         on fair-esm's own ESM2 with the weights of `tests/pickles/fair`, whose modules
                      have other names: by a regular expression, the queries, what is beside them,
                      both matrices of the feed-forward, and `dense` in the head; all biases
    esm_package/      on modules that are called as those of ESMC of PyPI's esm, with the weights of
                      `tests/goldens/esmc/hd32-esm`: the matrix of queries, keys and values, the one
                      of gates and values, and the last of the feed-forward; DoRA

    sequence_classifier/ token_classifier/
                      whole fine-tunes of the ESM-2, without an adapter

    expected.safetensors  by adapter: the residues `{adapter}.{i}.hidden` after the last layer, and
                          `{adapter}.{i}.logits` if the base model has its head, of each protein i.
                          The adapter was loaded from its files by PeftModel.from_pretrained, and
                          merge_and_unload and the model computed in float64.
    hd64/goldens.safetensors
                          `{i}.mean` of every layer for the records of
                          `tests/goldens/banded.fasta`, as `make_goldens.py` there writes them
"""

import argparse
import copy
import json
import shutil
import sys
from pathlib import Path

import esm
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    EsmForMaskedLM,
    EsmForSequenceClassification,
    EsmForTokenClassification,
    EsmModel,
    EsmcForMaskedLM,
)

HERE = Path(__file__).resolve().parent
ESM2 = HERE.parent / "pickles" / "reference"
HD64 = HERE.parent / "goldens" / "hd64"
FAIR = HERE.parent / "pickles" / "fair" / "esm2_t2_tiny.pt"
ESMC = HERE.parent / "goldens" / "esmc" / "hd32"
ESMC_PACKAGE = HERE.parent / "goldens" / "esmc" / "hd32-esm" / "model.safetensors"
SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQ", "M", "GAVLXBUZO", "ACDEFGHIKLMNPQRSTVWY" * 2]
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>"] + list("LAGVSERTIDPKQNFYMHWCXBUZO.-|")

ADAPTERS = {
    "plain": (EsmModel, ESM2, dict(target_modules=["query", "value"], r=4, lora_alpha=6)),
    "patterns": (
        EsmForMaskedLM,
        ESM2,
        dict(
            target_modules=["query", "key", "value", "dense"],
            r=3,
            lora_alpha=5,
            rank_pattern={"attention.self.query": 1, "^esm.encoder.layer.1.output.dense": 2},
            alpha_pattern={"self.(key|value)": 9, "lm_head.dense": 2.5},
            use_rslora=True,
            bias="all",
        ),
    ),
    "classifier": (
        EsmForSequenceClassification,
        ESM2,
        dict(
            target_modules=r".*layer\.1\.(attention\.self\.(query|value)|output\.dense)",
            r=2,
            lora_alpha=4,
            use_dora=True,
            task_type="SEQ_CLS",
        ),
    ),
    "all_linear": (
        EsmForTokenClassification,
        ESM2,
        dict(
            target_modules="all-linear",
            exclude_modules=["key"],
            r=2,
            lora_alpha=3,
            bias="lora_only",
            modules_to_save=["emb_layer_norm_after"],
        ),
    ),
    "embedding": (
        EsmForMaskedLM,
        ESM2,
        dict(
            target_modules=["esm.embeddings.word_embeddings", "query"],
            layers_to_transform=[1],
            layers_pattern="layer",
            r=2,
            lora_alpha=3,
        ),
    ),
    "saved_head": (
        EsmForMaskedLM,
        ESM2,
        dict(target_modules=["query"], r=2, modules_to_save=["lm_head", "word_embeddings"]),
    ),
    "esmc": (
        EsmcForMaskedLM,
        ESMC,
        dict(
            target_modules=["embed_tokens", "q_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
            r=1,
            lora_alpha=2,
        ),
    ),
    "hd64": (
        EsmForMaskedLM,
        HD64,
        dict(target_modules=["query", "value", "dense"], r=2, lora_alpha=1),
    ),
}


FAIR_ESM = dict(
    target_modules=r"^(?!contact).*(q_proj|out_proj|fc[12]|lm_head\.dense)\Z",
    r=2,
    lora_alpha=3,
    rank_pattern={"layers.1.self_attn": 1, r"fc(?=1)1": 3},
    bias="all",
)
ESM_PACKAGE = dict(
    target_modules=["layernorm_qkv.1", "ffn.1", "ffn.3"], r=2, lora_alpha=3, use_dora=True
)


def noisy(parameters, generator, scale):
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def make(name, out):
    kind, base, settings = ADAPTERS[name]
    torch.manual_seed(len(name))
    model = get_peft_model(kind.from_pretrained(base), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(len(name))
    trained = [p for p in model.parameters() if p.requires_grad]
    noisy(trained, generator, 0.3)
    config = model.peft_config["default"]
    config.base_model_name_or_path = f"plm/{base.name}"
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    model.save_pretrained(out / name, safe_serialization=name != "patterns")
    (out / name / "README.md").unlink()
    # What peft reads again is the adapter.
    loaded = PeftModel.from_pretrained(kind.from_pretrained(base).double(), out / name)
    return loaded.double().merge_and_unload().eval()


def adapted(model, settings, generator, out):
    """An adapter of a model that is no transformers', and the model with it merged."""
    trained = get_peft_model(copy.deepcopy(model), LoraConfig(**settings))
    noisy([p for p in trained.parameters() if p.requires_grad], generator, 0.3)
    trained.save_pretrained(out)
    (out / "README.md").unlink()
    path = out / "adapter_config.json"
    config = json.loads(path.read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2) + "\n")
    loaded = PeftModel.from_pretrained(copy.deepcopy(model).double(), out)
    return loaded.double().merge_and_unload().eval()


def fair_esm(name, out):
    # A checkpoint of fair-esm has its settings in a Namespace.
    with torch.serialization.safe_globals([argparse.Namespace]):
        model, alphabet = esm.pretrained.load_model_and_alphabet_local(FAIR)
    model = adapted(model, FAIR_ESM, torch.Generator().manual_seed(8), out / name)
    tensors = {}
    for number, sequence in enumerate(SEQUENCES):
        tokens = alphabet.get_batch_converter()([("", sequence)])[2]
        with torch.no_grad():
            result = model(tokens, repr_layers=[model.num_layers])
        hidden = result["representations"][model.num_layers]
        tensors[f"{name}.{number}.hidden"] = hidden[0, 1:-1].float().contiguous()
        tensors[f"{name}.{number}.logits"] = result["logits"][0, 1:-1].float().contiguous()
    return tensors


def modules(tensors):
    """Modules of these names with these weights, which compute nothing."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        *above, leaf, parameter = name.split(".")
        parent = root
        for part in above:
            if part not in dict(parent.named_children()):
                parent.add_module(part, torch.nn.Module())
            parent = dict(parent.named_children())[part]
        if leaf not in dict(parent.named_children()):
            is_matrix = tensor.dim() == 2
            module = torch.nn.Linear(*tensor.shape[::-1], bias=False) if is_matrix else None
            parent.add_module(leaf, module or torch.nn.Module())
        module = dict(parent.named_children())[leaf]
        setattr(module, parameter, torch.nn.Parameter(tensor))
    return root


def esm_package(name, out):
    """peft merges into the names of the package esm, and transformers computes."""
    base = modules(load_file(ESMC_PACKAGE))
    merged = adapted(base, ESM_PACKAGE, torch.Generator().manual_seed(9), out / name)
    tensors = merged.state_dict()
    model = EsmcForMaskedLM.from_pretrained(ESMC).double()
    for number, layer in enumerate(model.esmc.layers):
        block = f"transformer.blocks.{number}."
        attention, feed_forward = layer.self_attn, layer.mlp
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        gates = [feed_forward.gate_proj, feed_forward.up_proj]
        with torch.no_grad():
            for whole, parts in [
                ("attn.layernorm_qkv.1", projections),
                ("ffn.1", gates),
                ("ffn.3", [feed_forward.down_proj]),
            ]:
                stacked = tensors[f"{block}{whole}.weight"].chunk(len(parts))
                for part, weight in zip(parts, stacked):
                    part.weight.copy_(weight)
    return expected(name, model.eval())


def expected(name, model):
    trunk = getattr(model, "esm", getattr(model, "esmc", model))
    tensors = {}
    for number, sequence in enumerate(SEQUENCES):
        ids = [0] + [VOCABULARY.index(letter) for letter in sequence] + [2]
        tokens = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).long()}
        with torch.no_grad():
            hidden = trunk(**tokens).last_hidden_state[0, 1:-1]
            tensors[f"{name}.{number}.hidden"] = hidden.float()
            if hasattr(model, "lm_head"):
                tensors[f"{name}.{number}.logits"] = model(**tokens).logits[0, 1:-1].float()
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def means(model):
    """The means of every layer of the proteins of the other goldens."""
    records = (HERE.parent / "goldens" / "banded.fasta").read_text().split(">")[1:]
    sequences = ["".join(record.split("\n")[1:]) for record in records]
    tensors = {}
    for number, sequence in enumerate(sequences):
        ids = [0] + [VOCABULARY.index(letter) for letter in sequence] + [2]
        tokens = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).long()}
        with torch.no_grad():
            result = model.esm(**tokens, output_hidden_states=True)
            hidden = [*result.hidden_states[:-1], result.last_hidden_state]
        tensors[f"{number}.mean"] = torch.stack([h[0, 1:-1].mean(0) for h in hidden]).float()
    return tensors


def with_older_names(adapter, out):
    shutil.copytree(adapter, out)
    path = out / "adapter_model.safetensors"
    tensors = load_file(path)
    for part in ["lora_A", "lora_B"]:
        tensors = {k.replace(f"{part}.", f"{part}.default."): t for k, t in tensors.items()}
    save_file(tensors, path)


def main(out):
    tensors = {}
    for name in ADAPTERS:
        model = make(name, out)
        if name == "hd64":
            save_file(means(model), out / name / "goldens.safetensors")
        else:
            tensors |= expected(name, model)
    tensors |= fair_esm("fair_esm", out)
    tensors |= esm_package("esm_package", out)
    with_older_names(out / "plain", out / "default")
    for name, kind in [
        ("sequence_classifier", EsmForSequenceClassification),
        ("token_classifier", EsmForTokenClassification),
    ]:
        torch.manual_seed(1)
        model = kind.from_pretrained(ESM2)
        noisy(model.parameters(), torch.Generator().manual_seed(1), 0.1)
        model.save_pretrained(out / name)
        tensors |= expected(name, model.double().eval())
    save_file(tensors, out / "expected.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
