#!/usr/bin/env python3
"""Measures tokens per second of plm-fleet and of other engines for ESM-2 and ESM C on one GPU, one
after the other, in one run.

    crates/plm-kernels/cuda-build.sh bench --workspace --bench gpu_tokens_per_second --no-run
    benches/gpu_against_peers.py [--shapes 650M,ESMC-600M] [--ours bf16,f16:32768]
        [--peers packed,transformers] [--deadline 520]
    benches/gpu_against_peers.py --check    # on a CPU: the peers compute what transformers does

The workloads are those of gpu_tokens_per_second.rs, with the same residue counts. The clock runs
from batches of token ids in host memory to mean-pooled f32 vectors in host memory, after a warm-up.
Weights are random. Tokens are counted with BOS and EOS and without padding. plm-fleet's rate is the
median of its runs. A peer's rate is its best run, in the fastest of several batch sizes (in
tokens). Slow peers are timed on a share of each workload with the same spread of lengths.

The peers compute in 16-bit formats unless their line names another:

    packed                FlashAttention over packed sequences, torch.compile, cuBLASLt's epilogues
    packed-fp8            the same idea with row-wise fp8 products
    esm-efficient         packed, on PyTorch's own FlashAttention
    transformers-compile  Hugging Face's, with torch.compile
    transformers          sdpa attention, sorted by length, padded
    fair-esm              in half precision, with its own batches

For ESM C there are packed, transformers-compile and transformers.

As a ceiling, a layer's products are timed alone, in bf16 and, for ESM-2, in fp8. A peer is timed
only if its vectors are near those of transformers in f32 with the same weights.

Needs: torch, transformers (5.17 or newer for ESM C), numpy (PyPI); for the peers of those names,
fair-esm, and esm-efficient with accelerate and einops.
"""
import argparse
import copy
import dataclasses
import gc
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = "plm-fleet"
LINE = re.compile(
    r"(?P<shape>\S+) (?P<dtype>\S+) (?P<batch_tokens>\d+) \((?P<workload>\w)\): (?P<tokens>\d+) tokens in \d+ batches, "
    r"(?P<rate>\d+) tokens/s \(of \d+ runs: (?P<low>\d+) to (?P<high>\d+)\)")
# The relative differences to f32 that a number format explains. This is coarse; --check is the
# test.
LARGEST_DIFFERENCE = {"bf16": 0.1, "f16": 0.1, "fp8": 0.3}
CEILING_TOKENS, CEILING_SECONDS = 16_384, 2.0


@dataclasses.dataclass
class Row:
    shape: str
    workload: str
    program: str
    dtype: str
    batch_tokens: int
    share: float
    rate: float
    low: float
    high: float
    difference: float | None = None

    def __str__(self):
        difference = "" if self.difference is None else f", {self.difference:.0e} from f32"
        return (f"{self.shape} ({self.workload}) {self.program} {self.dtype}: {self.rate:,.0f} tokens/s ({self.low:,.0f} to "
                f"{self.high:,.0f}), batches of {self.batch_tokens} tokens, {self.share:.1%} of the workload{difference}")


class Clock:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()


def say(*words):
    print(*words, flush=True)


def find_program():
    """The newest gpu_tokens_per_second that cargo built, or None."""
    release = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "release"
    built = [*release.glob("gpu_tokens_per_second"), *release.glob("deps/gpu_tokens_per_second-*")]
    programs = [path for path in built if not path.suffix and os.access(path, os.X_OK)]
    return max(programs, key=lambda path: path.stat().st_mtime, default=None)


