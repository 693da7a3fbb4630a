//! Every block of Rust in the documents, as it stands there: `build.rs` collects them.
#![allow(clippy::all, clippy::unwrap_used, clippy::print_stdout, unused, reason = "written for readers")]

include!(concat!(env!("OUT_DIR"), "/pages.rs"));
