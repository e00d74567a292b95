//! Makes the stand-ins, if the feature `link` asks for them.
#![allow(
    clippy::print_stdout,
    reason = "it is how a build script talks to cargo"
)]

#[cfg(feature = "link")]
mod cuda_home;
#[cfg(feature = "link")]
mod stand_ins;

fn main() {
    println!("cargo:rerun-if-changed=build");
    #[cfg(feature = "link")]
    {
        use std::{env, path::PathBuf};

        let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        stand_ins::make_all();
        cuda_home::copy_runtime(&out_dir);
        println!("cargo:rustc-link-search=native={}", out_dir.display());
    }
}