def run_ours(program, shape, dtype, batch_tokens, tokens, clock):
    """Yields plm-fleet's rows as its lines arrive. `tokens` gives the tokens of each workload,
    which must equal the program's."""
    command = [str(program), shape, dtype, *([batch_tokens] if batch_tokens else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(max(clock.left(), 0), process.kill)
    timer.start()
    try:
        for line in process.stdout:
            found = LINE.match(line)
            if not found:
                say(line.rstrip())
            elif found["workload"] in tokens:
                if int(found["tokens"]) != tokens[found["workload"]]:
                    sys.exit(f"{OURS}'s workload ({found['workload']}) is of {found['tokens']} tokens, "
                             f"the peers' of {tokens[found['workload']]}: nothing to compare")
                rates = (float(found[name]) for name in ("rate", "low", "high"))
                yield Row(shape, found["workload"], OURS, found["dtype"], int(found["batch_tokens"]), 1.0, *rates)
        if process.wait() != 0:
            say(f"{' '.join(command)}: exit status {process.returncode}")
    finally:
        timer.cancel()
        process.kill()


def relative_difference(vectors, reference):
    return float(((vectors - reference).norm(dim=1) / reference.norm(dim=1)).max())


def fastest_batch_tokens(peer, sequences):
    from peers import embed_all
    from peers.workloads import share, tokens_of

    if len(peer.batch_tokens) == 1:
        return peer.batch_tokens[0]
    sample = share(sequences, 2 * max(peer.batch_tokens) / tokens_of(sequences))

    def seconds(batch_tokens):
        batches = peer.lay_out(sample, batch_tokens)
        return min(embed_all(peer, batches)[0] for _ in range(2))

    return min(peer.batch_tokens, key=seconds)


def measure(peer, sequences, repeats, clock):
    """The chosen batch size and the seconds of each pass. There are no passes if the time is up."""
    from peers import embed_all

    batch_tokens = fastest_batch_tokens(peer, sequences)
    batches = peer.lay_out(sequences, batch_tokens)
    # Padded batches differ in shape. A new shape may cost an allocation or a compilation.
    warm_up = batches if peer.slow else batches[:4]
    passes, expected = [], embed_all(peer, warm_up)[0] * len(batches) / len(warm_up)
    while len(passes) < repeats and clock.left() > expected:
        seconds, vectors = embed_all(peer, batches)
        if not vectors.isfinite().all():
            raise RuntimeError("a vector is not finite")
        passes.append(seconds)
        expected = seconds
    return batch_tokens, passes


def run_peer(Peer, model, shape, workloads, fractions, repeats, probe, reference, clock):
    from peers import embed_all
    from peers.workloads import share, tokens_of

    peer = Peer(model)
    _, vectors = embed_all(peer, peer.lay_out(probe, peer.batch_tokens[0]))
    difference = relative_difference(vectors, reference)
    if not difference < LARGEST_DIFFERENCE[peer.dtype]:
        say(f"{shape} {peer.name}: its vectors are {difference:.1e} from those of f32: not timed")
        return
    for workload, sequences in workloads.items():
        if clock.left() <= 0:
            return
        timed = share(sequences, fractions[workload]) if peer.slow else sequences
        batch_tokens, passes = measure(peer, timed, repeats, clock)
        if passes:
            rates = [tokens_of(timed) / seconds for seconds in passes]
            yield Row(shape, workload, peer.name, peer.dtype, batch_tokens, len(timed) / len(sequences),
                      max(rates), min(rates), max(rates), difference)


def products_alone(shape, dtype):
    """Tokens per second of the matrix products of `shape`, with nothing between them."""
    import torch
    import torch.nn.functional as F
    from peers.packed import fp8_product, fp8_weight, row_wise_fp8
    from peers.shapes import ESMC

    hidden, intermediate, gated = shape.hidden_size, shape.intermediate_size, shape.family == ESMC
    torch.manual_seed(1)

    def random(*size):
        return torch.randn(*size, device="cuda", dtype=torch.bfloat16)

    sizes = [(hidden, 3 * hidden), (hidden, hidden), (hidden, (2 if gated else 1) * intermediate), (intermediate, hidden)]
    inputs = [random(CEILING_TOKENS, inner) for inner, _ in sizes]
    # Numbers like a model's, since the power that a product takes depends on them.
    inputs[3] = F.silu(inputs[3]) * random(*inputs[3].shape) if gated else F.gelu(inputs[3])
    # Weights of several layers come from memory, not from the cache, like a model's.
    layers = [[(0.02 * random(outer, inner), None if gated else 0.02 * random(outer)) for inner, outer in sizes]
              for _ in range(4)]
    if dtype == "fp8":
        inputs = [row_wise_fp8(each) for each in inputs]
        layers = [[(fp8_weight(weight), bias) for weight, bias in layer] for layer in layers]

    def all_layers():
        for layer in layers:
            for each, (weight, bias) in zip(inputs, layer):
                if dtype == "fp8":
                    fp8_product(*each, weight, bias)
                else:
                    F.linear(each, weight, bias)

    def seconds(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(rounds):
            all_layers()
        torch.cuda.synchronize()
        return time.perf_counter() - started

    seconds(2)
    rounds = max(1, round(CEILING_SECONDS / seconds(4) * 4))
    return CEILING_TOKENS / (seconds(rounds) / rounds / len(layers) * shape.num_layers)


def known_peers():
    from peers import packed, packed_esmc, padded

    return (packed.Packed, packed_esmc.PackedEsmc, packed.PackedFp8, packed.EsmEfficient, padded.CompiledTransformers,
            padded.Transformers, padded.FairEsm)


def peers_for(family, names):
    """The peers of these names that take models of `family`, in the order of the names."""
    for name in names:
        Peer = next((Peer for Peer in known_peers() if Peer.name == name and family in Peer.families), None)
        if Peer:
            yield Peer
        else:
            say(f"{family} {name}: left out: it is not for {family}")


def free_gpu():
    import torch

    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure_shape(shape, arguments, workloads, device, program, clock):
    """All rows of a shape, and its ceilings by number format."""
    import torch
    from peers import embed_all
    from peers.padded import Transformers, random_model
    from peers.shapes import ESM2, SHAPES
    from peers.workloads import random_sequences, tokens_of

    rows, ceilings = [], {}
    tokens = {name: tokens_of(sequences) for name, sequences in workloads.items()}
    for dtype, _, batch_tokens in (ours.partition(":") for ours in arguments.ours):
        for row in run_ours(program, shape, dtype, batch_tokens, tokens, clock):
            rows.append(row)
            say(row)
    if device == "cuda":
        for dtype in ("bf16", "fp8") if SHAPES[shape].family == ESM2 else ("bf16",):
            try:
                ceilings[dtype] = products_alone(SHAPES[shape], dtype)
                say(f"{shape} products alone {dtype}: {ceilings[dtype]:,.0f} tokens/s")
            except Exception:
                say(f"{shape} products alone {dtype}: failed")
                traceback.print_exc()
        free_gpu()
    model = random_model(SHAPES[shape], torch.bfloat16, device)
    probe = random_sequences([30, 90, 128, 166, 290, 290, 400, 1_022], seed=2)
    in_f32 = Transformers(copy.deepcopy(model).float())
    _, reference = embed_all(in_f32, in_f32.lay_out(probe, 2_048))
    del in_f32
    for Peer in peers_for(SHAPES[shape].family, arguments.peers):
        free_gpu()
        if clock.left() <= 0:
            say(f"{shape} {Peer.name}: not timed, the time is up")
            continue
        try:
            for row in run_peer(Peer, model, shape, workloads, arguments.fraction, arguments.repeats, probe, reference, clock):
                rows.append(row)
                say(row)
        except ImportError as error:
            say(f"{shape} {Peer.name}: left out: {error}")
        except Exception:
            # A peer that fails must not cost the others' figures.
            say(f"{shape} {Peer.name}: failed")
            traceback.print_exc()
    return rows, ceilings


def table(rows, ceilings):
    """The table in Markdown. `ceilings` has one entry for each shape and number format."""
    our_dtypes = list(dict.fromkeys(row.dtype for row in rows if row.program == OURS))

    def ours(row, dtype):
        rates = [other.rate for other in rows
                 if (other.program, other.dtype, other.shape, other.workload) == (OURS, dtype, row.shape, row.workload)]
        return f"{max(rates) / row.rate:.2f}" if rates else ""

    head = ["shape", "workload", "program", "format", "batch tokens", "share timed", "tokens/s (min-max)",
            *(f"{OURS} {dtype} / it" for dtype in our_dtypes), "of products alone", "from f32"]
    yield head
    yield ["---"] * len(head)
    for row in sorted(rows, key=lambda row: (list(ceilings).index(row.shape), row.workload)):
        ceiling = ceilings[row.shape].get("fp8" if row.dtype in ("fp8", "int8") else "bf16")
        yield [
            row.shape, f"({row.workload})", row.program, row.dtype, f"{row.batch_tokens:,}", f"{row.share:.1%}",
            f"{row.rate:,.0f} ({row.low:,.0f}-{row.high:,.0f})", *(ours(row, dtype) for dtype in our_dtypes),
            f"{row.rate / ceiling:.1%}" if ceiling else "", "" if row.difference is None else f"{row.difference:.0e}"]


def check(family, peers):
    """Checks that the peers compute, in f32 on a CPU, what transformers computes for one sequence
    at a time."""
    import torch
    from peers import embed_all
    from peers.padded import random_model
    from peers.shapes import Shape
    from peers.workloads import random_sequences, uniform

    failed = False
    model = random_model(Shape(family, 2, 128, 2), torch.float32, "cpu")
    # A trained model's values are not 1 either.
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, 1.0, 0.1)
    sequences = random_sequences([*uniform(3, 24, 1, 200), 1_022])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        reference = torch.stack([
            model(input_ids=torch.from_numpy(sequence)[None].long()).last_hidden_state[0, 1:-1].mean(0)
            for sequence in sequences])
    model.set_attn_implementation("sdpa")
    for Peer in peers_for(family, peers):
        free_gpu()
        try:
            peer = Peer(model)
        except ImportError as error:
            say(f"{family} {Peer.name}: left out: {error}")
            continue
        # Batch sizes take turns, so compiled code meets other shapes than its first.
        for batch_tokens in (1_200, 2_048):
            _, vectors = embed_all(peer, peer.lay_out(sequences, batch_tokens))
            if peer.dtype == "fp8":
                least = float(torch.cosine_similarity(vectors, reference).min())
                agrees, what = least > 0.99, f"cosine {least:.5f}, which must be over 0.99"
            else:
                difference = relative_difference(vectors, reference)
                agrees, what = difference < 1e-5, f"relative difference {difference:.0e}, which must be under 1e-5"
            failed |= not agrees
            say(f"{family} {Peer.name}, batches of {batch_tokens} tokens: {'agrees' if agrees else 'DIFFERS'}: {what}")
    return failed


def name_machine():
    import torch
    import transformers

    query = ["nvidia-smi", "-i", "0", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"]
    try:
        name, driver, power = subprocess.run(query, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().split(", ")
    except (OSError, subprocess.CalledProcessError, ValueError):
        name, driver, power = torch.cuda.get_device_name(), "?", "?"
    return f"{name}, driver {driver}, power limit {power}; torch {torch.__version__}, transformers {transformers.__version__}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare vectors on the CPU, and time nothing")
    parser.add_argument("--plm-fleet", metavar="PROGRAM", help="gpu_tokens_per_second (default: the newest in target/release)")
    parser.add_argument("--ours", default="bf16", help="its rows, as DTYPE[:MAX_BATCH_TOKENS],...; empty for none")
    parser.add_argument("--peers", default="packed,packed-fp8,esm-efficient,transformers-compile,transformers,fair-esm",
                        help="in the order of running; empty for none")
    parser.add_argument("--shapes", default="650M,3B")
    parser.add_argument("--workloads", default="a,b,c")
    parser.add_argument("--fraction", default="0.125,0.125,1", help="of (a), (b) and (c), for slow peers")
    parser.add_argument("--repeats", type=int, default=2, help="timed passes of a peer")
    parser.add_argument("--deadline", type=float, default=520,
                        help="seconds after which nothing more begins; a compilation may then still end")
    arguments = parser.parse_args()

    clock = Clock(arguments.deadline)
    try:
        import torch
        import transformers
        from peers.shapes import ESM2, ESMC, SHAPES
        from peers.workloads import random_sequences, residue_counts
        known = [Peer.name for Peer in known_peers()]
    except ImportError as error:
        sys.exit(f"{error}; needed: torch, transformers, numpy")

    counts = residue_counts()
    arguments.ours, arguments.peers, shapes, workloads = (
        [word for word in words.split(",") if word]
        for words in (arguments.ours, arguments.peers, arguments.shapes, arguments.workloads))
    for words, choices in ((arguments.peers, known), (shapes, SHAPES), (workloads, counts)):
        if unknown := set(words) - set(choices):
            parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(dict.fromkeys(choices))}")
    arguments.fraction = dict(zip(counts, map(float, arguments.fraction.split(",")), strict=True))

    families = (ESM2, ESMC) if arguments.check else {SHAPES[shape].family for shape in shapes}
    if ESMC in families and not hasattr(transformers, "EsmcModel"):
        sys.exit(f"transformers {transformers.__version__} has no ESM C; 5.17 has")
    if arguments.check:
        sys.exit(any([check(family, arguments.peers) for family in families]))
    if not torch.cuda.is_available():
        sys.exit("no GPU, without which only --check runs")
    program = arguments.plm_fleet or find_program()
    if arguments.ours and not program:
        sys.exit("no gpu_tokens_per_second in target/release: build it, name it with --plm-fleet, or leave it out (--ours '')")

    machine = name_machine()
    say(f"{machine}\n")
    sequences = {name: random_sequences(counts[name]) for name in workloads}
    rows, ceilings = [], {}
    for shape in shapes:
        if clock.left() <= 0:
            say(f"{shape}: not timed, the time is up")
            break
        more_rows, ceilings[shape] = measure_shape(shape, arguments, sequences, "cuda", program, clock)
        rows += more_rows
        free_gpu()
    products = [f"{shape} {dtype} {rate:,.0f} tokens/s" for shape in ceilings for dtype, rate in ceilings[shape].items()]
    say(f"\n{machine}; {OURS}: median, peers: best of {arguments.repeats}; "
        f"products alone, on {CEILING_TOKENS:,} tokens: {', '.join(products)}\n")
    for cells in table(rows, ceilings):
        say(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
