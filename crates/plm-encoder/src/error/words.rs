//! Parts of the errors' sentences.

use plm_kernels::GpuDescription;

/// `"a" and "b"`.
pub(super) fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    words.join(" and ")
}

/// candle's own error, without the backtrace that `RUST_BACKTRACE` wraps around it.
pub(super) fn without_backtrace(error: &candle_core::Error) -> &candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(inner),
        error => error,
    }
}

/// What to do about an error of candle, as the end of its sentence; empty if there is nothing.
pub(super) fn advice(error: &candle_core::Error) -> &'static str {
    match without_backtrace(error) {
        candle_core::Error::Cuda(_) => {
            "; CUDA may not work in this process after such an error: run again to resume"
        }
        _ => "",
    }
}

/// The GPUs of each kind, and the kind.
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

/// The longest sequence, as a part of the sentence; empty for 0 tokens.
pub(super) fn and_a_sequence(tokens: usize) -> String {
    match tokens {
        0 => String::new(),
        tokens => format!(" and a sequence of {tokens} tokens"),
    }
}

/// Why f32 is needed for an output whose rows in another format have this cosine to f32, or to
/// measure that.
pub(super) fn why_f32(cosine: Option<f64>) -> String {
    match cosine {
        None => "is compared with f32 before it is computed".to_owned(),
        Some(cosine) => {
            format!("has rows with a cosine of {cosine:.6} to f32 and is computed in f32 instead")
        }
    }
}
