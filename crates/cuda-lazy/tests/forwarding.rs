//! What arrives behind a stand-in, at a library made here in place of the real one.
#![cfg(feature = "link")]
#![allow(unsafe_code, reason = "what is tested here is called from C bindings")]

use std::ffi::c_int;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Takes more integers than there are registers for them, and as many vectors as there are; answers
/// with the number of the call. (The real function takes other arguments.)
const LIBRARY: &str = "
    int curandGenerateNormal(long a, long b, long c, long d, long e, long f, long g, long h,
                             double s, double t, double u, double v, double w, double x, double y, double z) {
        static int calls;
        int right = a == 1 && b == 2 && c == 3 && d == 4 && e == 5 && f == 6 && g == 7 && h == -8 &&
                    s == .5 && t == 1.5 && u == 2.5 && v == 3.5 && w == 4.5 && x == 5.5 && y == 6.5 && z == -7.5;
        return right ? ++calls : -1;
    }";

#[link(name = "curand")]
unsafe extern "C" {
    fn curandGenerateNormal(
        a: i64,
        b: i64,
        c: i64,
        d: i64,
        e: i64,
        f: i64,
        g: i64,
        h: i64,
        s: f64,
        t: f64,
        u: f64,
        v: f64,
        w: f64,
        x: f64,
        y: f64,
        z: f64,
    ) -> c_int;
}

/// In a process of its own: the library is found by the loader's path, which is read at the start.
#[test]
fn a_call_keeps_its_arguments() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("forwarding");
    fs::create_dir_all(&folder).unwrap();
    let source = folder.join("library.c");
    fs::write(&source, LIBRARY).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(folder.join("libcurand.so.10"))
        .arg(&source)
        .status()
        .unwrap();
    assert!(compiled.success());

    let inner = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "inner"])
        .env("LD_LIBRARY_PATH", &folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&inner.stdout);
    assert!(
        inner.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[test]
#[ignore = "part of a_call_keeps_its_arguments"]
fn inner() {
    for call in 1..=3 {
        // SAFETY: the library above is what is called.
        let answer = unsafe {
            curandGenerateNormal(
                1, 2, 3, 4, 5, 6, 7, -8, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, -7.5,
            )
        };
        assert_eq!(answer, call);
    }
}
