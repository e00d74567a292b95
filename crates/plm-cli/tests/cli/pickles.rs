//! Checkpoints that PyTorch wrote, as a person names them.

use std::fs;
use std::path::Path;

use crate::{Desk, TWO};

const PICKLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/pickles");

/// Copies files of `tests/pickles` to the desk.
fn put(desk: &Desk, names: &[&str]) {
    for name in names {
        let to = desk.path(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(Path::new(PICKLES).join(name), to).unwrap();
    }
}

const FAIR: [&str; 2] = [
    "fair/esm2_t2_tiny.pt",
    "fair/esm2_t2_tiny-contact-regression.pt",
];

#[test]
fn vectors_and_contacts_are_the_same_from_every_layout() {
    let desk = Desk::with(TWO);
    put(&desk, &FAIR);
    put(
        &desk,
        &[
            "reference/config.json",
            "reference/model.safetensors",
            "legacy/config.json",
            "legacy/pytorch_model.bin",
        ],
    );
    let exported = ["reference", "legacy", FAIR[0]].map(|model| {
        let said = desk.run(&format!(
            "embed in.fasta --out out --restart --outputs mean,contacts --model {model}"
        ));
        assert_eq!(said.code, Some(0), "{model}: {}", said.stderr);
        let said = desk.run("export out --to npy");
        assert_eq!(said.code, Some(0), "{model}: {}", said.stderr);
        let mut files = desk.files("out_npy");
        files.retain(|path, _| path.extension().is_some_and(|extension| extension == "npy"));
        fs::remove_dir_all(desk.path("out_npy")).unwrap();
        files
    });
    assert!(exported[0].len() > 2, "{:?}", exported[0].keys());
    assert!(exported.iter().all(|files| *files == exported[0]));
}

#[test]
fn info_says_what_a_checkpoint_is() {
    let desk = Desk::with(TWO);
    put(&desk, &FAIR);
    put(&desk, &["zip/config.json", "zip/pytorch_model.bin"]);
    let weights = |said: &str| {
        let line = said.lines().find(|line| line.contains("blake3:"));
        line.unwrap().to_owned()
    };
    let digests = [
        (
            FAIR[0],
            &[
                "esm2_t2_tiny: ESM-2, 2 layers, hidden size 16, 2 heads of 8",
                "esm2_t2_tiny.pt, esm2_t2_tiny-contact-regression.pt, with the names of fair-esm",
                "outputs     mean, bos, max, residues, logits, contacts",
            ][..],
        ),
        (
            "zip",
            &[
                "zip: ESM-2, 2 layers",
                "pytorch_model.bin, with the names of transformers",
            ],
        ),
    ]
    .map(|(model, words)| {
        let said = desk.run(&format!("info {model}"));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        for word in words {
            assert!(said.stdout.contains(word), "no {word:?} in {}", said.stdout);
        }
        weights(&said.stdout)
    });
    assert_eq!(digests[0], digests[1]);
    fs::remove_file(desk.path(FAIR[1])).unwrap();
    let said = desk.run(&format!("info {}", FAIR[0]));
    assert!(!said.stdout.contains("contacts"), "{}", said.stdout);
}

#[test]
fn a_model_of_few_positions_says_how_many_and_refuses_longer_windows() {
    let desk = Desk::with(TWO);
    let model = "esm1b/fair/esm1b_t2_tiny.pt";
    put(&desk, &[model]);
    let said = desk.run(&format!("info {model}"));
    let words = "esm1b_t2_tiny: ESM-1b, 2 layers, hidden size 16, 2 heads of 8, up to 38 residues";
    assert!(said.stdout.contains(words), "{}", said.stdout);
    let embed = format!("embed in.fasta --out out --model {model}");
    for (option, found) in [
        ("", "1022"),
        (
            " --max-residues 39 --on-long window --window-overlap 5",
            "39",
        ),
    ] {
        let found = format!("positions for 38 residues, and max_residues is {found}");
        let words = [&found, "--max-residues 38 is the most"];
        let said = desk.run(&format!("{embed}{option}"));
        said.refuses(3, &words, &desk.path("out"));
    }
    let said = desk.run(&format!("{embed} --max-residues 38"));
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}

#[test]
fn what_is_no_model_is_refused_in_one_sentence() {
    let desk = Desk::with(TWO);
    put(&desk, &FAIR);
    let whole = fs::read(desk.path(FAIR[0])).unwrap();
    // As Python's own pickle writes a call of os.system.
    let command = format!("touch {}", desk.path("it-was-run").display());
    let len = u32::try_from(command.len()).unwrap().to_le_bytes();
    let hostile = [
        b"\x80\x02cposix\nsystem\nX",
        &len[..],
        command.as_bytes(),
        b"\x85R.",
    ];
    fs::write(desk.path("hostile.pt"), hostile.concat()).unwrap();
    fs::write(desk.path("half.pt"), &whole[..whole.len() / 2]).unwrap();
    fs::write(desk.path("page.pt"), "<!DOCTYPE html><html></html>").unwrap();
    fs::copy(desk.path(FAIR[1]), desk.path("head.pt")).unwrap();
    for (model, words) in [
        (
            "hostile.pt",
            &["posix.system", "at byte 2", "nothing was run"][..],
        ),
        ("half.pt", &["half.pt", "no zip file"]),
        ("page.pt", &["page.pt", "web page"]),
        ("head.pt", &["head.pt", "cfg.model.encoder_layers"]),
    ] {
        let command = format!("embed in.fasta --out out --model {model}");
        desk.run(&command).refuses(3, words, &desk.path("out"));
        let said = desk.run(&format!("info {model}"));
        assert_eq!(said.code, Some(3), "{model}: {}", said.stdout);
    }
    assert!(!desk.path("it-was-run").exists());
}
