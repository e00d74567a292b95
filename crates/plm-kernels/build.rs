//! Compiles the CUDA kernels, with the feature `cuda`: each `.cu` below `src` to machine code for Hopper and, but for those
//! in `src/hopper`, to PTX, which the driver compiles for any other GPU from the A100 on. Needs nvcc; neither a GPU nor a
//! driver nor the network.
#![allow(
    clippy::print_stdout,
    reason = "it is how a build script talks to cargo"
)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, thread};

/// Compilers that run side by side: each can take a gigabyte.
const COMPILERS: usize = 2;

/// For both targets. Nothing here may loosen f32 arithmetic (as `--use_fast_math` would).
const FLAGS: [&str; 2] = ["-O3", "-std=c++17"];

/// The folder of kernels that use Hopper's own instructions.
const HOPPER: &str = "src/hopper";

/// What each kernel is compiled to: the ending of the file, and the flags that make it.
const TARGETS: [(&str, [&str; 2]); 2] = [
    ("cubin", ["-cubin", "-gencode=arch=compute_90a,code=sm_90a"]),
    ("ptx", ["-ptx", "-gencode=arch=compute_80,code=compute_80"]),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // For tests of the PTX on a Hopper: no machine code is used.
    println!("cargo::rerun-if-env-changed=PLM_KERNELS_PTX_ONLY");
    println!("cargo::rustc-check-cfg=cfg(ptx_only)");
    if env::var_os("PLM_KERNELS_PTX_ONLY").is_some() {
        println!("cargo::rustc-cfg=ptx_only");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    // The folder, so that a new kernel is seen; what did not change is not compiled again.
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");

    let nvcc = Nvcc::find();
    let sources = Sources::below("src");
    let jobs = sources.kernels.iter().flat_map(|kernel| {
        let targets = if kernel.starts_with(HOPPER) {
            1
        } else {
            TARGETS.len()
        };
        TARGETS[..targets]
            .iter()
            .map(move |&target| (kernel, target))
    });
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        for _ in 0..COMPILERS {
            scope.spawn(|| {
                loop {
                    let job = jobs.lock().expect("taking a job does not panic").next();
                    let Some((kernel, (ending, flags))) = job else {
                        return;
                    };
                    nvcc.compile(kernel, &sources.headers, ending, flags);
                }
            });
        }
    });
}

#[derive(Default)]
struct Sources {
    kernels: Vec<PathBuf>,
    headers: Vec<PathBuf>,
}

impl Sources {
    fn below(folder: &str) -> Self {
        let mut sources = Self::default();
        sources.list(Path::new(folder));
        // In one order everywhere, since all headers are part of what a kernel is made of.
        sources.headers.sort();
        let mut stems = HashSet::new();
        for kernel in &sources.kernels {
            assert!(
                stems.insert(kernel.file_stem()),
                "another kernel has the name of {}",
                kernel.display()
            );
        }
        sources
    }

    fn list(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("the sources can be listed") {
            let path = entry.expect("the sources can be listed").path();
            if path.is_dir() {
                self.list(&path);
            } else if path.extension().is_some_and(|extension| extension == "cu") {
                self.kernels.push(path);
            } else if path.extension().is_some_and(|extension| extension == "cuh") {
                self.headers.push(path);
            }
        }
    }
}

struct Nvcc {
    path: PathBuf,
    /// What it says of itself.
    version: String,
    out_dir: PathBuf,
}

impl Nvcc {
    fn find() -> Self {
        let path = env::var_os("CUDA_HOME").map_or_else(
            || PathBuf::from("nvcc"),
            |home| Path::new(&home).join("bin/nvcc"),
        );
        let version = match Command::new(&path).arg("--version").output() {
            Ok(output) if output.status.success() => output.stdout,
            failed => panic!(
                "{} can't be run: the feature `cuda` needs CUDA 13's compiler. \
                 crates/plm-kernels/cuda-build.sh builds with it; crates/plm-kernels/cuda-tools.sh, to be sourced, \
                 fetches it; or set CUDA_HOME to a toolkit. {failed:?}",
                path.display()
            ),
        };
        Self {
            path,
            version: String::from_utf8_lossy(&version).into_owned(),
            out_dir: PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")),
        }
    }

    /// Compiles a kernel, unless what is there was made of the same.
    fn compile(&self, kernel: &Path, headers: &[PathBuf], ending: &str, flags: [&str; 2]) {
        let stem = kernel.file_stem().expect("a kernel has a name");
        let to = self.out_dir.join(stem).with_extension(ending);
        let made_of = self
            .out_dir
            .join(stem)
            .with_extension(format!("{ending}.made_of"));
        let ingredients = self.ingredients(kernel, headers, flags);
        if to.exists() && fs::read(&made_of).is_ok_and(|made_of| made_of == ingredients) {
            return;
        }
        let output = Command::new(&self.path)
            .args(flags)
            .args(FLAGS)
            .arg("-o")
            .arg(&to)
            .arg(kernel)
            .output()
            .unwrap_or_else(|error| panic!("running {}: {error}", self.path.display()));
        assert!(
            output.status.success(),
            "nvcc could not compile {} ({}):\n{}{}",
            kernel.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        fs::write(&made_of, ingredients).expect("OUT_DIR can be written to");
    }

    /// All that the result depends on.
    fn ingredients(&self, kernel: &Path, headers: &[PathBuf], flags: [&str; 2]) -> Vec<u8> {
        let mut all = self.version.clone().into_bytes();
        for flag in flags.iter().chain(&FLAGS) {
            all.extend_from_slice(flag.as_bytes());
            all.push(b'\n');
        }
        for path in headers.iter().map(PathBuf::as_path).chain([kernel]) {
            let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            all.extend_from_slice(path.as_os_str().as_encoded_bytes());
            all.extend_from_slice(&text);
        }
        all
    }
}
