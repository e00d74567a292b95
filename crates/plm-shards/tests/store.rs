//! `Hdf5Store` meets the contract of every store.

use std::path::Path;

use plm_core::{Column, Dtype};
use plm_shards::{EmbeddingsFile, Hdf5Store, SegmentConfig, SegmentConfigBuilder};
use plm_testkit::conformance::check_store;

/// The values of a result, `[records][outputs][values]`.
fn read(path: &Path) -> Vec<Vec<Vec<f32>>> {
    let file = EmbeddingsFile::open(path).unwrap();
    let positions = 0..file.outputs().len();
    let columns: Vec<Column> = positions
        .map(|position| file.read_column(position, 0..file.rows()).unwrap())
        .collect();
    let of_record = |record| {
        columns
            .iter()
            .map(|column| column.sequence(record))
            .collect()
    };
    (0..file.rows()).map(of_record).collect()
}

fn check(config: SegmentConfigBuilder) {
    // Nearly all of the time would go into syncing to a disk.
    let folder = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let store = Hdf5Store::new(config.build().unwrap());
    check_store(&store, folder.path(), &read);
}

#[test]
fn it_keeps_the_contract_of_stores_at_any_size_of_segments() {
    for (max_rows, max_wide_bytes, dtype) in [
        (1, u64::MAX, Dtype::F32),
        (3, 80, Dtype::F16),
        (1000, 1 << 20, Dtype::F16),
    ] {
        let config = SegmentConfig::builder().max_rows(max_rows).dtype(dtype);
        check(config.max_wide_bytes(max_wide_bytes));
    }
}

#[test]
fn it_keeps_the_contract_of_stores_at_any_size_of_files() {
    // A record takes 150 to 450 bytes.
    for max_file_bytes in [1_200, 100_000] {
        let config = SegmentConfig::builder().max_rows(3).max_wide_bytes(80);
        check(config.max_file_bytes(max_file_bytes));
    }
}
