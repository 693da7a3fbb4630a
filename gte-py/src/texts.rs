//! Reads texts from Python: any iterable of `str`, or a column of strings through the Arrow
//! PyCapsule interface (pyarrow, polars, pandas), which is read in place, without a Python object
//! per text.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyFrozenSet, PyMapping, PyMemoryView, PySet, PyString};
use pyo3_arrow::PyChunkedArray;
use pyo3_arrow::input::AnyArray;

use crate::errors::{wrong_type, wrong_value};

/// The words for texts in errors: for one of them, and for all.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    one: &'static str,
    all: &'static str,
}

pub(crate) const TEXT: Kind = Kind { one: "text", all: "texts" };
pub(crate) const QUERY: Kind = Kind { one: "query", all: "queries" };
pub(crate) const DOCUMENT: Kind = Kind { one: "document", all: "documents" };

/// Texts that are kept alive as long as they are needed.
pub(crate) enum Texts {
    Strings(Vec<PyBackedStr>),
    Columns(Vec<ArrayRef>),
}

impl Texts {
    /// Raises `TypeError` for a single `str` or anything else that is not a list of texts, and
    /// `ValueError` for a missing text or one that is not UTF-8, with its position, counted from
    /// `first`.
    pub(crate) fn from_python(texts: &Bound<'_, PyAny>, kind: Kind, first: usize) -> PyResult<Self> {
        let all = kind.all;
        refuse_what_is_no_list(texts, all)?;
        let arrow = texts.hasattr("__arrow_c_stream__")? || texts.hasattr("__arrow_c_array__")?;
        // pandas has the interface, but needs pyarrow for it. Without pyarrow, its texts are read
        // one by one.
        if arrow && let Ok(column) = texts.extract::<AnyArray>() {
            let column = column.into_chunked_array().map_err(|e| wrong_type(format!("{all}: {e}")))?;
            return Self::from_column(column, kind, first);
        }
        let items = texts
            .try_iter()
            .map_err(|_| wrong_type(format!("{all} is of type {}, expected a list of str", type_name(texts))))?;
        Ok(Self::Strings(items.enumerate().map(|(i, item)| text(kind, first + i, &item?)).collect::<PyResult<_>>()?))
    }

    fn from_column(column: PyChunkedArray, kind: Kind, mut first: usize) -> PyResult<Self> {
        let all = kind.all;
        let (chunks, field) = column.into_inner();
        match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {}
            DataType::Struct(_) => return Err(wrong_type(format!("{all} is a table, expected one of its columns"))),
            other => return Err(wrong_type(format!("{all} is a column of {other}, expected a column of strings"))),
        }
        for chunk in &chunks {
            if let Some(i) = (0..chunk.len()).find(|&i| chunk.is_null(i)) {
                return Err(wrong_value(format!("{} {} is null", kind.one, first + i)));
            }
            first += chunk.len();
        }
        Ok(Self::Columns(chunks))
    }

    /// The texts as slices of their own memory.
    pub(crate) fn as_strs(&self) -> Vec<&str> {
        match self {
            Self::Strings(texts) => texts.iter().map(|text| &**text).collect(),
            Self::Columns(chunks) => chunks.iter().flat_map(|chunk| column_strs(chunk)).collect(),
        }
    }
}

/// Refuses iterables that would give something other than the intended texts.
fn refuse_what_is_no_list(texts: &Bound<'_, PyAny>, all: &str) -> PyResult<()> {
    let what = type_name(texts);
    if texts.is_instance_of::<PyString>() {
        return Err(wrong_type(format!("{all} is a single text, expected a list of texts")));
    }
    let bytes = texts.is_instance_of::<PyBytes>() || texts.is_instance_of::<PyByteArray>();
    if bytes || texts.is_instance_of::<PyMemoryView>() {
        return Err(wrong_type(format!("{all} is of type {what}, expected a list of str: decode it first")));
    }
    if texts.is_instance_of::<PySet>() || texts.is_instance_of::<PyFrozenSet>() {
        return Err(wrong_type(format!("{all} is a {what}, which has no order, expected a list of str")));
    }
    if texts.is_instance_of::<PyDict>() || texts.cast::<PyMapping>().is_ok() {
        return Err(wrong_type(format!("{all} is a {what}, expected a list of str, such as list({all}.values())")));
    }
    // Iterating over a pandas table gives its column names, over a numpy matrix its rows.
    if let Ok(dimensions) = texts.getattr("ndim").and_then(|n| n.extract::<usize>())
        && dimensions != 1
    {
        return Err(wrong_type(format!(
            "{all} is a {what} of {dimensions} dimensions, expected a list of str or one column"
        )));
    }
    Ok(())
}

/// Reads one text.
fn text(kind: Kind, index: usize, item: &Bound<'_, PyAny>) -> PyResult<PyBackedStr> {
    let name = || format!("{} {index}", kind.one);
    let Ok(string) = item.cast::<PyString>() else {
        let what = type_name(item);
        let missing = item.is_none() || ["NAType", "NaTType"].contains(&what.as_str());
        return Err(match missing || item.extract::<f64>().is_ok_and(f64::is_nan) {
            true => wrong_value(format!("{} is {item}, which is a missing text", name())),
            false => wrong_type(format!("{} is of type {what}, expected str", name())),
        });
    };
    PyBackedStr::try_from(string.clone()).map_err(|error| not_utf8(&name(), string, error))
}

/// An argument that becomes part of a text.
pub(crate) fn argument(name: &str, value: Option<Bound<'_, PyString>>) -> PyResult<Option<PyBackedStr>> {
    value.map(|string| utf8(name, &string)).transpose()
}

/// A `str` as UTF-8. Errors call it `name`.
pub(crate) fn utf8(name: &str, string: &Bound<'_, PyString>) -> PyResult<PyBackedStr> {
    PyBackedStr::try_from(string.clone()).map_err(|error| not_utf8(name, string, error))
}

/// Raises a `TypeError` for iterables that are not a list of texts: a str, bytes, a dict, a set, a
/// table.
#[pyfunction]
#[pyo3(signature = (texts, name = "texts"))]
pub(crate) fn check_texts(texts: &Bound<'_, PyAny>, name: &str) -> PyResult<()> {
    refuse_what_is_no_list(texts, name)
}

/// The error for a `str` that cannot be encoded as UTF-8, because it contains half of a surrogate
/// pair.
fn not_utf8(what: &str, string: &Bound<'_, PyString>, error: PyErr) -> PyErr {
    let py = string.py();
    if !error.is_instance_of::<PyUnicodeEncodeError>(py) {
        return error;
    }
    let found = || -> PyResult<(usize, u32)> {
        let position = error.value(py).getattr("start")?.extract::<usize>()?;
        let builtins = py.import("builtins")?;
        Ok((position, builtins.call_method1("ord", (string.get_item(position)?,))?.extract()?))
    };
    match found() {
        Ok((position, code)) => wrong_value(format!(
            "{what} is not UTF-8: the lone surrogate U+{code:04X} at character {position}: \
             decode its source without errors=\"surrogateescape\", or replace it"
        )),
        Err(error) => error,
    }
}

fn column_strs(chunk: &ArrayRef) -> Vec<&str> {
    match chunk.data_type() {
        DataType::LargeUtf8 => chunk.as_string::<i64>().iter().flatten().collect(),
        DataType::Utf8View => chunk.as_string_view().iter().flatten().collect(),
        _ => chunk.as_string::<i32>().iter().flatten().collect(),
    }
}

fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string())
}
