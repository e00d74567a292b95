//! The numbers that kernels and the code that launches them must agree on, written once.
//!
//! `build.rs` writes them for C++ as `contract.cuh`: constants in the namespace `contract`, a macro
//! `FOR_GPU_HEAD_DIMS`, and for each struct that kernels take by value a macro `SAME_LAYOUT_..`
//! that holds the C++ struct against the layout given here; `same_layout!` does so for the Rust
//! one.
//!
//! This module must not know what any of the kernels does with the numbers.

/// Declares constants for Rust, and lists them for C++.
macro_rules! constants {
    ($($(#[$doc:meta])* $kind:ident $name:ident = $value:expr;)*) => {
        $($(#[$doc])* pub(crate) const $name: constants!(type $kind) = $value;)*

        /// All of these.
        pub(crate) const CONSTANTS: &[(&str, Number)] =
            &[$((stringify!($name), constants!(number $kind $name)),)*];
    };
    (type int) => { usize };
    (type float) => { f32 };
    (number int $name:ident) => { Number::Int($name) };
    (number float $name:ident) => { Number::Float($name) };
}

/// A constant's value, and its type in C++.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    /// An `int`.
    Int(usize),
    /// A `float`.
    Float(f32),
}

constants! {
    /// What one thread loads or stores at once.
    int VECTOR_BYTES = 16;

    // Reductions over rows.
    /// The vectors of a row that a thread holds at most.
    int ROW_VECTORS = 5;
    /// The threads of a block at most.
    int ROW_THREADS = 512;

    // Bias and GELU.
    /// The rows of a block.
    int BIAS_GELU_ROWS = 4;

    // Layer norms of queries and keys.
    /// The heads at most, on a Hopper: a warp keeps all of a row's in registers.
    int QUERY_KEY_NORM_HEADS = 40;

    // SwiGLU.
    /// The rows of a block.
    int SWIGLU_ROWS = 4;

    // Means of segments, on the CPU too.
    /// The rows that are summed on their own before they join the total: the rounding error of a
    /// mean over tens of thousands of residues stays that of a few hundred.
    int ROWS_PER_PARTIAL_SUM = 128;

    // Products of residues' rows.
    /// The tokens of a block.
    int RESIDUE_LINEAR_ROWS = 32;
    /// The tokens of a thread.
    int RESIDUE_LINEAR_THREAD_ROWS = 4;
    /// The outputs at most.
    int RESIDUE_LINEAR_OUTPUTS = 64;

    // Contacts.
    /// The residues of a side of a tile of a map.
    int CONTACT_TILE = 64;
    /// The threads of a block: each has 4 x 4 pairs of a tile.
    int CONTACT_THREADS = 256;

    // Attention.
    /// The threads of a block of the generic kernels.
    int ATTENTION_THREADS = 256;
    /// The query rows of a tile in 16 bits, whichever kernel takes it.
    int ATTENTION_QUERIES = 128;
    /// The query rows of a tile in f32.
    int ATTENTION_QUERIES_F32 = 32;
    /// The keys, and the query rows, that the copy engine brings at once on a Hopper.
    int ATTENTION_KEYS = 64;
    /// The pairs of warpgroups of a block on a Hopper, each with a tile of its own.
    int ATTENTION_PAIRS = 2;
    /// The threads of a block on a Hopper: the pairs, and a warpgroup that keeps the copy engine
    /// busy.
    int ATTENTION_HOPPER_THREADS = (1 + 2 * ATTENTION_PAIRS) * 128;
    /// The shared memory of a block on a Hopper.
    int ATTENTION_SHARED_BYTES = 200 * 1024;

    // Products on a Hopper.
    /// The only head_dim of the kernels for a Hopper, and what outputs are a multiple of.
    int HOPPER_HEAD_DIM = 64;
    /// The bytes of a row that the copy engine brings at once: as many as its swizzle spans.
    int BOX_BYTES = 128;
    /// The rows of a block's tile.
    int TILE_ROWS = 128;
    /// The outputs of a wide tile. Its part of a row's moments are one pair of sums.
    int WIDE_TILE_OUTPUTS = 256;
    /// The outputs of a narrow tile.
    int NARROW_TILE_OUTPUTS = 192;
    /// The blocks of a cluster, which share the weights of a tile.
    int TILE_CLUSTER = 2;
    /// The threads of a block: two warpgroups that multiply, and one that keeps the copy engine
    /// busy.
    int TILE_THREADS = 3 * 128;
    /// The shared memory of a block: all that it can have but 1 KiB.
    int TILE_SHARED_BYTES = 226 * 1024;
    /// The fewest inputs, in 16 bits, that are multiplied for each output of a tile, since its
    /// parts are finished while the next is multiplied. What a row lacks is zeros.
    int TILE_LEAST_INPUTS_PER_OUTPUT = 4;
    /// What is added to GELU so that none is negative: more than the least it can be.
    float GELU_SHIFT = 0.17;
}

/// The head_dims that the generic attention is compiled for.
pub(crate) const GPU_HEAD_DIMS: [usize; 5] = [16, 24, 32, 64, 128];

/// How a struct that kernels take by value lies in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// The name, in Rust and in C++.
    pub(crate) name: &'static str,
    /// The size, in bytes.
    pub(crate) bytes: usize,
    /// The alignment, in bytes.
    pub(crate) align: usize,
    /// Each field's name and its distance from the struct's beginning, in bytes.
    pub(crate) fields: &'static [(&'static str, usize)],
}

/// Declares layouts for Rust, and lists them for C++.
macro_rules! layouts {
    ($($constant:ident: $name:ident($bytes:literal, $align:literal) {
        $($field:ident: $offset:literal),*
    })*) => {
        $(pub(crate) const $constant: Layout = Layout {
            name: stringify!($name),
            bytes: $bytes,
            align: $align,
            fields: &[$((stringify!($field), $offset)),*],
        };)*

        /// All of these.
        pub(crate) const LAYOUTS: &[Layout] = &[$($constant),*];
    };
}

// A struct of nothing has a byte in C++.
layouts! {
    QUERY_TILE: QueryTile(8, 4) { sequence: 0, first_query: 4 }
    BIAS: Bias(8, 8) { bias: 0 }
    NORMALISED: Normalised(32, 8) { bias: 0, moments: 8, parts: 16, inverse_width: 20, eps: 24 }
    SCALES: Scales(24, 8) { rows: 0, outputs: 8, bias: 16 }
    GELU: Gelu(1, 1) {}
    NOTHING: Nothing(1, 1) {}
    SWIGLU: Swiglu(1, 1) {}
    POSITIVE_GELU: PositiveGelu(8, 8) { factors: 0 }
    RESIDUAL: Residual(8, 8) { residual: 0 }
    RESIDUAL_MOMENTS: ResidualMoments(16, 8) { residual: 0, moments: 8 }
    ROTARY: Rotary(24, 8) { rotary: 0, positions: 8, table_positions: 16 }
}
