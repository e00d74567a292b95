"""The workloads of gpu_tokens_per_second.rs: the same residue counts, made by plm-testkit's
generator from the same seeds."""
import numpy as np

CLS, PAD, EOS, MASK = 0, 1, 2, 32
FIRST_RESIDUE_ID, RESIDUE_KINDS = 4, 20


def split_mix_64(seed, count):
    state = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
    mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return mixed ^ (mixed >> np.uint64(31))


def uniform(seed, count, least, most):
    bits, width = split_mix_64(seed, count), np.uint64(most - least + 1)
    high, low = bits >> np.uint64(32), bits & np.uint64(0xFFFF_FFFF)
    return least + ((high * width + (low * width >> np.uint64(32))) >> np.uint64(32)).astype(int)


def lognormal(seed, count, median, mean, least, most):
    zero_to_one = (split_mix_64(seed, 2 * count) >> np.uint64(11)) / 2.0**53
    normal = np.sqrt(-2 * np.log(1 - zero_to_one[::2])) * np.cos(2 * np.pi * zero_to_one[1::2])
    sigma = np.sqrt(2 * np.log(mean / median))
    return np.clip(np.round(median * np.exp(sigma * normal)), least, most).astype(int)


def residue_counts():
    """The residue counts of each workload."""
    return {
        "a": uniform(1, 8_192, 90, 166),
        "b": lognormal(2, 2_048, 290, 360, 30, 1_022),
        "c": np.full(64, 1_022),
    }


def random_sequences(counts, seed=1):
    """A list of token ids, BOS and EOS included, for each count."""
    random = np.random.default_rng(seed)
    residues = (FIRST_RESIDUE_ID + random.integers(0, RESIDUE_KINDS, size=count) for count in counts)
    return [np.array([CLS, *ids, EOS], dtype=np.int32) for ids in residues]


def tokens_of(sequences):
    return sum(map(len, sequences))


def share(sequences, fraction):
    """A share of the sequences with the same spread of lengths: evenly spaced ones of all, sorted
    by length."""
    count = min(len(sequences), max(1, round(len(sequences) * fraction)))
    by_length = sorted(sequences, key=len)
    return [by_length[round(position)] for position in np.linspace(0, len(sequences) - 1, count)]
