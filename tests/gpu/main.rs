//! What must be true on GPUs: the goldens, that a sequence's bits are its own, and whole runs on
//! one and two.
//!
//! Each test says how many GPUs it needs, and is ignored where there are fewer, or where it is of
//! int8 and the GPU is no Hopper. `PLM_FLEET_REQUIRE_GPUS=2` makes it fail there instead, for
//! machines that should have two Hoppers. Built with the feature `cuda`:
//!
//!     crates/plm-kernels/cuda-build.sh test --release --workspace --test gpu
#![expect(
    clippy::print_stdout,
    reason = "what was measured is told, also where it is within bounds"
)]

mod esmc;
mod formats;
mod killed;
mod outputs;
mod overflow;
#[path = "../reference/mod.rs"]
mod reference;
mod runs;
mod sticky;
mod utilisation;

use std::env;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use plm_esm2::{GpuError, count_gpus, describe_gpu};

const REQUIRE: &str = "PLM_FLEET_REQUIRE_GPUS";

/// How many GPUs there are to be.
fn required() -> u32 {
    match env::var(REQUIRE).map(|count| count.parse::<u32>()) {
        Ok(Ok(count)) => count,
        Ok(Err(_)) => panic!("{REQUIRE} is a number of GPUs"),
        Err(_) => 0,
    }
}

fn check_int8() -> Result<(), GpuError> {
    describe_gpu(0)?.check_int8()
}

/// Whether there are kernels for int8. Where GPUs are required, none is a failure.
fn has_int8() -> bool {
    match check_int8() {
        Ok(()) => true,
        Err(error) => {
            assert!(required() == 0, "{REQUIRE} is set, and {error}");
            false
        }
    }
}

