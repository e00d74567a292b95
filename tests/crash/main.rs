//! Proves by crashing that a run loses and mixes up nothing: if it is killed, loses power, has a
//! full disk, or meets another process.
//!
//! Each test starts this program again as the subject. The subject calls `run_multi_gpu_inference`
//! on a few short proteins. `points.c` and `reads.c` are loaded into it, so it can be broken at
//! each operation on a file. `reference.rs` says what every run must give, and `scene.rs` what must
//! be true at any time. `PLM_FLEET_RELIABILITY=full` tries every operation in every manner, which
//! takes long; docs/reliability.md has the figures.
#![expect(clippy::print_stdout, reason = "how much was tried is told")]

mod changed_inputs;
mod damage;
mod disk;
mod effort;
mod failing_disks;
mod kills;
mod mounts;
mod outputs;
mod points;
mod power_cuts;
mod reference;
mod scene;
mod subject;
mod two_runs;
mod unreadable_inputs;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use crate::effort::Effort;
use crate::outputs::Outputs;

fn main() -> ExitCode {
    if let Some(ended) = subject::run_if_asked() {
        return ended;
    }
    let arguments = Arguments::from_args();
    let effort = Effort::asked_for();
    let trial = |name: &str, test: fn(Effort)| {
        let test = move || Outputs::Mean.run(|| test(effort));
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let with_residues = |name: &str, test: fn(Effort)| {
        let test = move || Outputs::Residues.run(|| test(effort));
        Trial::test(name, move || {
            test();
            Ok(())
        })
        .with_kind("residues")
    };
    let with_files = |name: &str, test: fn(Effort)| {
        let test = move || Outputs::Files.run(|| test(effort));
        Trial::test(name, move || {
            test();
            Ok(())
        })
        .with_kind("files")
    };
    let mounts_are_possible = mounts::are_possible();
    let mounting = |name: &'static str, outputs: Outputs, test: fn(Effort)| {
        Trial::test(name, move || {
            if !mounts_are_possible {
                return Err("needs the right to mount a tmpfs".into());
            }
            mounts::alone(name, || outputs.run(|| test(effort)));
            Ok(())
        })
        .with_kind("mounts a tmpfs")
        .with_ignored_flag(!mounts_are_possible)
    };
    let trials = vec![
        trial(
            "a_run_killed_at_any_operation_finishes_with_the_same_bytes",
            kills::killed_at_any_operation,
        ),
        with_residues(
            "a_run_killed_at_any_operation_finishes_with_the_same_bytes_with_residues",
            kills::killed_at_any_operation,
        ),
        with_files(
            "a_run_killed_at_any_operation_finishes_with_the_same_bytes_with_files",
            kills::killed_at_any_operation,
        ),
        trial(
            "a_run_killed_at_any_moment_finishes_with_the_same_bytes",
            kills::killed_at_any_moment,
        ),
        with_residues(
            "a_run_killed_at_any_moment_finishes_with_the_same_bytes_with_residues",
            kills::killed_at_any_moment,
        ),
        with_files(
            "a_run_killed_at_any_moment_finishes_with_the_same_bytes_with_files",
            kills::killed_at_any_moment,
        ),
        trial(
            "parts_killed_at_any_operation_merge_into_the_same_bytes",
            kills::killed_parts,
        ),
        with_residues(
            "parts_killed_at_any_operation_merge_into_the_same_bytes_with_residues",
            kills::killed_parts,
        ),
        with_files(
            "parts_killed_at_any_operation_merge_into_the_same_bytes_with_files",
            kills::killed_parts,
        ),
        trial(
            "damaged_segments_are_made_again",
            kills::damaged_segments_are_made_again,
        ),
        with_residues(
            "damaged_segments_are_made_again_with_residues",
            kills::damaged_segments_are_made_again,
        ),
        with_files(
            "damaged_segments_are_made_again_with_files",
            kills::damaged_segments_are_made_again,
        ),
        trial(
            "the_simulated_disk_is_the_real_one_until_its_power_is_cut",
            power_cuts::the_disk_is_known,
        ),
        with_residues(
            "the_simulated_disk_is_the_real_one_until_its_power_is_cut_with_residues",
            power_cuts::the_disk_is_known,
        ),
        trial(
            "a_run_whose_power_is_cut_finishes_with_the_same_bytes",
            power_cuts::power_is_cut_at_any_operation,
        ),
        with_residues(
            "a_run_whose_power_is_cut_finishes_with_the_same_bytes_with_residues",
            power_cuts::power_is_cut_at_any_operation,
        ),
        with_files(
            "a_run_whose_power_is_cut_finishes_with_the_same_bytes_with_files",
            power_cuts::power_is_cut_at_any_operation,
        ),
        trial(
            "a_finished_run_outlives_a_power_cut",
            power_cuts::power_is_cut_after_the_end,
        ),
        with_residues(
            "a_finished_run_outlives_a_power_cut_with_residues",
            power_cuts::power_is_cut_after_the_end,
        ),
        trial(
            "a_file_operation_that_fails_is_an_ordinary_error",
            failing_disks::operations_that_fail,
        ),
        with_residues(
            "a_file_operation_that_fails_is_an_ordinary_error_with_residues",
            failing_disks::operations_that_fail,
        ),
        with_files(
            "a_file_operation_that_fails_is_an_ordinary_error_with_files",
            failing_disks::operations_that_fail,
        ),
        trial(
            "a_file_system_that_cannot_sync_is_taken_as_it_is",
            failing_disks::a_file_system_without_syncs,
        ),
        with_residues(
            "a_file_system_that_cannot_sync_is_taken_as_it_is_with_residues",
            failing_disks::a_file_system_without_syncs,
        ),
        mounting(
            "a_file_system_of_any_size_is_enough_or_an_ordinary_error",
            Outputs::Mean,
            failing_disks::file_systems_of_any_size,
        ),
        mounting(
            "a_file_system_of_any_size_is_enough_or_an_ordinary_error_with_residues",
            Outputs::Residues,
            failing_disks::file_systems_of_any_size,
        ),
        mounting(
            "a_file_system_of_any_size_is_enough_or_an_ordinary_error_with_files",
            Outputs::Files,
            failing_disks::file_systems_of_any_size,
        ),
        mounting(
            "a_file_system_that_is_too_small_is_told_of_before_anything_is_computed",
            Outputs::Mean,
            failing_disks::a_file_system_that_is_too_small,
        ),
        mounting(
            "a_file_system_that_is_too_small_is_told_of_before_anything_is_computed_with_residues",
            Outputs::Residues,
            failing_disks::a_file_system_that_is_too_small,
        ),
        mounting(
            "a_restart_without_room_is_refused_and_deletes_nothing",
            Outputs::Mean,
            failing_disks::a_restart_without_room,
        ),
        mounting(
            "a_restart_without_room_is_refused_and_deletes_nothing_with_residues",
            Outputs::Residues,
            failing_disks::a_restart_without_room,
        ),
        mounting(
            "a_read_only_file_system_is_an_ordinary_error",
            Outputs::Mean,
            failing_disks::a_file_system_that_is_read_only,
        ),
        trial(
            "a_directory_without_permission_is_an_ordinary_error",
            failing_disks::a_directory_without_permission,
        ),
        trial(
            "a_second_run_is_refused_and_told_who_is_there",
            two_runs::the_second_is_refused_and_the_first_finishes,
        ),
        trial(
            "a_killed_run_holds_no_lock",
            two_runs::a_killed_holder_holds_nothing,
        ),
        trial("two_parts_work_at_once", two_runs::two_parts_work_at_once),
        trial(
            "two_runs_that_start_at_once_are_one_after_the_other_or_refused",
            two_runs::two_start_at_the_same_instant,
        ),
        trial(
            "an_input_changed_between_tries_is_refused",
            changed_inputs::between_two_tries,
        ),
        trial(
            "an_input_changed_while_it_is_read_ends_the_run_or_comes_back",
            unreadable_inputs::inputs_that_change_under_a_run,
        ),
        trial(
            "an_input_that_cannot_be_read_any_more_fails_no_record",
            unreadable_inputs::reads_that_fail_for_good,
        ),
        trial(
            "an_input_that_cannot_be_read_for_a_while_is_waited_for",
            unreadable_inputs::reads_that_fail_for_a_while,
        ),
        trial(
            "an_unpacked_input_that_vanishes_is_unpacked_again",
            unreadable_inputs::unpacked_texts_that_vanish,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn tell(what: &str) {
    println!("{what}");
}
