//! The text on standard output when a command is done.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use plm_fleet::{
    Checked, EmbeddingsFile, ExportReport, FastaIndex, Findings, GapPolicy, OutputKind, OutputSpec,
    Per, RecordCounts, RunReport, Tally, VerifyReport,
};

use crate::args::{ExportArgs, VerifyArgs};
use crate::voice::first_few;
use crate::words::{bytes, count, duration, number};

/// The note of an `embed` with plm-tiny.
pub(crate) const DEMONSTRATION_MODEL: &str = "note: no --model was given, so this uses plm-tiny, \
    a small demonstration model; its embeddings are for trying things out, not for science";

/// The summary of a finished run or part. A part has no `outputs` yet: its result is not made.
pub(crate) fn run(report: &RunReport, outputs: &[OutputSpec], out: &Path) -> String {
    let mut text = String::new();
    let seconds = &report.seconds;
    // Writing to a String does not fail.
    let _ = match &report.embeddings_path {
        Some(path) => writeln!(
            text,
            "{} embedded with {} in {}\n  embeddings  {}",
            count(report.sequences(), "protein"),
            report.model,
            duration(seconds.total),
            path.display()
        ),
        None => {
            let part = &report.parts[0];
            writeln!(
                text,
                "part {} of {} is done in {}: {} embedded with {}\n  next        once all parts \
                 are done: plm-fleet aggregate {}",
                part.number,
                part.count,
                duration(seconds.total),
                count(
                    part.ranks
                        .workers
                        .iter()
                        .map(|worker| worker.sequences)
                        .sum(),
                    "protein"
                ),
                report.model,
                out.display()
            )
        }
    };
    add_outputs(&mut text, outputs);
    add_size(&mut text, report, outputs);
    let _ = write!(text, "  records     {}", outcomes(&report.records));
    add_findings(&mut text, &report.findings, None);
    text.push('\n');
    // The ledger has all records, so it is written when all parts are done.
    let ledger = report
        .embeddings_path
        .is_some()
        .then(|| out.join("ledger.tsv"));
    if let Some(ledger) = &ledger {
        let _ = writeln!(text, "  ledger      {}", ledger.display());
    }
    if report.identical() > 0 {
        let _ = writeln!(
            text,
            "  identical   {} had the residues of another and took its values",
            count(report.identical(), "protein")
        );
    }
    let _ = writeln!(
        text,
        "  speed       {} tokens at {} tokens/s",
        number(report.tokens()),
        number(report.tokens_per_second() as u64)
    );
    for part in &report.parts {
        let label = if part.count == 1 {
            "ranks     ".to_owned()
        } else {
            format!("part {:<5}", format!("{}/{}", part.number, part.count))
        };
        let _ = writeln!(
            text,
            "  {label}  {} on {}, tokens per rank within {:.1}% of the mean",
            part.ranks.workers.len(),
            part.devices,
            part.ranks.balance().max_deviation_percent()
        );
    }
    let _ = write!(
        text,
        "  time        index {}, model and plan {}, ranks {}, merge and verify {}",
        duration(seconds.index),
        duration(seconds.plan),
        duration(seconds.ranks),
        duration(seconds.aggregate)
    );
    let reloaded: Vec<_> = report
        .workers()
        .filter(|worker| worker.reloads > 0)
        .collect();
    text += &first_few(&reloaded, |worker| {
        let times = match worker.reloads {
            1 => "once".to_owned(),
            times => format!("{times} times"),
        };
        format!(
            "warning: the encoder of {} failed and was reloaded {times}",
            worker.rank
        )
    });
    let damaged: Vec<_> = (report.parts.iter())
        .flat_map(|part| &part.damaged_segments)
        .collect();
    text += &first_few(&damaged, |damaged| {
        format!(
            "warning: a segment was damaged and computed again: {} ({})",
            damaged.path.display(),
            damaged.reason
        )
    });
    text += &first_few(&report.failed_ranks, |failure| {
        format!("warning: {failure}; the other ranks did its work")
    });
    text += &first_few(&report.changed_inputs, |input| {
        format!(
            "warning: {input} was written to during the run: what was added is not in the result"
        )
    });
    if report.records.failed > 0 {
        let _ = write!(
            text,
            "\nwarning: {} failed",
            count(report.records.failed, "record")
        );
        let _ = match &ledger {
            Some(ledger) => write!(text, "; {} says which and why", ledger.display()),
            None => write!(
                text,
                "; the logs in {} say which and why:{}",
                out.join("logs").display(),
                first_few(&report.failed_rows, |failed| format!(
                    "  {:?}: {}",
                    failed.id, failed.reason
                ))
            ),
        };
    }
    text
}

