//! Segments, and the rows that they vouch for, are damaged between two tries.

use std::fs;

use plm_core::{Column, Values};

use plm_testkit::SplitMix64;

use crate::scene::Scene;

/// Damages a segment of an unfinished run, and tells whether there was one.
pub(crate) fn damage(scene: &mut Scene, random: &mut SplitMix64) -> bool {
    if scene.out().join("run.json").exists() {
        return false;
    }
    let mut segments = scene.segments();
    segments.retain(|segment| !scene.damaged.contains(segment));
    if segments.is_empty() {
        return false;
    }
    let segment = segments.swap_remove(random.below(segments.len() as u64) as usize);
    let mut bytes = fs::read(&segment).expect("it is there");
    if random.below(2) == 0 && damage_rows(scene, &bytes, random) {
        scene.damaged.insert(segment);
        return true;
    }
    let place = random.below(bytes.len() as u64) as usize;
    match random.below(5) {
        // Only a digest shows a single flipped bit.
        0 => {
            let vector = place_of_a_vector(scene, &bytes);
            bytes[vector + place % 64] ^= 1;
        }
        1 => bytes[place] ^= 1 << random.below(8),
        2 => bytes.truncate(place),
        3 => bytes[place..].fill(0),
        _ => bytes.clear(),
    }
    fs::write(&segment, bytes).expect("there is room");
    scene.damaged.insert(segment);
    true
}

/// Damages rows in the draft that a segment vouches for, and tells whether it vouches for any.
fn damage_rows(scene: &Scene, segment: &[u8], random: &mut SplitMix64) -> bool {
    let records = &scene.reference.records;
    let is_in_it = |id: &str| {
        segment
            .windows(id.len())
            .any(|found| found == id.as_bytes())
    };
    // The rows of equal sequences are equal, and may be of another segment.
    let is_unique = |residues: &str| {
        let same = records.iter().filter(|record| record.residues == residues);
        same.count() == 1
    };
    let mut records = records.iter();
    let Some(record) = records.find(|it| is_in_it(&it.id) && is_unique(&it.residues)) else {
        return false;
    };
    let rows = stored(&record.outputs[0]);
    let drafts = scene
        .files()
        .into_iter()
        .filter(|path| path.extension() == Some("draft".as_ref()));
    let mut found = drafts.filter_map(|draft| {
        let bytes = fs::read(&draft).expect("it is there");
        let place = bytes.windows(rows.len()).position(|found| found == rows)?;
        Some((draft, bytes, place))
    });
    // No run has made a draft, or it is a result already.
    let Some((draft, mut bytes, place)) = found.next() else {
        return false;
    };
    let within = random.below(rows.len() as u64) as usize;
    match random.below(3) {
        0 => bytes[place + within] ^= 1 << random.below(8),
        1 => bytes[place..place + rows.len()].fill(0),
        _ => {
            let row = rows.len() / record.residues.len();
            bytes[place..place + rows.len()].rotate_left(row);
        }
    }
    fs::write(draft, bytes).expect("there is room");
    true
}

fn stored(column: &Column) -> Vec<u8> {
    match column.values() {
        Values::F32(values) => values.iter().flat_map(|it| it.to_le_bytes()).collect(),
        Values::F16(values) => values.iter().flat_map(|it| it.to_le_bytes()).collect(),
    }
}

/// Where the mean of a record is in a segment.
fn place_of_a_vector(scene: &Scene, segment: &[u8]) -> usize {
    let records = scene.reference.records.iter();
    let mut places = records.filter_map(|record| {
        let mean = record
            .outputs
            .iter()
            .find(|column| column.offsets() == [0, 1]);
        let stored = stored(mean.expect("a mean has one row"));
        segment
            .windows(stored.len())
            .position(|window| window == stored)
    });
    places.next().expect("a segment holds vectors, as they are")
}
