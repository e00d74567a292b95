//! Compiles the CUDA kernels, with the feature `cuda`, for each generation of GPUs in
//! `src/generation.rs`: every `generic.cu` below `src` for all of them, and every `.cu` with the
//! name of a generation for that one. Needs nvcc; neither a GPU nor a driver nor the network.
//!
//! What kernels and the code that launches them share is in `src/contract.rs`, which becomes the
//! header `contract.cuh`. A kernel's files in `OUT_DIR` have the name of its path below `src` with
//! `_` for `/`: from `attention/hopper.cu` come `attention_hopper.hopper.cubin`, and
//! `attention_hopper.rs`, the list of what it was compiled to, which `src/cuda/modules.rs`
//! includes. So stems need not be unique; a folder holds one `.cu` for all and one for each
//! generation.
#![allow(
    clippy::print_stdout,
    reason = "it is how a build script talks to cargo"
)]

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, thread};

use contract::Number;
use generation::{Generation, Target};

#[allow(
    dead_code,
    unreachable_pub,
    reason = "the crate itself uses the rest, and shows some"
)]
#[path = "src/contract.rs"]
mod contract;
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the crate itself uses the rest, and shows some"
)]
#[path = "src/generation.rs"]
mod generation;

/// Compilers that run side by side: each can take a gigabyte.
const COMPILERS: usize = 2;

/// For all targets. Nothing here may loosen f32 arithmetic (as `--use_fast_math` would).
const FLAGS: [&str; 3] = ["-O3", "-std=c++17", "-Isrc"];

/// The stem of a kernel for all generations.
const GENERIC: &str = "generic";

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
    let header = nvcc.out_dir.join("contract.cuh");
    write_if_changed(&header, &contract_for_cpp());
    let headers: Vec<PathBuf> = sources.headers.into_iter().chain([header]).collect();
    for kernel in &sources.kernels {
        let list = nvcc.out_dir.join(format!("{}.rs", kernel.name));
        write_if_changed(&list, &kernel.list_of_images());
    }
    let jobs = sources.kernels.iter().flat_map(|kernel| {
        let generations = kernel.generations.iter();
        generations.map(move |&generation| (kernel, generation))
    });
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        for _ in 0..COMPILERS {
            scope.spawn(|| {
                loop {
                    let job = jobs.lock().expect("taking a job does not panic").next();
                    let Some((kernel, generation)) = job else {
                        return;
                    };
                    nvcc.compile(kernel, generation, &headers);
                }
            });
        }
    });
}

#[derive(Default)]
struct Sources {
    kernels: Vec<Kernel>,
    headers: Vec<PathBuf>,
}

/// A `.cu` file.
struct Kernel {
    path: PathBuf,
    /// What its files in `OUT_DIR` are called.
    name: String,
    /// Those that it is for.
    generations: Vec<&'static Generation>,
}

impl Sources {
    fn below(folder: &str) -> Self {
        let mut sources = Self::default();
        sources.list(Path::new(folder));
        // In one order everywhere, since all headers are part of what a kernel is made of.
        sources.headers.sort();
        let mut names = HashSet::new();
        for kernel in &sources.kernels {
            assert!(
                names.insert(&kernel.name),
                "another kernel has the name of {}",
                kernel.path.display()
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
                self.kernels.push(Kernel::of(path));
            } else if path.extension().is_some_and(|extension| extension == "cuh") {
                self.headers.push(path);
            }
        }
    }
}

impl Kernel {
    fn of(path: PathBuf) -> Self {
        let parts = path.iter().skip(1).map(|part| part.to_string_lossy());
        let name = parts.collect::<Vec<_>>().join("_");
        let stem = path.file_stem().expect("a kernel has a name");
        let generations: Vec<_> = Generation::ALL
            .into_iter()
            .filter(|generation| stem == GENERIC || stem == generation.name)
            .collect();
        assert!(
            !generations.is_empty(),
            "{} is neither {GENERIC}.cu nor has it the name of a generation",
            path.display()
        );
        Self {
            name: name.trim_end_matches(".cu").to_owned(),
            path,
            generations,
        }
    }

