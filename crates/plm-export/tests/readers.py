"""Reads an export with the libraries of its format, and compares every value, bit for bit.

    readers.py FORMAT EXPORT TRUTH [IDS [COLUMNS]]

TRUTH is an embeddings.h5, which h5py reads, or a directory of raw values with a truth.json. IDS is
the list that the export was made for, one id per line, or empty. COLUMNS are names of columns.
"""

import json
import os
import sys

import numpy as np


class Truth:
    """The records that an export must hold: `outputs[column]` is `(per, arrays of the records)`."""

    def __init__(self, path, ids_path, columns):
        if path.endswith(".h5"):
            self.read_h5(path)
        else:
            self.read_raw(path)
        if columns:
            self.outputs = {name: self.outputs[name] for name in columns}
        if ids_path:
            places = {id: place for place, id in enumerate(self.ids)}
            with open(ids_path, encoding="utf-8", newline="\n") as file:
                chosen = [places[line.rstrip("\r\n")] for line in file]
            pick = lambda values: [values[place] for place in chosen]
            self.ids, self.lengths = pick(self.ids), pick(self.lengths)
            self.statuses = pick(self.statuses)
            self.outputs = {
                name: (per, pick(arrays)) for name, (per, arrays) in self.outputs.items()
            }

    def read_raw(self, folder):
        with open(os.path.join(folder, "truth.json"), encoding="utf-8") as file:
            truth = json.load(file)
        self.ids, self.lengths = truth["ids"], truth["lengths"]
        self.statuses = truth["statuses"]
        self.outputs = {}
        for output in truth["outputs"]:
            values = np.fromfile(os.path.join(folder, output["column"]), output["dtype"])
            values = values.reshape(-1, output["width"])
            self.outputs[output["column"]] = output["per"], split(values, output["offsets"])

    def read_h5(self, path):
        import h5py

        words = {0: "embedded", 1: "truncated", 2: "windowed"}
        with h5py.File(path) as file:
            self.ids = list(file["sequence_ids"].asstr())
            self.lengths = file["lengths"][:].tolist()
            self.statuses = [words[code] for code in file["status"][:].tolist()]
            one_each = np.arange(len(self.ids) + 1)
            self.outputs = {}
            if "outputs" not in file.attrs:
                name = f"mean_layer_{file.attrs['layer']}"
                rows = file["embeddings"][:]
                self.outputs[name] = "sequence", split(rows, one_each)
                return
            for name in json.loads(file.attrs["outputs"]):
                kind = name.split("/")[0]
                values = file[name][:]
                if kind in ("residues", "logits"):
                    per, offsets = "residue", file[f"{kind}/offsets"][:]
                elif kind == "contacts":
                    per, offsets = "pair", file["contacts/offsets"][:]
                    values = values.reshape(-1, 1)
                else:
                    per, offsets = "sequence", one_each
                name = kind if name.endswith("/values") else name.replace("/", "_")
                self.outputs[name] = per, split(values, offsets)


def split(values, offsets):
    offsets = [int(offset) for offset in offsets]
    assert offsets[-1] == len(values), (offsets[-1], values.shape)
    return [values[start:end] for start, end in zip(offsets, offsets[1:])]


def same(found, expected, what):
    found = np.asarray(found)
    assert found.dtype == expected.dtype, (what, found.dtype, expected.dtype)
    assert found.shape == expected.shape, (what, found.shape, expected.shape)
    assert found.tobytes() == expected.tobytes(), what


def as_map(per, array):
    """The values of a record in the shape that a reader sees."""
    if per == "sequence":
        return array[0]
    if per == "pair":
        residues = round(len(array) ** 0.5)
        return array.reshape(residues, residues)
    return array


def check_columns(truth, tensors, ids):
    """Formats with an array for each output."""
    expected = {"lengths", "status"}
    assert ids == truth.ids, "ids"
    same(tensors["lengths"], np.array(truth.lengths, "<i8"), "lengths")
    codes = {"embedded": 0, "truncated": 1, "windowed": 2}
    same(tensors["status"], np.array([codes[word] for word in truth.statuses], "u1"), "status")
    for name, (per, arrays) in truth.outputs.items():
        expected.add(name)
        values = np.concatenate(arrays)
        same(tensors[name], values.reshape(-1) if per == "pair" else values, name)
        if per != "sequence":
            offsets = {"residue": "residues_offsets", "pair": "contacts_offsets"}[per]
            expected.add(offsets)
            ends = np.cumsum([0] + [len(array) for array in arrays]).astype("<i8")
            same(tensors[offsets], ends, offsets)
    assert set(tensors) == expected, (set(tensors), expected)


