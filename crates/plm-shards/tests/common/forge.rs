//! Takes segments apart and puts them together with right digests. It follows the documentation
//! alone, and uses no code of the crate.

use std::ops::Range;

use serde_json::Value;

const SEAL_BYTES: usize = 56;

/// A segment in pieces. A test may change any of them before [`bytes`](Self::bytes).
#[derive(Clone, Debug)]
pub struct Forged {
    /// The bytes before the block: the magic and the vectors.
    pub image: Vec<u8>,
    pub rows: Vec<u64>,
    pub lengths: Vec<u32>,
    pub id_lengths: Vec<u64>,
    pub status: Vec<u8>,
    pub in_f32: Vec<u8>,
    pub ids: Vec<u8>,
    pub description: Value,
    /// The size of the description that the block states, if it is not the true one.
    pub description_bytes: Option<u64>,
    /// The place of the vectors that the seal states.
    pub vectors: Range<u64>,
}

impl Forged {
    pub fn of(segment: &[u8]) -> Self {
        let (content, seal) = segment.split_at(segment.len() - SEAL_BYTES);
        let (rest, ending) = content.split_at(content.len() - 16);
        assert_eq!(&ending[8..], b"PLMBLOCK");
        let (rest, description) = rest.split_at(rest.len() - number(&ending[..8]) as usize);
        let description: Value = serde_json::from_slice(description).unwrap();
        let id_bytes = description["id_bytes"].as_u64().unwrap() as usize;
        let count = description["header"]["rows"].as_u64().unwrap() as usize;
        let (image, columns) = rest.split_at(rest.len() - 22 * count - id_bytes);
        let column = |from: usize, to: usize| &columns[from * count..to * count];
        Self {
            image: image.to_vec(),
            rows: column(0, 8).chunks(8).map(number).collect(),
            lengths: (column(8, 12).chunks(4).map(number))
                .map(|length| length as u32)
                .collect(),
            id_lengths: column(12, 20).chunks(8).map(number).collect(),
            status: column(20, 21).to_vec(),
            in_f32: column(21, 22).to_vec(),
            ids: columns[22 * count..].to_vec(),
            description,
            description_bytes: None,
            vectors: number(&seal[..8])..number(&seal[8..16]),
        }
    }

    /// The segment's bytes, with the digests of its present content.
    pub fn bytes(&self) -> Vec<u8> {
        let mut description = self.description.clone();
        if let Some(members) = description.as_object_mut()
            && members.contains_key("output_digests")
            && let Some(digests) = self.output_digests()
        {
            members["content_digest"] = self.content_digest(&digests).into();
            let digests: Vec<String> = digests.into_iter().map(|(_, digest)| digest).collect();
            members["output_digests"] = digests.into();
        }
        self.with(&description)
    }

    /// The segment's bytes, with the digests that its description has.
    pub fn bytes_as_they_are(&self) -> Vec<u8> {
        self.with(&self.description)
    }

    fn with(&self, description: &Value) -> Vec<u8> {
        let description = description.to_string();
        let mut content = self.image.clone();
        content.extend(numbers(&self.rows));
        content.extend(self.lengths.iter().flat_map(|length| length.to_le_bytes()));
        content.extend(numbers(&self.id_lengths));
        content.extend(&self.status);
        content.extend(&self.in_f32);
        content.extend(&self.ids);
        content.extend(description.bytes());
        let description_bytes = self.description_bytes.unwrap_or(description.len() as u64);
        content.extend(description_bytes.to_le_bytes());
        content.extend(b"PLMBLOCK");
        seal(content, &self.vectors)
    }

    /// The name and the digest of each output, if the description names them.
    fn output_digests(&self) -> Option<Vec<(String, String)>> {
        let mut start = self.vectors.start;
        let outputs = self.description["header"]["outputs"].as_array()?;
        let digests = outputs.iter().map(|output| {
            let bytes = if output["dtype"] == "f16" { 2 } else { 4 };
            let row_bytes = output["width"].as_u64()?.saturating_mul(bytes);
            let end = start.saturating_add(row_bytes.saturating_mul(self.rows.len() as u64));
            let values = piece(&self.image, &(start..end));
            start = end;
            Some((output["name"].as_str()?.to_owned(), dataset(values)))
        });
        digests.collect()
    }

