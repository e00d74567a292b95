//! Weights that make every vector NaN.

use crate::{Desk, TWO, checkpoint};

/// A model with a NaN in the embedding of BOS, with which every sequence starts.
fn with_a_nan(desk: &Desk) {
    checkpoint::write(&desk.path("model"), |tensors| {
        let name = checkpoint::key("embeddings.word_embeddings.weight");
        tensors.get_mut(&name).unwrap().set_row(0, f32::NAN);
    });
}

#[test]
fn a_model_with_a_nan_in_its_weights_publishes_nothing() {
    let desk = Desk::with(TWO);
    with_a_nan(&desk);
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
    with_a_nan(&desk);
    desk.run("embed in.fasta --out out --model model").refuses(
        1,
        &["\"one\" (row 0): the model gave NaN", "look at the weights"],
        &desk.path("out"),
    );
}
