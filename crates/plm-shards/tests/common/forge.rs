//! Segments taken apart and put together with digests that are right, by the documentation alone.

use std::ops::Range;

use serde_json::Value;

const SEAL_BYTES: usize = 56;

/// A segment in parts, any of which may be changed before [`bytes`](Self::bytes).
#[derive(Clone, Debug)]
pub struct Forged {
    /// All before the block: the letters and the vectors.
    pub image: Vec<u8>,
    pub rows: Vec<u64>,
    pub lengths: Vec<u32>,
    pub id_lengths: Vec<u64>,
    pub status: Vec<u8>,
    pub in_f32: Vec<u8>,
    pub ids: Vec<u8>,
    pub description: Value,
    /// What the block says of the description's size, if not the truth.
    pub description_bytes: Option<u64>,
    /// What the seal says of the vectors' place.
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

    /// The segment, with the digests of what it now is.
    pub fn bytes(&self) -> Vec<u8> {
        let mut description = self.description.clone();
        if let Some(members) = description.as_object_mut()
            && members.contains_key("embeddings_digest")
        {
            let embeddings = dataset(piece(&self.image, &self.vectors));
            members["content_digest"] = self.content_digest(&embeddings).into();
            members["embeddings_digest"] = embeddings.into();
        }
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

    fn content_digest(&self, embeddings: &str) -> String {
        let mut ids = vec![];
        let mut start = 0_u64;
        for &length in &self.id_lengths {
            let id = start..start.saturating_add(length);
            ids.extend(text(piece(&self.ids, &id)));
            start = id.end;
        }
        let header = [
            "format",
            "format_version",
            "run_digest",
            "rank",
            "rows",
            "hidden_size",
            "dtype",
        ]
        .map(|name| format!("{name:?}:{}", self.description["header"][name]));
        let lengths = self.lengths.iter().flat_map(|length| length.to_le_bytes());
        let mut content = text(format!("{{{}}}", header.join(",")).as_bytes());
        for (name, digest) in [
            ("embeddings", embeddings),
            ("sequence_ids", &dataset(&ids)),
            ("lengths", &dataset(&lengths.collect::<Vec<_>>())),
            ("status", &dataset(&self.status)),
            ("in_f32", &dataset(&self.in_f32)),
            ("rows", &dataset(&numbers(&self.rows))),
        ] {
            content.extend(text(name.as_bytes()));
            content.extend(text(digest.as_bytes()));
        }
        dataset(&content)
    }
}

/// `content`, sealed.
pub fn seal(mut content: Vec<u8>, vectors: &Range<u64>) -> Vec<u8> {
    let place = [vectors.start.to_le_bytes(), vectors.end.to_le_bytes()].concat();
    let digest = blake3::Hasher::new()
        .update(piece(&content, &(0..vectors.start)))
        .update(piece(&content, &(vectors.end..u64::MAX)))
        .update(&place)
        .finalize();
    content.extend(place);
    content.extend(digest.as_bytes());
    content.extend(b"PLMSEAL1");
    content
}

/// A sealed file without its seal, and where that has the vectors.
pub fn unseal(sealed: &[u8]) -> (Vec<u8>, Range<u64>) {
    let (content, seal) = sealed.split_at(sealed.len() - SEAL_BYTES);
    (content.to_vec(), number(&seal[..8])..number(&seal[8..16]))
}

/// As much of a place as there is.
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
