//! More files than a process may open.
#![cfg(target_os = "linux")]

use std::process::Command;

use plm_core::RowId;
use plm_index::IndexConfig;

use crate::Workspace;

#[test]
fn hundreds_of_files_are_read_by_many_readers_in_a_process_that_may_open_few() {
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 64; exec \"$0\" --exact --ignored open_files::three_hundred",
        ])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "run by another test, in a process that may open 64 files"]
fn three_hundred() {
    let workspace = Workspace::new();
    let paths: Vec<_> = (0..300)
        .map(|file| workspace.write(&format!("{file}.fa"), format!(">{file}\nMK\n")))
        .collect();
    let paths: Vec<_> = paths.iter().map(|path| path.as_path()).collect();
    let index = workspace.build(&paths, &IndexConfig::default()).unwrap();
    // A few files are always left for others.
    let others: Vec<_> = (0..20)
        .map(|_| std::fs::File::open("/dev/null").unwrap())
        .collect();
    std::thread::scope(|scope| {
        for first in 0..8 {
            let index = &index;
            scope.spawn(move || {
                let mut reader = index.reader();
                let mut residues = Vec::new();
                for step in 0..300 {
                    let row = RowId((first * 37 + step * 7) % 300);
                    reader.read(row, &mut residues).unwrap();
                    assert_eq!(residues, b"MK");
                }
            });
        }
    });
    drop(others);
}