fn main() -> ExitCode {
    if let Some(out) = env::var_os(sticky::BREAK) {
        sticky::run_and_break(out.as_ref());
        return ExitCode::SUCCESS;
    }
    if let Some(out) = env::var_os(sticky::POISON) {
        sticky::run_with_poison(out.as_ref());
        return ExitCode::SUCCESS;
    }
    if let Some(out) = env::var_os(killed::RUN) {
        killed::run(out.as_ref());
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // One at a time: they share the GPUs' memory, and some look at the clock.
    arguments.test_threads = Some(1);
    let present = count_gpus().unwrap_or(0);
    let required = required();
    let trial = |needed: u32, name: &str, test: fn()| {
        Trial::test(name, move || {
            if present < needed {
                return Err(format!("needs {needed} GPUs, and there are {present}").into());
            }
            test();
            Ok(())
        })
        .with_kind(format!("{needed} GPU"))
        .with_ignored_flag(present < needed && required < needed)
    };
    // Only Hoppers have these.
    let is_hopper = check_int8().is_ok();
    let int8_trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            check_int8().map_err(|error| format!("needs a Hopper: {error}"))?;
            test();
            Ok(())
        })
        .with_kind("1 GPU")
        .with_ignored_flag(!is_hopper && required == 0)
    };
    let trials = vec![
        trial(
            1,
            "f32_meets_the_reference",
            formats::f32_meets_the_reference,
        ),
        trial(
            1,
            "f16_stays_close_to_the_reference",
            formats::f16_stays_close_to_the_reference,
        ),
        trial(
            1,
            "bf16_stays_close_to_the_reference",
            formats::bf16_stays_close_to_the_reference,
        ),
        int8_trial(
            "int8_stays_close_to_the_reference",
            formats::int8_stays_close_to_the_reference,
        ),
        int8_trial(
            "int8_stays_close_to_f32_in_large_models",
            formats::int8_stays_close_to_f32_in_large_models,
        ),
        int8_trial(
            "int8_has_no_layer_but_the_last",
            formats::int8_has_no_layer_but_the_last,
        ),
        trial(
            1,
            "a_masked_token_is_its_sequences_own",
            formats::a_masked_token_is_its_sequences_own,
        ),
        trial(
            1,
            "all_outputs_stay_close_to_the_reference",
            formats::all_outputs_stay_close_to_the_reference,
        ),
        trial(
            1,
            "rows_too_coarse_in_16_bits_take_f32",
            formats::rows_too_coarse_in_16_bits_take_f32,
        ),
        trial(
            1,
            "all_outputs_stay_close_to_f32",
            formats::all_outputs_stay_close_to_f32,
        ),
        trial(
            1,
            "a_model_of_few_positions_loads_and_refuses_longer_sequences",
            formats::a_model_of_few_positions_loads_and_refuses_longer_sequences,
        ),
        trial(
            1,
            "what_f16_cannot_hold_is_computed_in_f32",
            formats::what_f16_cannot_hold_is_computed_in_f32,
        ),
        trial(
            1,
            "esmc_in_f32_meets_the_reference",
            esmc::esmc_in_f32_meets_the_reference,
        ),
        trial(
            1,
            "esmc_in_16_bits_stays_close_to_the_reference",
            esmc::esmc_in_16_bits_stays_close_to_the_reference,
        ),
        trial(
            1,
            "esmc_stays_close_to_f32_in_large_models",
            esmc::esmc_stays_close_to_f32_in_large_models,
        ),
        trial(
            1,
            "all_esmc_outputs_stay_close_to_the_reference",
            esmc::all_esmc_outputs_stay_close_to_the_reference,
        ),
        trial(
            1,
            "an_esmc_sequences_bits_are_its_own",
            esmc::an_esmc_sequences_bits_are_its_own,
        ),
        trial(
            1,
            "short_sequences_take_f32",
            formats::short_sequences_take_f32,
        ),
        trial(
            1,
            "a_sequences_bits_are_its_own",
            formats::a_sequences_bits_are_its_own,
        ),
        trial(
            1,
            "a_batch_without_room_is_halved",
            formats::a_batch_without_room_is_halved,
        ),
        trial(
            1,
            "a_gpu_without_room_is_refused",
            formats::a_gpu_without_room_is_refused,
        ),
        trial(
            1,
            "a_gpu_without_room_to_measure_is_refused",
            formats::a_gpu_without_room_to_measure_is_refused,
        ),
        trial(
            1,
            "a_gpu_that_is_not_there_is_refused_at_once",
            runs::a_gpu_that_is_not_there_is_refused_at_once,
        ),
        trial(
            1,
            "one_gpu_runs_from_fasta_to_file",
            runs::one_gpu_runs_from_fasta_to_file,
        ),
        trial(
            1,
            "every_way_out_gives_the_same_bits",
            outputs::every_way_out_gives_the_same_bits,
        ),
        trial(
            1,
            "what_took_f32_is_in_the_ledger",
            runs::what_took_f32_is_in_the_ledger,
        ),
        trial(
            1,
            "rows_that_took_f32_are_in_the_ledger",
            runs::rows_that_took_f32_are_in_the_ledger,
        ),
        trial(
            2,
            "fewer_sequences_than_gpus",
            runs::fewer_sequences_than_gpus,
        ),
        trial(2, "the_second_gpu_alone", runs::the_second_gpu_alone),
        trial(2, "two_gpus_equal_one_650m", runs::two_gpus_equal_one_650m),
        trial(2, "two_gpus_equal_one_3b", runs::two_gpus_equal_one_3b),
        trial(
            2,
            "the_other_gpu_does_what_a_failed_one_leaves",
            runs::the_other_gpu_does_what_a_failed_one_leaves,
        ),
        trial(4, "four_gpus_equal_one_3b", runs::four_gpus_equal_one_3b),
        trial(
            4,
            "three_gpus_do_what_a_failed_one_leaves",
            runs::three_gpus_do_what_a_failed_one_leaves,
        ),
        trial(
            4,
            "two_gpus_do_what_two_failed_ones_leave",
            runs::two_gpus_do_what_two_failed_ones_leave,
        ),
        trial(
            2,
            "a_run_that_a_sticky_error_ended_goes_on",
            sticky::a_run_that_a_sticky_error_ended_goes_on,
        ),
        trial(
            1,
            "a_sequence_that_breaks_gpus_fails_alone",
            sticky::a_sequence_that_breaks_gpus_fails_alone,
        ),
        trial(
            2,
            "a_killed_run_ends_with_the_bytes_of_an_unbroken_one",
            killed::a_killed_run_ends_with_the_bytes_of_an_unbroken_one,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}
