//! Models by name: found in the cache of the Hugging Face hub, or downloaded into it.
//!
//! [`Hub::find`] takes a [`ModelName`], `owner/name@revision`, and gives a directory with the
//! model's files at one commit. The cache is the one that Python's huggingface_hub keeps, in the
//! same layout and with the same locks. So what one has downloaded, the other finds.
//!
//! What is on disk and on the network may come from anyone. Names that lead out of their directory
//! are refused, and a file gets its name when its digest is right.
//!
//! This crate reads no environment variables: [`HubConfig::of_variables`] takes them from its
//! caller. It must not know what is in the files, nor any model.
//!
//! # Features
//! - `download` downloads what the cache lacks. Without it, [`Hub::find`] reads the cache alone.

mod cache;
mod config;
#[cfg(feature = "download")]
mod download;
mod error;
mod hub;
mod name;
mod wanted;

pub use cache::Snapshot;
pub use config::{HubConfig, Token};
pub use error::{Error, NotDownloaded};
pub use hub::{Event, Hub, Progress};
pub use name::ModelName;
pub use wanted::{Wanted, WeightFiles};

/// The examples of README.md are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
