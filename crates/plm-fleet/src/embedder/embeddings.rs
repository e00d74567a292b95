//! The answers of one call, taken from the input as they are asked for.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use plm_core::RowId;

use super::deliveries::{Answer, Mailbox};
use super::{Embedder, SequenceError};

/// The most sequences that a call may have in it, however short they are.
const MOST_SEQUENCES: usize = 1 << 16;

/// The embeddings of a call to [`Embedder::embed`]: each id, with the sequence's values or the
/// reason if it has none.
#[must_use = "an iterator computes nothing until it is asked"]
pub struct Embeddings<'a, I, Id> {
    embedder: &'a Embedder,
    /// `None` after its end.
    input: Option<I>,
    mailbox: Arc<Mailbox>,
    /// The sequences that were taken from the input and not given back, in its order.
    taken: BTreeMap<RowId, Taken<Id>>,
    /// The tokens of all of these.
    tokens: u64,
    /// The sequences that are done, in the order in which they were; `None` if they are given in
    /// the order of the input.
    done: Option<VecDeque<RowId>>,
}

/// A sequence that was taken from the input.
struct Taken<Id> {
    id: Id,
    tokens: u64,
    /// `None` until it is done.
    answer: Option<Answer>,
}

impl<'a, I, Id, S> Embeddings<'a, I, Id>
where
    I: Iterator<Item = (Id, S)>,
    S: AsRef<[u8]>,
{
    pub(super) fn new(embedder: &'a Embedder, input: I) -> Self {
        Self {
            embedder,
            input: Some(input),
            mailbox: Arc::default(),
            taken: BTreeMap::new(),
            tokens: 0,
            done: None,
        }
    }

    /// Gives sequences as soon as they are done, in any order.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    ///
    /// use plm_fleet::{Embedder, EmbedderConfig, Model};
    ///
    /// let embedder = Embedder::new(&Model::PlmTiny, &EmbedderConfig::default())?;
    /// let proteins = [("short", "MK"), ("long", "MKTAYIAKQRGSHMRYQ")];
    /// let embedded: BTreeMap<_, _> = embedder.embed(proteins).as_they_come().collect();
    /// assert!(embedded["short"].is_ok() && embedded["long"].is_ok());
    /// # Ok::<(), plm_fleet::Error>(())
    /// ```
    pub fn as_they_come(mut self) -> Self {
        let done = self
            .taken
            .iter()
            .filter(|(_, taken)| taken.answer.is_some());
        self.done = Some(done.map(|(row, _)| *row).collect());
        self
    }

    /// Takes sequences from the input, as many as there is room for, once half of the room is free.
    fn refill(&mut self) {
        let most_tokens = self.embedder.most_tokens();
        if self.tokens > most_tokens / 2 || self.taken.len() > MOST_SEQUENCES / 2 {
            return;
        }
        let mut added = Vec::new();
        while self.tokens < most_tokens && self.taken.len() < MOST_SEQUENCES {
            let Some((id, sequence)) = self.input.as_mut().and_then(Iterator::next) else {
                self.input = None;
                break;
            };
            let row = self.embedder.next_row();
            let (tokens, answer) = match self.embedder.prepare(sequence.as_ref()) {
                Ok((residues, tokens)) => {
                    added.push((row, residues));
                    (tokens, None)
                }
                Err(error) => (0, Some(Err(error))),
            };
            self.tokens += tokens;
            if let (Some(done), Some(_)) = (&mut self.done, &answer) {
                done.push_back(row);
            }
            let taken = Taken { id, tokens, answer };
            self.taken.insert(row, taken);
        }
        let rows = added.iter().map(|(row, _)| *row);
        match self.embedder.deliveries.expect(rows, &self.mailbox) {
            Ok(()) => self.embedder.session.add(added),
            Err(ended) => {
                for (row, _) in added {
                    self.arrive(row, Err(ended.clone()));
                }
            }
        }
    }

    fn arrive(&mut self, row: RowId, answer: Answer) {
        if let Some(taken) = self.taken.get_mut(&row) {
            taken.answer = Some(answer);
            if let Some(done) = &mut self.done {
                done.push_back(row);
            }
        }
    }

    /// The next sequence to give back, if it is done.
    fn ready(&mut self) -> Option<(Id, Answer)> {
        let row = match &mut self.done {
            Some(done) => done.pop_front()?,
            None => {
                let (row, first) = self.taken.first_key_value()?;
                first.answer.as_ref()?;
                *row
            }
        };
        let Taken { id, tokens, answer } = self.taken.remove(&row)?;
        self.tokens -= tokens;
        Some((id, answer?))
    }
}

impl<I, Id, S> Iterator for Embeddings<'_, I, Id>
where
    I: Iterator<Item = (Id, S)>,
    S: AsRef<[u8]>,
{
    type Item = (Id, Result<super::Embedding, SequenceError>);

    fn next(&mut self) -> Option<Self::Item> {
        self.refill();
        let mut waits = false;
        loop {
            for (row, answer) in self.mailbox.take(waits) {
                self.arrive(row, answer);
            }
            if let Some(ready) = self.ready() {
                return Some(ready);
            }
            if self.taken.is_empty() {
                return None;
            }
            waits = true;
        }
    }
}

impl<I, Id> Drop for Embeddings<'_, I, Id> {
    fn drop(&mut self) {
        let left = self
            .taken
            .iter()
            .filter(|(_, taken)| taken.answer.is_none());
        self.embedder.deliveries.forget(left.map(|(row, _)| *row));
    }
}

impl<I, Id> fmt::Debug for Embeddings<'_, I, Id> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embeddings")
            .field("taken", &self.taken.len())
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}
