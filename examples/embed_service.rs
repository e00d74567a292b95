//! Answers requests from many threads with one model that stays loaded, and writes no files.
//!
//! ```text
//! cargo run --release --example embed_service
//! ```
//!
//! A server does the same: each of its workers takes a request, asks the embedder, and answers. The
//! embedder computes together what is asked for while its devices are busy.

#![expect(clippy::print_stdout, reason = "examples talk to people")]

use std::error::Error;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use plm_fleet::{Embedder, EmbedderConfig, Embedding, Model, SequenceError};

/// What a client asks: some proteins by name, and where the answers go.
struct Request {
    proteins: Vec<(String, String)>,
    answer: Sender<(String, Result<Embedding, SequenceError>)>,
}

fn main() -> Result<(), Box<dyn Error>> {
    // `Model::Checkpoint` opens ESM-2. By default, the embedder takes all GPUs of the machine.
    let embedder = Embedder::new(&Model::PlmTiny, &EmbedderConfig::default())?;
    let (to_service, requests) = channel::<Request>();
    let requests = Mutex::new(requests);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
                    let Ok(Request { proteins, answer }) = requests.recv() else {
                        return;
                    };
                    drop(requests);
                    for named in embedder.embed(proteins).as_they_come() {
                        if answer.send(named).is_err() {
                            // The client has gone. What it asked for is forgotten.
                            break;
                        }
                    }
                }
            });
        }
        let clients: Vec<_> = (0..3)
            .map(|client| {
                let to_service = to_service.clone();
                scope.spawn(move || ask(client, &to_service))
            })
            .collect();
        drop(to_service);
        for answers in clients.into_iter().filter_map(|client| client.join().ok()) {
            answers.iter().for_each(|line| println!("{line}"));
        }
    });
    Ok(())
}

/// A client: it asks for two proteins, and gives the answers in words.
fn ask(client: u32, to_service: &Sender<Request>) -> Vec<String> {
    let (answer, answers) = channel();
    let proteins = [
        ("ubiquitin", "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEG"),
        ("typo", "MK7AA"),
    ];
    let proteins = proteins.map(|(name, residues)| (format!("{client}/{name}"), residues.into()));
    let request = Request {
        proteins: proteins.into(),
        answer,
    };
    if to_service.send(request).is_err() {
        return Vec::new();
    }
    let mut told: Vec<String> = answers
        .iter()
        .map(|(name, embedded)| match embedded {
            Ok(embedding) => format!("{name}: {} numbers", embedding.values(0).len()),
            Err(error) => format!("{name}: {error}"),
        })
        .collect();
    told.sort();
    told
}
