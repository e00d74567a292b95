//! Runs on fakes: what is promised when all goes well, and when things go wrong.

mod broken_models;
mod faults;
mod hangs;
mod inputs;
mod lanes;
mod planning;
mod poison;
mod random;
mod records;
mod support;
mod windows;