def check_npy(path, truth):
    arrays = {}
    for name in os.listdir(path):
        if name.endswith(".npy"):
            array = np.load(os.path.join(path, name), mmap_mode="r")
            assert array.size == 0 or array.offset % 64 == 0, name
            arrays[name.removesuffix(".npy")] = array
    with open(os.path.join(path, "ids.txt"), encoding="utf-8") as file:
        check_columns(truth, arrays, file.read().split("\n")[:-1])
    assert set(os.listdir(path)) == {f"{name}.npy" for name in arrays} | {"ids.txt"}


def check_safetensors(path, truth):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    tensors = load_file(path)
    ids = tensors.pop("ids").tobytes().decode().split("\n")[:-1]
    check_columns(truth, tensors, ids)
    with safe_open(path, "numpy") as file:
        assert file.metadata()["format"] == "plm-fleet export", file.metadata()
    try:
        from safetensors.torch import load_file as load_torch
    except ImportError:
        return
    for name, tensor in load_torch(path).items():
        if name != "ids":
            same(tensor.numpy(), tensors[name], name)


def check_parquet(path, truth):
    import duckdb
    import pandas
    import polars
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    assert table["id"].to_pylist() == truth.ids
    assert table["length"].to_pylist() == truth.lengths
    assert table["status"].to_pylist() == truth.statuses
    assert table.column_names[:3] == ["id", "length", "status"]
    assert set(table.column_names[3:]) == set(truth.outputs)
    frame = pandas.read_parquet(path)
    polar = polars.read_parquet(path)
    ducks = duckdb.sql(f"SELECT * FROM '{path}'").fetchnumpy()
    assert list(frame["id"]) == polar["id"].to_list() == list(ducks["id"]) == truth.ids
    for name, (per, arrays) in truth.outputs.items():
        value = {"float16": "halffloat", "float32": "float"}[str(arrays[0].dtype)]
        row = f"fixed_size_list<element: {value} not null>[{arrays[0].shape[1]}]"
        expected_type = {
            "sequence": row,
            "residue": f"list<element: {row} not null>",
            "pair": f"list<element: list<element: {value} not null> not null>",
        }[per]
        assert str(table[name].type) == expected_type, (table[name].type, expected_type)
        for record, array in enumerate(arrays):
            array = as_map(per, array)
            what = (name, truth.ids[record])
            rows = table[name][record].values
            while pa.types.is_list(rows.type) or pa.types.is_fixed_size_list(rows.type):
                rows = rows.flatten()
            rows = rows.to_numpy(zero_copy_only=False)
            same(rows.reshape(array.shape), array, what)
            seen = frame[name][record]
            assert len(seen) == len(array), what
            seen = np.stack(seen) if array.ndim == 2 else seen
            same(seen, array, ("pandas", what))
            # The others may widen f16, which loses nothing.
            polar_rows = np.array(polar[name][record].to_list(), "f8")
            same(polar_rows.astype(array.dtype), array, ("polars", what))
            duck = ducks[name][record]
            duck = np.array([list(row) for row in duck] if array.ndim == 2 else list(duck), "f8")
            same(duck.astype(array.dtype), array, ("duckdb", what))
    one = truth.ids[-1]
    found = duckdb.execute(f"SELECT length FROM '{path}' WHERE id = ?", [one]).fetchall()
    assert found == [(truth.lengths[-1],)]
    print(pq.ParquetFile(path).metadata.num_row_groups, "row groups")


def check_h5_per_id(path, truth):
    from urllib.parse import unquote

    import h5py

    [(name, (per, arrays))] = truth.outputs.items()
    with h5py.File(path) as file:
        assert file.attrs["output"] == name, dict(file.attrs)
        assert len(file) == len(truth.ids)
        assert sorted(map(unquote, file)) == sorted(truth.ids)
        for key in file:
            assert file[key].attrs["original_id"] == unquote(key), key
        for id, array in zip(truth.ids, arrays):
            key = "%2E" if id == "." else id.replace("%", "%25").replace("/", "%2F")
            same(file[key][()], as_map(per, array), id)


def check_tsv(path, truth):
    import pandas

    [(name, (per, arrays))] = truth.outputs.items()
    assert per == "sequence"
    frame = pandas.read_csv(
        path,
        sep="\t",
        index_col="id",
        keep_default_na=False,
        quoting=3,
        float_precision="round_trip",
    )
    assert list(map(str, frame.index)) == truth.ids
    assert list(frame.columns) == [str(dimension) for dimension in range(arrays[0].shape[1])]
    values = np.concatenate(arrays)
    same(frame.to_numpy("f8").astype(values.dtype), values, name)
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    assert lines[-1] == "" and len(lines) == len(truth.ids) + 2


def main(format, path, truth, ids="", columns=""):
    checks = {
        "npy": check_npy,
        "safetensors": check_safetensors,
        "parquet": check_parquet,
        "h5-per-id": check_h5_per_id,
        "tsv": check_tsv,
    }
    checks[format](path, Truth(truth, ids, columns.split()))
    print("same")


main(*sys.argv[1:])
