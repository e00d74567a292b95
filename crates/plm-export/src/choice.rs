//! Which outputs and records of a result are exported.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use plm_core::store::StoredResult;
use plm_core::{OutputKind, OutputSpec};

use crate::{Error, Format};

/// Which outputs and records of a result are exported. The default is all of them.
///
/// ```
/// use plm_core::OutputKind;
/// use plm_export::Choice;
///
/// // The means of layers 20 and 33, for the proteins that a file names.
/// let choice = Choice {
///     kinds: vec![OutputKind::Mean],
///     layers: vec![20, 33],
///     ids: Some("interesting.txt".into()),
/// };
/// assert_ne!(choice, Choice::default());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The kinds of the outputs. All kinds if there are none.
    pub kinds: Vec<OutputKind>,
    /// The layers of the outputs, from 0 (the embedding). All layers if there are none. Logits and
    /// contacts have no layer, so this leaves none of them out.
    pub layers: Vec<usize>,
    /// A text file with one id per line, in UTF-8. The export has these records in the order of the
    /// lines. Without it, it has all records in the order of the result. Empty lines, blanks around
    /// ids, line ends of Windows and a byte order mark do not count.
    pub ids: Option<PathBuf>,
}

/// How many ids are read at a time.
const CHUNK_RECORDS: u64 = 1 << 16;

impl Choice {
    /// The positions of the chosen outputs, in the order of the result.
    pub(crate) fn outputs(
        &self,
        outputs: &[OutputSpec],
        format: Format,
    ) -> Result<Vec<usize>, Error> {
        let has_kind =
            |output: &OutputSpec| self.kinds.is_empty() || self.kinds.contains(&output.kind);
        let has_layer = |output: &OutputSpec| {
            let any = self.layers.is_empty() || !output.kind.is_of_a_layer();
            any || self.layers.contains(&output.layer)
        };
        let positions = (0..outputs.len())
            .filter(|&position| has_kind(&outputs[position]) && has_layer(&outputs[position]));
        let positions: Vec<usize> = positions.collect();
        let chosen = || positions.iter().map(|&position| &outputs[position]);
        let missing = |asked: String| Error::NoSuchOutput {
            asked,
            available: names(outputs.iter()),
        };
        for &kind in &self.kinds {
            if !chosen().any(|output| output.kind == kind) {
                let of_layers = match kind.is_of_a_layer() && !self.layers.is_empty() {
                    true => " of such a layer",
                    false => "",
                };
                return Err(missing(format!("{kind}{of_layers}")));
            }
        }
        for &layer in &self.layers {
            if !chosen().any(|output| output.kind.is_of_a_layer() && output.layer == layer) {
                return Err(missing(format!("output of layer {layer}")));
            }
        }
        if format.holds_one_output() && positions.len() > 1 {
            let chosen = names(chosen());
            return Err(Error::OneOutput { format, chosen });
        }
        let per_record = plm_core::Per::Sequence;
        match chosen().find(|output| output.per() != per_record) {
            Some(output) if !format.holds_many_rows() => Err(Error::ManyRows {
                format,
                output: output.name(),
            }),
            _ => Ok(positions),
        }
    }

    /// The chosen records, in order. `None` stands for all records.
    pub(crate) fn records(&self, result: &dyn StoredResult) -> Result<Option<Vec<u64>>, Error> {
        let Some(path) = &self.ids else {
            return Ok(None);
        };
        let lines = read_ids(path)?;
        if lines.is_empty() {
            return Err(Error::NoIds { path: path.clone() });
        }
        let mut place_of = HashMap::with_capacity(lines.len());
        for (place, (line, id)) in lines.iter().enumerate() {
            if let Some(first) = place_of.insert(id.as_str(), place) {
                return Err(Error::RepeatedId {
                    path: path.clone(),
                    line: *line,
                    first_line: lines[first].0,
                    id: id.clone(),
                });
            }
        }
        let mut records: Vec<Option<u64>> = vec![None; lines.len()];
        let mut start = 0;
        while start < result.rows() {
            let end = result.rows().min(start + CHUNK_RECORDS);
            for (record, id) in (start..).zip(result.ids(start..end)?) {
                if let Some(&place) = place_of.get(id.as_str()) {
                    records[place] = Some(record);
                }
            }
            start = end;
        }
        let mut unknown = (lines.iter().zip(&records)).filter(|(_, record)| record.is_none());
        match unknown.next() {
            None => Ok(records.into_iter().collect()),
            Some(((line, id), _)) => Err(Error::UnknownId {
                path: path.clone(),
                line: *line,
                id: id.clone(),
                outcome: None,
                others: unknown.count() as u64,
            }),
        }
    }
}

/// The names of outputs, with commas between them.
fn names<'a>(outputs: impl Iterator<Item = &'a OutputSpec>) -> String {
    let names: Vec<String> = outputs.map(OutputSpec::name).collect();
    names.join(", ")
}

/// The ids in a text, one per line, each with the number of its line. Lines may end as on Windows,
/// a byte order mark may come first, and empty lines and blanks around an id do not count.
fn read_ids(path: &Path) -> Result<Vec<(u64, String)>, Error> {
    let read = |path: &Path| -> io::Result<Vec<(u64, String)>> {
        let mut ids = Vec::new();
        for (number, line) in (1..).zip(BufReader::new(File::open(path)?).lines()) {
            let line = line?;
            let text = match number {
                1 => line.strip_prefix('\u{feff}').unwrap_or(&line),
                _ => &line,
            };
            // No id starts or ends with white space of ASCII.
            let id = text.trim_matches(|character: char| character.is_ascii_whitespace());
            if !id.is_empty() {
                ids.push((number, id.to_owned()));
            }
        }
        Ok(ids)
    };
    read(path).map_err(|source| Error::ReadIds {
        path: path.to_owned(),
        source,
    })
}
