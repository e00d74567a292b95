//! One Parquet file: a row for each record, and a column of lists for each output.

use std::iter::repeat_n;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::Compression;
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::schema::types::ColumnPath;
use arrow_array::types::{Float16Type, Float32Type};
use arrow_array::{
    ArrayRef, FixedSizeListArray, ListArray, PrimitiveArray, RecordBatch, StringArray, UInt32Array,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use plm_core::{Column, Dtype, DurableFile, OutputSpec, Per, StoreError, Values};

use crate::Error;
use crate::columns::column_name;
use crate::error::At;
use crate::table::{Meter, Table};

/// A row group ends once its values have this many bytes. A writer keeps one in memory, and a
/// reader reads one at a time.
const ROW_GROUP_BYTES: u64 = 64 << 20;

/// What the parts of a list are called, by the format's own rules.
const ELEMENT: &str = "element";

pub(crate) fn write(table: &Table<'_>, path: &Path, meter: &mut Meter<'_>) -> Result<(), Error> {
    let file = DurableFile::create(path).at(path)?;
    let schema = schema(table);
    let properties = properties(table);
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).at(path)?;
    let outputs = 0..table.outputs().len();
    let mut group_bytes = 0;
    for records in table.pieces(outputs) {
        let (batch, bytes) = batch(table, &schema, records?)?;
        writer.write(&batch).at(path)?;
        group_bytes += bytes;
        if group_bytes >= ROW_GROUP_BYTES {
            writer.flush().at(path)?;
            group_bytes = 0;
        }
        meter.add(bytes)?;
    }
    writer.into_inner().at(path)?.commit_new().at(path)
}

fn schema(table: &Table<'_>) -> SchemaRef {
    let mut fields = vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("length", DataType::UInt32, false),
        Field::new("status", DataType::Utf8, false),
    ];
    let outputs = table.outputs();
    fields.extend(outputs.map(|output| Field::new(column_name(output), type_of(output), false)));
    Arc::new(Schema::new(fields))
}

/// The type of a record's values: a list of the row's values, or a list of rows.
fn type_of(output: &OutputSpec) -> DataType {
    let row = DataType::FixedSizeList(value_field(output), output.width as i32);
    let list = |element: DataType| DataType::List(Arc::new(Field::new(ELEMENT, element, false)));
    match output.per() {
        Per::Sequence => row,
        Per::Residue => list(row),
        Per::Pair => list(list(value_field(output).data_type().clone())),
    }
}

fn value_field(output: &OutputSpec) -> Arc<Field> {
    let value = match output.dtype {
        Dtype::F16 => DataType::Float16,
        _ => DataType::Float32,
    };
    Arc::new(Field::new(ELEMENT, value, false))
}

fn properties(table: &Table<'_>) -> WriterProperties {
    let text = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
    let properties = WriterProperties::builder()
        .set_created_by(concat!("plm-fleet version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(vec![text("run_digest", table.run_digest())]))
        // Neither dictionaries nor extremes help with values that hardly repeat.
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_max_row_group_row_count(None)
        .set_column_dictionary_enabled(ColumnPath::from("status"), true);
    let with_extremes = ["id", "length"]
        .into_iter()
        .fold(properties, |properties, name| {
            properties
                .set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::Page)
        });
    with_extremes.build()
}

/// The rows of some records, and the bytes of their values.
fn batch(
    table: &Table<'_>,
    schema: &SchemaRef,
    records: Range<u64>,
) -> Result<(RecordBatch, u64), StoreError> {
    let ids = StringArray::from(table.ids(records.clone())?);
    let lengths = UInt32Array::from(table.lengths(records.clone())?);
    let outcomes = table.outcomes(records.clone())?;
    let statuses = outcomes.iter().map(|outcome| Some(outcome.name()));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(ids),
        Arc::new(lengths),
        Arc::new(StringArray::from_iter(statuses)),
    ];
    let mut bytes = 0;
    for (at, output) in table.outputs().enumerate() {
        let column = table.column(at, records.clone())?;
        bytes += column.values().len() as u64 * output.dtype.bytes();
        columns.push(lists(output, &column));
    }
    let batch = RecordBatch::try_new(Arc::clone(schema), columns);
    Ok((batch.expect("columns are of the schema's types"), bytes))
}

/// A record's values each, as [`type_of`] says.
fn lists(output: &OutputSpec, column: &Column) -> ArrayRef {
    let field = value_field(output);
    let rows_of = || {
        column
            .offsets()
            .windows(2)
            .map(|ends| (ends[1] - ends[0]) as usize)
    };
    let values: ArrayRef = match column.values() {
        Values::F32(values) => Arc::new(PrimitiveArray::<Float32Type>::from(values.clone())),
        Values::F16(values) => Arc::new(PrimitiveArray::<Float16Type>::from(values.clone())),
    };
    let list = |lengths: &mut dyn Iterator<Item = usize>, elements: ArrayRef| -> ArrayRef {
        let element = Field::new(ELEMENT, elements.data_type().clone(), false);
        let offsets = OffsetBuffer::from_lengths(lengths);
        Arc::new(ListArray::new(Arc::new(element), offsets, elements, None))
    };
    if output.per() == Per::Pair {
        // A record of `L` residues has `L` lists of `L` values.
        let residues: Vec<usize> = rows_of().map(usize::isqrt).collect();
        let mut of_lists = residues.iter().flat_map(|&length| repeat_n(length, length));
        let lists = list(&mut of_lists, values);
        return list(&mut residues.iter().copied(), lists);
    }
    let rows: ArrayRef = Arc::new(FixedSizeListArray::new(
        field,
        output.width as i32,
        values,
        None,
    ));
    match output.per() {
        Per::Residue => list(&mut rows_of(), rows),
        Per::Sequence | Per::Pair => rows,
    }
}
