"""The released shapes, by the names that gpu_tokens_per_second.rs takes."""
import typing

ESM2, ESMC = "ESM-2", "ESM C"


class Shape(typing.NamedTuple):
    family: str
    num_layers: int
    hidden_size: int
    heads: int

    @property
    def intermediate_size(self):
        """The width inside a feed-forward block: four times that of the model, or, in ESM C, 8/3 of
        it, rounded up to a multiple of 256."""
        return 4 * self.hidden_size if self.family == ESM2 else -(-self.hidden_size * 8 // (3 * 256)) * 256


SHAPES = {
    "8M": Shape(ESM2, 6, 320, 20),
    "35M": Shape(ESM2, 12, 480, 20),
    "150M": Shape(ESM2, 30, 640, 20),
    "650M": Shape(ESM2, 33, 1280, 20),
    "3B": Shape(ESM2, 36, 2560, 40),
    "ESMC-300M": Shape(ESMC, 30, 960, 15),
    "ESMC-600M": Shape(ESMC, 36, 1152, 18),
    "ESMC-6B": Shape(ESMC, 80, 2560, 40),
}
