"""The other engines of gpu_against_peers.py.

Each takes its weights from one transformers model. Like plm-fleet's own benchmark, it lays batches
out in host memory before the clock starts. It embeds a batch to mean-pooled f32 vectors
`[sequences, hidden_size]` on the device.
"""
import time

import torch

from .shapes import ESM2


class Peer:
    name = None
    dtype = "bf16"
    # Those whose models it takes.
    families = (ESM2,)
    # A slow peer is timed on a share of each workload.
    slow = True
    # These batch sizes are tried, and the fastest is reported.
    batch_tokens = (16_384, 32_768, 65_536)

    def __init__(self, model):
        """Takes weights, number format and device from `model`, a transformers EsmModel, or an
        EsmcModel."""
        self.config = model.config
        self.parameter = model.get_input_embeddings().weight
        self.device = self.parameter.device
        # On a CPU only correctness matters, so code is traced but not translated.
        self.compiler = "inductor" if self.device.type == "cuda" else "aot_eager"

    def lay_out(self, sequences, batch_tokens):
        """Makes batches in (pinned) host memory. The `rows` of a batch are the positions of its
        sequences in `sequences`."""
        raise NotImplementedError

    def embed(self, batch):
        raise NotImplementedError

    def compiled(self, function):
        return torch.compile(function, backend=self.compiler)

    def to_host_tensor(self, array):
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def to_device(self, *tensors):
        return [tensor.to(self.device, non_blocking=True) for tensor in tensors]


def copy_linear(target, source):
    """Copies weight and bias of a linear layer or a layer norm."""
    target.weight.copy_(source.weight)
    target.bias.copy_(source.bias)


@torch.no_grad()
def embed_all(peer, batches):
    """The seconds from batches in host memory to vectors in host memory, and the vectors in the
    order of their rows."""
    count = sum(len(batch.rows) for batch in batches)
    on_gpu = peer.device.type == "cuda"
    vectors = torch.empty(count, peer.config.hidden_size, pin_memory=on_gpu)
    synchronize = torch.cuda.synchronize if on_gpu else (lambda: None)
    synchronize()
    started, filled = time.perf_counter(), 0
    for batch in batches:
        vectors[filled : filled + len(batch.rows)].copy_(peer.embed(batch), non_blocking=True)
        filled += len(batch.rows)
    synchronize()
    seconds = time.perf_counter() - started
    order = torch.argsort(torch.tensor([row for batch in batches for row in batch.rows]))
    return seconds, vectors[order]