    /// The file that it is compiled to for a generation.
    fn image(&self, generation: &Generation) -> String {
        let ending = match generation.target {
            Target::MachineCode(_) => "cubin",
            Target::Ptx(_) => "ptx",
        };
        format!("{}.{}.{ending}", self.name, generation.name)
    }

    /// A slice of `(generation's name, image)` in Rust.
    fn list_of_images(&self) -> String {
        let mut list = String::from("&[\n");
        for generation in &self.generations {
            let path = format!(
                "concat!(env!(\"OUT_DIR\"), \"/{}\")",
                self.image(generation)
            );
            let image = match generation.target {
                Target::MachineCode(_) => format!("MachineCode(include_bytes!({path}))"),
                Target::Ptx(_) => format!("Ptx(include_str!({path}))"),
            };
            let name = generation.name;
            writeln!(list, "    (\"{name}\", crate::cuda::Image::{image}),")
                .expect("a string takes it");
        }
        list + "]\n"
    }
}

/// `src/contract.rs` as a header.
fn contract_for_cpp() -> String {
    let mut header = String::from(
        "// Made by build.rs from contract.rs, which says what each of these is.\n\
         #pragma once\n\n#include <cstddef>\n\nnamespace contract {\n",
    );
    for (name, number) in contract::CONSTANTS {
        header += &match number {
            Number::Int(value) => format!("constexpr int {name} = {value};\n"),
            Number::Float(value) => format!("constexpr float {name} = {value:?}f;\n"),
        };
    }
    header += "} // namespace contract\n\n#define FOR_GPU_HEAD_DIMS(DO)";
    for head_dim in contract::GPU_HEAD_DIMS {
        header += &format!(" DO({head_dim})");
    }
    header += "\n";
    for layout in contract::LAYOUTS {
        let (name, bytes, align) = (layout.name, layout.bytes, layout.align);
        let mut holds =
            format!("sizeof(__VA_ARGS__) == {bytes} && alignof(__VA_ARGS__) == {align}");
        for (field, offset) in layout.fields {
            holds += &format!(" && offsetof(__VA_ARGS__, {field}) == {offset}");
        }
        header += &format!(
            "#define SAME_LAYOUT_{name}(...) static_assert({holds}, \"{name} lies otherwise in Rust\")\n"
        );
    }
    header
}

fn write_if_changed(path: &Path, text: &str) {
    if !fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        fs::write(path, text).expect("OUT_DIR can be written to");
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

    /// Compiles a kernel for a generation, unless what is there was made of the same.
    fn compile(&self, kernel: &Kernel, generation: &Generation, headers: &[PathBuf]) {
        let flags = match generation.target {
            Target::MachineCode(arch) => [
                "-cubin".to_owned(),
                format!("-gencode=arch=compute_{arch},code=sm_{arch}"),
            ],
            Target::Ptx(arch) => [
                "-ptx".to_owned(),
                format!("-gencode=arch=compute_{arch},code=compute_{arch}"),
            ],
        };
        let image = kernel.image(generation);
        let to = self.out_dir.join(&image);
        let made_of = self.out_dir.join(format!("{image}.made_of"));
        let ingredients = self.ingredients(&kernel.path, headers, &flags);
        if to.exists() && fs::read(&made_of).is_ok_and(|made_of| made_of == ingredients) {
            return;
        }
        let output = Command::new(&self.path)
            .args(&flags)
            .args(FLAGS)
            // Where `contract.cuh` is.
            .arg("-I")
            .arg(&self.out_dir)
            .arg("-o")
            .arg(&to)
            .arg(&kernel.path)
            .output()
            .unwrap_or_else(|error| panic!("running {}: {error}", self.path.display()));
        assert!(
            output.status.success(),
            "nvcc could not compile {} ({}):\n{}{}",
            kernel.path.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        fs::write(&made_of, ingredients).expect("OUT_DIR can be written to");
    }

    /// All that the result depends on.
    fn ingredients(&self, kernel: &Path, headers: &[PathBuf], flags: &[String]) -> Vec<u8> {
        let mut all = self.version.clone().into_bytes();
        for flag in flags.iter().map(String::as_str).chain(FLAGS) {
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
