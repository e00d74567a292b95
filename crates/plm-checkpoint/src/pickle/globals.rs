//! The classes and functions that a pickle may name.
//!
//! None is run, so each name here stands for data: a tensor's parts, a dictionary, or a value that
//! training programs leave in their checkpoints. A name that is not here is refused.

use safetensors::Dtype;

/// What a name in a pickle stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// A dictionary that is made empty and filled later.
    Dict,
    /// `_rebuild_tensor` and `_rebuild_tensor_v2`: a tensor from a storage of its own format.
    Tensor,
    /// `_rebuild_tensor_v3`: a tensor from a storage of bytes, with its format.
    TensorOfBytes,
    /// A parameter: the tensor is the first argument.
    Parameter,
    /// A tensor of a class of its own: a function and its arguments make it.
    OfType,
    /// A class of storages; of bytes, if it has no format.
    Storage(Option<Dtype>),
    /// A number format.
    Dtype(Dtype),
    /// Any other value. Its name is of no interest, but its fields may be.
    Opaque,
}

/// What a module's member stands for, if it is known.
pub(super) fn find(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict" | "defaultdict" | "Counter") => Global::Dict,
        ("builtins" | "__builtin__", "dict") => Global::Dict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::Tensor,
        ("torch._utils", "_rebuild_tensor_v3") => Global::TensorOfBytes,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Global::Parameter
        }
        ("torch._tensor", "_rebuild_from_type_v2") => Global::OfType,
        ("torch" | "torch.storage", name) if name.ends_with("Storage") => {
            Global::Storage(storage(name)?)
        }
        ("torch", "Size" | "device") => Global::Opaque,
        ("torch", name) => Global::Dtype(dtype(name)?),
        ("torch.nn.parameter", "Parameter" | "Buffer") => Global::Opaque,
        // What programs that train leave beside the weights: fair-esm's settings are of the first.
        ("argparse", "Namespace") | ("types", "SimpleNamespace") => Global::Opaque,
        ("omegaconf.dictconfig", "DictConfig") | ("omegaconf.listconfig", "ListConfig") => {
            Global::Opaque
        }
        ("omegaconf.base", "ContainerMetadata" | "Metadata" | "SCMode") => Global::Opaque,
        (
            "omegaconf.nodes",
            "AnyNode" | "BooleanNode" | "EnumNode" | "FloatNode" | "IntegerNode" | "StringNode",
        ) => Global::Opaque,
        ("typing", "Any") => Global::Opaque,
        ("pathlib", "Path" | "PosixPath" | "PurePosixPath" | "WindowsPath") => Global::Opaque,
        (
            "builtins" | "__builtin__",
            "bool" | "bytearray" | "complex" | "float" | "frozenset" | "int" | "list" | "object"
            | "set" | "str" | "tuple",
        ) => Global::Opaque,
        ("_codecs", "encode") => Global::Opaque,
        ("numpy", "dtype" | "ndarray") => Global::Opaque,
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct") => {
            Global::Opaque
        }
        _ => return None,
    })
}

/// The number format of a class of storages; none for one of bytes.
fn storage(name: &str) -> Option<Option<Dtype>> {
    Some(match name {
        "DoubleStorage" => Some(Dtype::F64),
        "FloatStorage" => Some(Dtype::F32),
        "HalfStorage" => Some(Dtype::F16),
        "BFloat16Storage" => Some(Dtype::BF16),
        "LongStorage" => Some(Dtype::I64),
        "IntStorage" => Some(Dtype::I32),
        "ShortStorage" => Some(Dtype::I16),
        "CharStorage" => Some(Dtype::I8),
        "ByteStorage" => Some(Dtype::U8),
        "BoolStorage" => Some(Dtype::BOOL),
        "ComplexFloatStorage" => Some(Dtype::C64),
        "UntypedStorage" => None,
        _ => return None,
    })
}

/// The number format of a member of `torch`.
fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::BOOL,
        "complex64" => Dtype::C64,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        _ => return None,
    })
}
