//! Loads the model that a rank computes with on its GPU, in the format that was asked for or in
//! f32. `measure` says which.

use plm_core::policies::LowestCosine;
use plm_core::{Dtype, EncodedBatch};
use plm_kernels::Gpu;

use super::measure::{Measured, choose, proteins};
use super::room::check_room;
use crate::ranks::Job;
use crate::{Error, Model};

/// The model of `job` on `gpu`, and the number format that it computes in: that of the job, or f32
/// where that is too coarse for the job's outputs.
///
/// Nothing is loaded that there is no room for: with the job's longest sequence if it is the model
/// to compute with, or else with the proteins to measure.
pub(super) fn load(gpu: &Gpu, job: &Job<'_>) -> Result<(Model, Dtype), Error> {
    let Job {
        checkpoint, dtype, ..
    } = *job;
    let measured = Measured::of(checkpoint, dtype);
    let to_compute = |dtype| {
        check_room(checkpoint, gpu, dtype, job.specs, job.longest_tokens)?;
        Model::on_gpu(checkpoint, dtype, gpu)
    };
    let max_tokens = checkpoint.max_sequence_tokens();
    let proteins = proteins(&checkpoint.tokens(), max_tokens, dtype);
    let outputs = measured.outputs(job.outputs);
    let Some(outputs) = outputs.filter(|_| proteins.num_sequences() > 0) else {
        return Ok((to_compute(dtype)?, dtype));
    };
    let specs = measured.specs(job.specs);
    let load = |format, too_coarse: Option<LowestCosine>| {
        // The model before it is gone, and its memory may still be this process's.
        gpu.release_memory()?;
        let loaded = match (format, too_coarse) {
            (Dtype::F32, None) => {
                check_room(checkpoint, gpu, format, &specs, proteins.total_tokens())
                    .and_then(|()| Model::on_gpu(checkpoint, format, gpu))
            }
            _ => to_compute(format),
        };
        let output = too_coarse.map_or(0, |lowest| lowest.output);
        loaded.map_err(|error| match format {
            Dtype::F32 => error.of_f32_for(
                dtype,
                &specs[output],
                too_coarse.map(|lowest| lowest.cosine),
            ),
            _ => error,
        })
    };
    if let Some(&known) = job.too_coarse.get() {
        let format = known.map_or(dtype, |_| Dtype::F32);
        return Ok((load(format, known)?, format));
    }
    let encode = |model: &Model| Ok(EncodedBatch::new(model.forward(&proteins, &outputs)?));
    let (model, too_coarse) = choose(dtype, &specs, load, encode)?;
    let is_first = job.too_coarse.set(too_coarse).is_ok();
    let Some(lowest) = too_coarse else {
        return Ok((model, dtype));
    };
    if is_first {
        let advice = match dtype {
            Dtype::Bf16 => "; f16 is as fast, and exact enough for most models",
            _ => "",
        };
        tracing::warn!(
            "{} of {} has rows with a cosine of {:.6} to f32 in {dtype}: everything is computed \
             in f32, which takes longer{advice}",
            specs[lowest.output].name(),
            checkpoint.name(),
            lowest.cosine,
        );
    }
    Ok((model, Dtype::F32))
}