/// The summary of an index, whose own path is `path`.
pub(crate) fn index(index: &FastaIndex, path: &Path) -> String {
    let skipped = index
        .records()
        .filter(|record| record.skipped.is_some())
        .count() as u64;
    let kept = || index.records().filter(|record| record.skipped.is_none());
    let residues: u64 = kept().map(|record| u64::from(record.residue_count)).sum();
    let longest = kept().map(|record| record.residue_count).max().unwrap_or(0);
    let findings = index.findings();
    let mut text = format!(
        "{} in {} indexed\n  index       {}\n  residues    {}, the longest record has {}\n  \
         replaced    {} by X\n  left out    {}",
        count(index.len(), "record"),
        count(index.inputs().len() as u64, "file"),
        path.display(),
        number(residues),
        number(longest.into()),
        count(findings.substituted.letters, "letter"),
        count(skipped, "record"),
    );
    add_findings(&mut text, &findings, Some(index.config().on_gap));
    for input in index.changed_inputs() {
        // Writing to a String does not fail.
        let _ = write!(text, "\n  written to  {}, while it was indexed", input.name);
    }
    text
}

/// Adds the line that names the outputs, unless the only one is a mean, as by default.
fn add_outputs(text: &mut String, outputs: &[OutputSpec]) {
    if let []
    | [
        OutputSpec {
            kind: OutputKind::Mean,
            ..
        },
    ] = outputs
    {
        return;
    }
    let names: Vec<String> = outputs.iter().map(OutputSpec::name).collect();
    // Writing to a String does not fail.
    let _ = writeln!(text, "  outputs     {}", names.join(", "));
}

/// Adds a line for each kind of finding that occurs. `on_gap` is `None` where the policy for gaps
/// is not known.
fn add_findings(text: &mut String, findings: &Findings, on_gap: Option<GapPolicy>) {
    let gaps = match on_gap {
        Some(GapPolicy::Keep) => ", kept",
        Some(GapPolicy::Drop) => ", dropped",
        None => "",
    };
    for (label, tally, thing, what) in [
        ("dropped", findings.dropped, "character", ""),
        ("gaps", findings.gaps, "gap", gaps),
        (
            "insertions",
            findings.insertions,
            "insertion",
            ", upper-cased",
        ),
    ] {
        let Tally { letters, records } = tally;
        if letters > 0 {
            let letters = count(letters, thing);
            let _ = write!(
                text,
                "\n  {label:<10}  {letters}{what}, in {}",
                count(records, "record")
            );
        }
    }
    if findings.nucleotide_records > 0 {
        let records = count(findings.nucleotide_records, "record");
        let _ = write!(
            text,
            "\n  {:<10}  {records} of nucleotides, it seems",
            "DNA or RNA"
        );
    }
}

/// The summary of `verify`.
pub(crate) fn verified(report: &VerifyReport, args: &VerifyArgs) -> String {
    let (out, rows) = (args.out().display(), report.rows);
    let mut text = match report.outputs[0].per() {
        Per::Sequence => format!(
            "{out} is whole: {} vectors of {} read and checked\n",
            number(rows),
            report.hidden_size,
        ),
        Per::Residue | Per::Pair => {
            format!(
                "{out} is whole: all values of {} read and checked\n",
                count(rows, "protein")
            )
        }
    };
    add_outputs(&mut text, &report.outputs);
    // Writing to a String does not fail.
    let _ = write!(text, "  records     {}", outcomes(&report.records));
    if !args.against.is_empty() {
        let _ = write!(
            text,
            "\n  input       the same records, residue by residue, as in the {} given",
            count(args.against.len() as u64, "file")
        );
    }
    text
}

/// The summary of an export.
pub(crate) fn exported(report: &ExportReport, args: &ExportArgs) -> String {
    let names: Vec<String> = report.outputs.iter().map(OutputSpec::name).collect();
    let checked = match report.checked {
        Checked::Everything => "every byte of the result was as it was written".to_owned(),
        Checked::AllButVectors => format!(
            "all of the result but its vectors, which `plm-fleet verify {}` reads",
            args.out.display()
        ),
    };
    format!(
        "{} exported in {}\n  export      {}\n  outputs     {}\n  values      {}\n  checked     \
         {checked}",
        count(report.records, "protein"),
        duration(report.seconds),
        report.path.display(),
        names.join(", "),
        bytes(report.values_bytes),
    )
}

/// The outcomes that occur, each with its count.
fn outcomes(records: &RecordCounts) -> String {
    let words: Vec<String> = [
        (records.embedded, "embedded"),
        (records.truncated, "truncated"),
        (records.windowed, "windowed"),
        (records.skipped, "skipped"),
        (records.failed, "failed"),
    ]
    .into_iter()
    .filter(|(records, _)| *records > 0)
    .map(|(records, outcome)| format!("{} {outcome}", number(records)))
    .collect();
    words.join(", ")
}

/// Says how large the result is if it is large for its number of proteins, or several files.
fn add_size(text: &mut String, report: &RunReport, outputs: &[OutputSpec]) {
    let Some(path) = &report.embeddings_path else {
        return;
    };
    // A store of another name has files of its own.
    let others = EmbeddingsFile::open(path).map_or_else(|_| Vec::new(), |file| file.files());
    let all = others.iter().map(|(path, _)| path).chain([path]);
    let sizes = all.map(|path| fs::metadata(path).map_or(0, |file| file.len()));
    let size = bytes(sizes.sum());
    let is_wide = outputs.iter().any(|output| output.per() != Per::Sequence);
    let _ = match others.len() {
        0 if is_wide => writeln!(text, "  size        {size}"),
        0 => Ok(()),
        files => writeln!(
            text,
            "  size        {size} in {}",
            count(files as u64, "file")
        ),
    };
}
