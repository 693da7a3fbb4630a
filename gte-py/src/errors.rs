//! Translates the engine's errors to Python exceptions.

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;

create_exception!(gte, Error, PyException, "Any error of gte; see the subclasses.");
create_exception!(
    gte,
    ModelNotFound,
    Error,
    "There is no such directory, file or hub id, or the model is not in the cache while offline."
);
create_exception!(gte, InvalidModel, Error, "The model's files are damaged or of an unsupported kind.");
create_exception!(
    gte,
    DownloadError,
    Error,
    "The hub refused the download, broke it off, or sent something unexpected."
);
create_exception!(gte, TokenizationError, Error, "A text cannot be tokenized.");
create_exception!(gte, DeviceError, Error, "The device failed.");

/// The Python exception of an error. An invalid option is a `ValueError`.
pub(crate) fn to_python(error: gte_core::Error) -> PyErr {
    use gte_core::Error as Core;
    let message = match &error {
        Core::WrongTask { model, found } => {
            let (article, class) = if *found == "embedder" { ("an", "Embedder") } else { ("a", "Reranker") };
            format!("{model} is {article} {found}: open it with gte.{class}")
        }
        error => error.to_string(),
    };
    match error {
        Core::Io { .. }
        | Core::MissingFile { .. }
        | Core::InvalidModelId { .. }
        | Core::NotOnHub { .. }
        | Core::Offline { .. } => ModelNotFound::new_err(message),
        Core::Unauthorized { .. } | Core::Download { .. } | Core::Corrupt { .. } => DownloadError::new_err(message),
        Core::Tokenize { .. } => TokenizationError::new_err(message),
        Core::TokenId { .. }
        | Core::TokenCount { .. }
        | Core::Dimensions { .. }
        | Core::Rows { .. }
        | Core::OutputLength { .. }
        | Core::InvalidOption { .. } => PyValueError::new_err(message),
        Core::NoRow { .. } => PyIndexError::new_err(message),
        Core::Device { .. } | Core::DeviceMemory { .. } | Core::DeviceLost { .. } => DeviceError::new_err(message),
        _ => InvalidModel::new_err(message),
    }
}

/// Corrects the text index of an error: the piece that it is about begins with text number `first`.
pub(crate) fn counted_from(first: usize, error: gte_core::Error) -> gte_core::Error {
    match error {
        gte_core::Error::Tokenize { index, reason } => gte_core::Error::Tokenize { index: first + index, reason },
        error => error,
    }
}

/// A `TypeError`.
pub(crate) fn wrong_type(message: impl Into<String>) -> PyErr {
    PyTypeError::new_err(message.into())
}

/// A `ValueError`.
pub(crate) fn wrong_value(message: impl Into<String>) -> PyErr {
    PyValueError::new_err(message.into())
}

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("Error", py.get_type::<Error>())?;
    module.add("ModelNotFound", py.get_type::<ModelNotFound>())?;
    module.add("InvalidModel", py.get_type::<InvalidModel>())?;
    module.add("DownloadError", py.get_type::<DownloadError>())?;
    module.add("TokenizationError", py.get_type::<TokenizationError>())?;
    module.add("DeviceError", py.get_type::<DeviceError>())
}
