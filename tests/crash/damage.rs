//! Segments are damaged between two tries.

use std::fs;

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

fn place_of_a_vector(scene: &Scene, segment: &[u8]) -> usize {
    scene
        .reference
        .records
        .iter()
        .find_map(|record| {
            let stored: Vec<u8> = record
                .vector
                .iter()
                .flat_map(|it| it.to_le_bytes())
                .collect();
            segment
                .windows(stored.len())
                .position(|window| window == stored)
        })
        .expect("a segment holds vectors, as they are")
}
