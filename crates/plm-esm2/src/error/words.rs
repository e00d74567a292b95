//! Parts of sentences that errors are.

use plm_kernels::GpuDescription;

pub(super) fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    words.join(" and ")
}

/// The error itself, on one line also where `RUST_BACKTRACE` is set.
pub(super) fn without_backtrace(error: &candle_core::Error) -> &candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(inner),
        error => error,
    }
}

pub(super) fn advice(error: &candle_core::Error) -> &'static str {
    match without_backtrace(error) {
        candle_core::Error::Cuda(_) => {
            "; after such an error CUDA may be of no use in this process: run again to go on"
        }
        _ => "",
    }
}

/// GPUs by their kinds, each kind with its GPUs.
pub(super) fn by_kind(gpus: &[GpuDescription]) -> String {
    let mut kinds = Vec::new();
    for gpu in gpus {
        if !kinds.contains(&gpu.kind) {
            kinds.push(gpu.kind);
        }
    }
    let of_kind = |kind| -> String {
        let names: Vec<String> = (gpus.iter().filter(|gpu| gpu.kind == kind))
            .map(|gpu| format!("cuda:{} ({})", gpu.ordinal, gpu.name))
            .collect();
        let is = if names.len() == 1 { "is" } else { "are" };
        format!("{} {is} {kind}", names.join(" and "))
    };
    let kinds: Vec<String> = kinds.into_iter().map(of_kind).collect();
    kinds.join("; ")
}

pub(super) fn and_a_sequence(tokens: usize) -> String {
    match tokens {
        0 => String::new(),
        tokens => format!(" and a sequence of {tokens} tokens"),
    }
}