    fn content_digest(&self, outputs: &[(String, String)]) -> String {
        let mut ids = vec![];
        let mut start = 0_u64;
        for &length in &self.id_lengths {
            let id = start..start.saturating_add(length);
            ids.extend(text(piece(&self.ids, &id)));
            start = id.end;
        }
        let header = ["format", "format_version", "run_digest", "rank", "rows"]
            .map(|name| format!("{name:?}:{}", self.description["header"][name]));
        let shapes = self.description["header"]["outputs"].as_array();
        let shapes = shapes.into_iter().flatten().map(|output| {
            let members = ["name", "width", "dtype"];
            let members = members.map(|name| format!("{name:?}:{}", output[name]));
            format!("{{{}}}", members.join(","))
        });
        let shapes: Vec<String> = shapes.collect();
        let lengths = self.lengths.iter().flat_map(|length| length.to_le_bytes());
        let (header, shapes) = (header.join(","), shapes.join(","));
        let mut content = text(format!("{{{header},\"outputs\":[{shapes}]}}").as_bytes());
        let others = [
            ("sequence_ids", dataset(&ids)),
            ("lengths", dataset(&lengths.collect::<Vec<_>>())),
            ("status", dataset(&self.status)),
            ("in_f32", dataset(&self.in_f32)),
            ("rows", dataset(&numbers(&self.rows))),
        ];
        let others = others.map(|(name, digest)| (name.to_owned(), digest));
        for (name, digest) in outputs.iter().chain(&others) {
            content.extend(text(name.as_bytes()));
            content.extend(text(digest.as_bytes()));
        }
        dataset(&content)
    }
}

/// Seals `content`, whose vectors are in one piece.
pub fn seal(content: Vec<u8>, vectors: &Range<u64>) -> Vec<u8> {
    seal_pieces(content, std::slice::from_ref(vectors))
}

/// Seals `content`, whose vectors are in several pieces.
pub fn seal_pieces(mut content: Vec<u8>, pieces: &[Range<u64>]) -> Vec<u8> {
    let ends: Vec<u64> = pieces.iter().flat_map(|it| [it.start, it.end]).collect();
    let places = numbers(&ends);
    let mut hasher = blake3::Hasher::new();
    let mut start = 0;
    for next in pieces.iter().chain([&(u64::MAX..u64::MAX)]) {
        hasher.update(piece(&content, &(start..next.start)));
        start = next.end;
    }
    let digest = hasher.update(&places).finalize();
    content.extend(places);
    content.extend(digest.as_bytes());
    if pieces.len() == 1 {
        content.extend(b"PLMSEAL1");
    } else {
        content.extend((pieces.len() as u64).to_le_bytes());
        content.extend(b"PLMSEAL2");
    }
    content
}

/// A sealed file without its seal, and the place of the vectors that the seal states.
pub fn unseal(sealed: &[u8]) -> (Vec<u8>, Range<u64>) {
    let (content, mut pieces) = unseal_pieces(sealed);
    assert_eq!(pieces.len(), 1);
    (content, pieces.remove(0))
}

/// A sealed file without its seal, and the pieces of vectors that the seal states.
pub fn unseal_pieces(sealed: &[u8]) -> (Vec<u8>, Vec<Range<u64>>) {
    let end = sealed.len();
    let (pieces, seal_bytes) = match &sealed[end - 8..] {
        b"PLMSEAL1" => (1, SEAL_BYTES),
        _ => {
            let pieces = number(&sealed[end - 16..end - 8]) as usize;
            (pieces, 16 * pieces + 48)
        }
    };
    let (content, seal) = sealed.split_at(end - seal_bytes);
    let places = seal[..16 * pieces].chunks(16);
    let places = places.map(|place| number(&place[..8])..number(&place[8..]));
    (content.to_vec(), places.collect())
}

/// The bytes at a place, cut where the file ends.
fn piece<'a>(bytes: &'a [u8], place: &Range<u64>) -> &'a [u8] {
    let end = place.end.min(bytes.len() as u64);
    &bytes[place.start.min(end) as usize..end as usize]
}

fn number(bytes: &[u8]) -> u64 {
    let little_endian = bytes.iter().rev();
    little_endian.fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

fn dataset(bytes: &[u8]) -> String {
    format!("blake3:{}", blake3::hash(bytes).to_hex())
}
