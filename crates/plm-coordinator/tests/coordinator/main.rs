//! Runs on fakes: what is promised when all goes well, and when things go wrong.

mod faults;
mod hangs;
mod lanes;
mod planning;
mod poison;
mod random;
mod records;
mod support;
mod windows;
