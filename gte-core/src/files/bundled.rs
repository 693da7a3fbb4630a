//! The files of the bundled model. `bundled/README.md` tells how it was made.

/// The name of the bundled model, which is used like a directory or a hub id. A directory with this
/// name can be opened as `./bundled`.
pub const NAME: &str = "bundled";

/// The content of one of its files.
pub(super) fn file(name: &str) -> Option<&'static [u8]> {
    gte_bundled_model::FILES.iter().find(|(path, _)| *path == name).map(|(_, content)| *content)
}
