#!/usr/bin/env python3
"""Measures tokens per second of plm-fleet and of Hugging Face transformers on one CPU, with the
same weights and sequences, in one run.

    benches/cpu_against_transformers.py [--shapes 8M,35M] [--threads 1,all] [--rounds 3]
        [--sequences 128]

The script builds the Rust side (`cargo build --release -p plm-benches`). It makes random-weight
checkpoints of ESM-2's shapes and seeded sequences, lets both embed them in turn (A B A B ...),
checks that the vectors agree, and prints a Markdown table of medians. Both are timed from token ids
in memory to mean-pooled f32 vectors in memory, after a warm-up, with the model loaded. Tokens are
counted with BOS and EOS and without padding.

transformers runs at its best here: with sdpa attention, in inference mode, with batches sorted by
length and padded to their longest, and with the fastest of several batch sizes (in tokens).

Needs: torch, transformers, numpy (PyPI).
"""
import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

SHAPES = {"8M": (6, 320, 20), "35M": (12, 480, 20), "150M": (30, 640, 20)}
BATCH_TOKENS = (256, 512, 1024, 2048, 4096)
LETTERS = "LAGVSERTIDPKQNFYMHWC"
FIRST_LETTER_ID, CLS, PAD, EOS, MASK = 4, 0, 1, 2, 32
ROOT = pathlib.Path(__file__).resolve().parent.parent


def workloads(count, rng):
    """Residue counts by name: six-frame translated reads, and a proteome (log-normal, median 290,
    mean 360)."""
    import numpy as np

    sigma = np.sqrt(2 * np.log(360 / 290))
    return {
        "reads, 90-166 residues": rng.integers(90, 167, size=2 * count),
        "proteome, median 290": np.clip(np.round(rng.lognormal(np.log(290), sigma, size=count)), 30, 1022).astype(int),
    }


def make_checkpoint(shape, directory):
    import torch
    from transformers import EsmConfig, EsmForMaskedLM

    layers, hidden, heads = SHAPES[shape]
    torch.manual_seed(1)
    config = EsmConfig(
        vocab_size=33, mask_token_id=MASK, pad_token_id=PAD, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=4 * hidden, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, max_position_embeddings=1026, layer_norm_eps=1e-5,
        position_embedding_type="rotary", emb_layer_norm_before=False, token_dropout=True)
    EsmForMaskedLM(config).save_pretrained(directory, safe_serialization=True)


class Transformers:
    def __init__(self, directory, threads):
        import torch
        from transformers import EsmModel

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = EsmModel.from_pretrained(directory, add_pooling_layer=False, attn_implementation="sdpa").eval()

    def embed(self, sequences, batch_tokens):
        torch, out = self.torch, [None] * len(sequences)
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        batches, batch = [], []
        for i in order:
            if batch and len(sequences[i]) * (len(batch) + 1) > batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(i)
        batches.append(batch)
        with torch.inference_mode():
            for batch in batches:
                longest = max(len(sequences[i]) for i in batch)
                ids = torch.full((len(batch), longest), PAD, dtype=torch.long)
                for row, i in enumerate(batch):
                    ids[row, : len(sequences[i])] = torch.as_tensor(sequences[i])
                hidden = self.model(input_ids=ids, attention_mask=(ids != PAD).long()).last_hidden_state
                for row, i in enumerate(batch):
                    out[i] = hidden[row, 1 : len(sequences[i]) - 1].mean(0)
            return torch.stack(out).numpy()

    def seconds(self, sequences, batch_tokens):
        self.embed(sequences[:16], batch_tokens)
        start = time.perf_counter()
        self.vectors = self.embed(sequences, batch_tokens)
        return time.perf_counter() - start


def plm_fleet_seconds(program, checkpoint, fasta, threads, vectors):
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    command = [program, checkpoint, fasta, str(threads), vectors]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="8M,35M")
    parser.add_argument("--threads", default="1,all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=128)
    arguments = parser.parse_args()

    import numpy as np
    import torch
    import transformers

    subprocess.run(["cargo", "build", "--release", "--locked", "-p", "plm-benches", "--bin", "forward-seconds"], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = str(target.resolve() / "release" / "forward-seconds")
    cores = len(os.sched_getaffinity(0))
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    print(f"{cpu}, {cores} cores, {torch.backends.cpu.get_cpu_capability()}; torch {torch.__version__}, "
          f"transformers {transformers.__version__}; f32; median of {arguments.rounds} rounds in turn\n")
    print("| shape | threads | workload | plm-fleet tokens/s | transformers tokens/s | ratio (min-max) | max. relative difference |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for shape in arguments.shapes.split(","):
            checkpoint = os.path.join(scratch, shape)
            make_checkpoint(shape, checkpoint)
            rng = np.random.default_rng(20261123)
            for workload, lengths in workloads(arguments.sequences, rng).items():
                sequences, fasta = [], os.path.join(scratch, "sequences.fasta")
                with open(fasta, "w") as file:
                    for i, length in enumerate(lengths):
                        residues = rng.integers(0, 20, size=length)
                        sequences.append([CLS, *(residues + FIRST_LETTER_ID), EOS])
                        file.write(f">{i}\n{''.join(LETTERS[r] for r in residues)}\n")
                tokens = sum(map(len, sequences))
                for threads in arguments.threads.split(","):
                    threads = cores if threads == "all" else int(threads)
                    peer = Transformers(checkpoint, threads)
                    batch_tokens = min(BATCH_TOKENS, key=lambda t: peer.seconds(sequences[: len(sequences) // 4], t))
                    ours, theirs, out = [], [], os.path.join(scratch, "vectors.f32")
                    for _ in range(arguments.rounds):
                        ours.append(plm_fleet_seconds(program, checkpoint, fasta, threads, out))
                        theirs.append(peer.seconds(sequences, batch_tokens))
                    vectors = np.fromfile(out, dtype="<f4").reshape(len(sequences), -1)
                    difference = np.linalg.norm(vectors - peer.vectors, axis=1) / np.linalg.norm(peer.vectors, axis=1)
                    if not difference.max() < 1e-4:
                        sys.exit(f"the vectors differ by {difference.max():.1e}: nothing to compare")
                    ratios = sorted(t / o for o, t in zip(ours, theirs))
                    print(f"| {shape} | {threads} | {workload} | {tokens / statistics.median(ours):,.0f} | "
                          f"{tokens / statistics.median(theirs):,.0f} | {statistics.median(ratios):.2f} "
                          f"({ratios[0]:.2f}-{ratios[-1]:.2f}) | {difference.max():.0e} |", flush=True)


if __name__ == "__main__":
    main()
