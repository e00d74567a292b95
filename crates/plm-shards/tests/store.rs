//! `Hdf5Store` meets the contract of every store.

use std::path::Path;

use ndarray::Array2;
use plm_core::Dtype;
use plm_shards::{EmbeddingsFile, Hdf5Store, SegmentConfig};
use plm_testkit::conformance::check_store;

/// The values of a result, `[rows][outputs][width]`.
fn read(path: &Path) -> Vec<Vec<Vec<f32>>> {
    let file = EmbeddingsFile::open(path).unwrap();
    let read = |name: String| file.read_rows_of(&name, 0..file.rows()).unwrap();
    let outputs = file.outputs().iter().map(|output| read(output.name()));
    let outputs: Vec<Array2<f32>> = outputs.collect();
    let of_row = |row| {
        outputs
            .iter()
            .map(|values| values.row(row).to_vec())
            .collect()
    };
    (0..file.rows()).map(of_row).collect()
}

#[test]
fn it_keeps_the_contract_of_stores_at_any_size_of_segments() {
    for (max_rows, dtype) in [(1, Dtype::F32), (3, Dtype::F16), (1000, Dtype::F16)] {
        let folder = tempfile::tempdir().unwrap();
        let config = SegmentConfig::builder().max_rows(max_rows).dtype(dtype);
        let store = Hdf5Store::new(config.build().unwrap());
        check_store(&store, folder.path(), &read);
    }
}
