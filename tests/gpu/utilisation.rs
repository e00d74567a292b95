//! Measures how busy GPUs are, by NVML.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nvml_wrapper::Nvml;
use plm_esm2::describe_gpu;

/// Samples GPUs ten times a second, until it is asked for the result.
pub(crate) struct Utilisation {
    done: Arc<AtomicBool>,
    sampler: JoinHandle<Vec<Vec<u32>>>,
}

impl Utilisation {
    /// Samples the GPUs of these CUDA ordinals. NVML numbers GPUs differently if
    /// `CUDA_VISIBLE_DEVICES` is set, so GPUs are matched by their identity.
    pub(crate) fn of(ordinals: &[u32]) -> Self {
        let uuids: Vec<String> = ordinals
            .iter()
            .map(|&ordinal| describe_gpu(ordinal).expect("it was counted").uuid)
            .collect();
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let sampler = thread::spawn(move || {
            let nvml = Nvml::init().expect("the driver comes with NVML");
            let mut samples = vec![Vec::new(); uuids.len()];
            while !is_done.load(Ordering::Relaxed) {
                for (uuid, samples) in uuids.iter().zip(&mut samples) {
                    let device = nvml.device_by_uuid(uuid.as_str()).expect("CUDA has it too");
                    samples.push(device.utilization_rates().expect("it is counted").gpu);
                }
                thread::sleep(Duration::from_millis(100));
            }
            samples
        });
        Self { done, sampler }
    }

    /// The mean of each GPU's samples in percent, from the first to the last sample in which all
    /// were busy. This leaves out loading weights and merging files.
    pub(crate) fn percent(self) -> Vec<f64> {
        self.done.store(true, Ordering::Relaxed);
        let samples = self.sampler.join().expect("the sampler does not panic");
        let all_busy = |&at: &usize| samples.iter().all(|of_gpu| of_gpu[at] >= 50);
        let count = samples.first().map_or(0, Vec::len);
        let (Some(first), Some(last)) =
            ((0..count).find(all_busy), (0..count).rev().find(all_busy))
        else {
            return vec![0.0; samples.len()];
        };
        let mean = |of_gpu: &Vec<u32>| {
            let busy = &of_gpu[first..=last];
            f64::from(busy.iter().sum::<u32>()) / busy.len() as f64
        };
        samples.iter().map(mean).collect()
    }
}
