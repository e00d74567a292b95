//! Runs on fakes: what a run promises when nothing fails, and when something does.

mod broken_models;
mod faults;
mod hangs;
mod identical;
mod inputs;
mod lanes;
mod planning;
mod poison;
mod random;
mod records;
mod session;
mod support;
mod windows;
