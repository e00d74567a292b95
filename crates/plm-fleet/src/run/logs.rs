//! One log for each rank, for people, and metrics for programs.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use plm_coordinator::{Observer, RunEvent};
use plm_core::{Rank, WorldSize};

use crate::Error;

/// Writes events to `rank_NNNNN.log` and `metrics.jsonl`, and passes them on.
///
/// A log that can't be written does not fail a run. The first such error is reported as an event.
pub(super) struct Logs {
    started: Instant,
    ranks: Vec<Mutex<BufWriter<File>>>,
    metrics: Mutex<BufWriter<File>>,
    next: Arc<dyn Observer>,
}

impl Logs {
    pub(super) fn create(
        directory: &Path,
        world: WorldSize,
        next: Arc<dyn Observer>,
    ) -> Result<Self, Error> {
        fs::create_dir_all(directory).map_err(Error::io(directory))?;
        let open = |name: &str| {
            let path = directory.join(name);
            // A resumed run appends, so the log of what led to a crash stays.
            File::options()
                .create(true)
                .read(true)
                .append(true)
                .open(&path)
                .and_then(end_line)
                .map(|file| Mutex::new(BufWriter::new(file)))
                .map_err(Error::io(path))
        };
        Ok(Self {
            started: Instant::now(),
            ranks: world
                .ranks()
                .map(|rank| open(&format!("rank_{:05}.log", rank.0)))
                .collect::<Result<_, _>>()?,
            metrics: open("metrics.jsonl")?,
            next,
        })
    }

    fn log(&self, rank: Rank, text: &str, metric: serde_json::Value) -> io::Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        let line = |file: &Mutex<BufWriter<File>>, text: &str| {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            writeln!(file, "{text}")?;
            // People read the log while the run works, so nothing is buffered.
            file.flush()
        };
        if let Some(file) = self.ranks.get(rank.0 as usize) {
            line(file, &format!("{seconds:10.3} s  {text}"))?;
        }
        let mut metric = metric;
        metric["seconds"] = seconds.into();
        metric["rank"] = rank.0.into();
        line(&self.metrics, &metric.to_string())
    }

    fn record(&self, event: &RunEvent<'_>) -> io::Result<()> {
        match *event {
            RunEvent::RankLoaded { rank, seconds } => self.log(
                rank,
                &format!("loaded in {seconds:.3} s"),
                serde_json::json!({"event": "loaded", "load_seconds": seconds}),
            ),
            RunEvent::BatchTakenOver { rank, from, batch } => self.log(
                rank,
                &format!("takes over {batch} from {from}"),
                serde_json::json!({"event": "taken_over", "batch": batch.0, "from_rank": from.0}),
            ),
            RunEvent::BatchWritten {
                rank,
                batch,
                sequences,
                identical,
                tokens,
                encode_seconds,
                write_seconds,
            } => self.log(
                rank,
                &format!(
                    "{batch}: {sequences} sequences, {tokens} tokens, encoded in \
                     {encode_seconds:.3} s ({:.0} tokens/s), written in {write_seconds:.3} s",
                    tokens as f64 / encode_seconds.max(1e-9)
                ),
                serde_json::json!({
                    "event": "written", "batch": batch.0, "sequences": sequences,
                    "identical": identical, "tokens": tokens,
                    "encode_seconds": encode_seconds, "write_seconds": write_seconds,
                }),
            ),
            RunEvent::BatchDurable { rank, batch, .. } => self.log(
                rank,
                &format!("{batch} is durable"),
                serde_json::json!({"event": "durable", "batch": batch.0}),
            ),
            RunEvent::RowFailed { rank, row } => self.log(
                rank,
                &format!("{:?} ({}) failed: {}", row.id, row.row, row.reason),
                serde_json::json!({"event": "row_failed", "row": row.row.0, "id": row.id, "reason": row.reason}),
            ),
            RunEvent::InputWait {
                rank,
                row,
                id,
                path,
                reason,
            } => self.log(
                rank,
                &format!("waits for {id:?} ({row}), which can't be read: {reason}"),
                serde_json::json!({
                    "event": "input_wait", "row": row.0, "id": id,
                    "path": path.map(Path::to_string_lossy), "reason": reason,
                }),
            ),
            RunEvent::InputBack { rank, row, seconds } => self.log(
                rank,
                &format!("has read {row}, after {seconds:.3} s"),
                serde_json::json!({"event": "input_back", "row": row.0, "waited_seconds": seconds}),
            ),
            RunEvent::EncoderReloaded { failure } => self.log(
                failure.rank,
                &format!("{failure}; its encoder was loaded anew"),
                serde_json::json!({"event": "encoder_reloaded", "message": failure.message}),
            ),
            RunEvent::RankFailed { failure } => self.log(
                failure.rank,
                &failure.to_string(),
                serde_json::json!({"event": "rank_failed", "stage": failure.stage, "kind": failure.kind, "message": failure.message}),
            ),
            // A newer coordinator may have events that this log has no words for.
            _ => Ok(()),
        }
    }
}

/// Ends the last line of a log, of which a killed run may have left half.
fn end_line(mut file: File) -> io::Result<File> {
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

impl Observer for Logs {
    fn event(&self, event: &RunEvent<'_>) {
        if let Err(error) = self.record(event) {
            tracing::warn!(%error, "the logs of this run are incomplete");
        }
        self.next.event(event);
    }
}
