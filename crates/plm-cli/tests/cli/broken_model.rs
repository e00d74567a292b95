//! Weights that make every vector NaN, and weights that are NaN.

use crate::{Desk, TWO, checkpoint};

/// A model with these numbers in the embedding of BOS, with which every sequence starts.
fn with_bos(desk: &Desk, number: f32) {
    checkpoint::write(&desk.path("model"), |tensors| {
        let name = checkpoint::key("embeddings.word_embeddings.weight");
        tensors.get_mut(&name).unwrap().set_row(0, number);
    });
}

#[test]
fn a_weight_that_is_nan_or_infinite_is_refused_with_its_tensor() {
    for number in [f32::NAN, f32::NEG_INFINITY] {
        let desk = Desk::with(TWO);
        with_bos(&desk, number);
        let words = &[
            "model.safetensors has NaN or infinity",
            "the tensor embeddings.word_embeddings.weight",
        ];
        desk.run("embed in.fasta --out out --model model")
            .refuses(3, words, &desk.path("out"));
        assert!(!desk.path("out").exists());
        assert_eq!(desk.run("info model").code, Some(3));
        // What was there stays.
        assert_eq!(desk.run("index in.fasta --out out").code, Some(0));
        let before = desk.files("out");
        desk.run("embed in.fasta --out out --model model")
            .refuses(3, words, &desk.path("out"));
        assert!(desk.files("out") == before);
    }
}

#[test]
fn a_model_whose_vectors_are_all_nan_publishes_nothing() {
    let desk = Desk::with(TWO);
    with_bos(&desk, checkpoint::TOO_LARGE);
    for words in [
        "embed in.fasta --out out --model model",
        "embed in.fasta --out parts --model model --part 1/1",
    ] {
        let out = desk.path(words.split_whitespace().nth(3).unwrap());
        for _ in 0..2 {
            desk.run(words)
                .refuses(1, &["not one of 2 records", "look at the weights"], &out);
        }
        assert!(!out.join("shards/part.json").exists());
    }
}

#[test]
fn a_single_record_is_enough_to_tell() {
    let desk = Desk::with(">one\nMKV\n");
    with_bos(&desk, checkpoint::TOO_LARGE);
    desk.run("embed in.fasta --out out --model model").refuses(
        1,
        &["\"one\" (row 0): the model gave NaN", "look at the weights"],
        &desk.path("out"),
    );
}
