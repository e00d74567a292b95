//! One static library for each CUDA library: its functions' names in `symbols/`, the code in
//! `src/`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

/// A CUDA library to stand in for.
struct Library {
    /// What the linker is asked for.
    name: &'static str,
    /// What is opened at run time.
    soname: &'static str,
    /// What its functions return if it is absent.
    absent: i32,
}

const LIBRARIES: [Library; 5] = [
    Library {
        name: "cuda",
        soname: "libcuda.so.1",
        absent: 100, // CUDA_ERROR_NO_DEVICE
    },
    Library {
        name: "cublas",
        soname: "libcublas.so.13",
        absent: 1, // CUBLAS_STATUS_NOT_INITIALIZED
    },
    Library {
        name: "cublasLt",
        soname: "libcublasLt.so.13",
        absent: 1, // CUBLAS_STATUS_NOT_INITIALIZED
    },
    Library {
        name: "curand",
        soname: "libcurand.so.10",
        absent: 101, // CURAND_STATUS_NOT_INITIALIZED
    },
    Library {
        name: "nvrtc",
        soname: "libnvrtc.so.13",
        absent: 1, // NVRTC_ERROR_OUT_OF_MEMORY: it has none that fits better
    },
];

pub(crate) fn make_all() {
    let target = ["CARGO_CFG_TARGET_ARCH", "CARGO_CFG_TARGET_OS"]
        .map(|key| env::var(key).expect("cargo describes the target"));
    assert!(
        target == ["x86_64", "linux"],
        "cuda-lazy stands in for CUDA on x86-64 Linux, not on {target:?}"
    );
    for file in ["src/resolve.c", "src/stand_in.S", "symbols"] {
        println!("cargo:rerun-if-changed={file}");
    }
    for library in &LIBRARIES {
        make(library);
    }
}

/// Compiles `lib<name>.a` into `OUT_DIR`.
fn make(library: &Library) {
    let mut compiler = cc::Build::new();
    compiler
        .file(list_stand_ins(library.name))
        .file("src/resolve.c")
        .include("src")
        .define("RESOLVE", &*format!("cuda_lazy_resolve_{}", library.name))
        .define("SONAME", &*format!("\"{}\"", library.soname))
        .define("ABSENT", &*library.absent.to_string())
        .pic(true)
        .opt_level(2)
        .warnings_into_errors(true)
        // Who links what is for the crates that bind these libraries to say.
        .cargo_metadata(false);
    compiler.compile(library.name);
}

/// Writes the assembly source with one `stand_in` per function of the library.
fn list_stand_ins(name: &str) -> PathBuf {
    let list = format!("symbols/{name}.txt");
    let functions =
        fs::read_to_string(&list).unwrap_or_else(|error| panic!("reading {list}: {error}"));
    let mut source = String::from("#include \"stand_in.S\"\n");
    for function in functions.lines() {
        writeln!(source, "stand_in {function}").expect("a string takes all that is written");
    }
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let path = out_dir.join(format!("stand_ins_{name}.S"));
    fs::write(&path, source).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}
