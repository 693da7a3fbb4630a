//! Texts as Python has them: any iterable of `str`, or a column of strings through the Arrow PyCapsule interface (pyarrow, polars, pandas),
//! which is read where it lies, without a Python object a text.

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyString};
use pyo3_arrow::PyChunkedArray;
use pyo3_arrow::input::AnyArray;

use crate::{wrong_type, wrong_value};

/// Texts that are held as long as they are needed.
pub(crate) enum Texts {
    Strings(Vec<PyBackedStr>),
    Columns(Vec<ArrayRef>),
}

impl Texts {
    /// `TypeError` for one `str` or for what is not texts; `ValueError` for a text that is missing.
    pub(crate) fn from_python(texts: &Bound<'_, PyAny>) -> PyResult<Self> {
        if texts.is_instance_of::<PyString>() || texts.is_instance_of::<PyBytes>() {
            return Err(wrong_type("texts is a single text: give a list of texts"));
        }
        let arrow = texts.hasattr("__arrow_c_stream__")? || texts.hasattr("__arrow_c_array__")?;
        // pandas has the interface and needs pyarrow for it; without, its texts are read one by one.
        if arrow && let Ok(column) = texts.extract::<AnyArray>() {
            return Self::from_column(column.into_chunked_array().map_err(|e| wrong_type(format!("texts: {e}")))?);
        }
        let text = |(i, item): (usize, PyResult<Bound<'_, PyAny>>)| {
            let item = item?;
            item.extract::<PyBackedStr>().map_err(|_| match item.is_none() {
                true => wrong_value(format!("text {i} is None")),
                false => wrong_type(format!("text {i} is of type {}, not str", type_name(&item))),
            })
        };
        let items = texts
            .try_iter()
            .map_err(|_| wrong_type(format!("texts is of type {}: give a list of str", type_name(texts))))?;
        Ok(Self::Strings(items.enumerate().map(text).collect::<PyResult<_>>()?))
    }

    fn from_column(column: PyChunkedArray) -> PyResult<Self> {
        let (chunks, field) = column.into_inner();
        match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {}
            other => return Err(wrong_type(format!("texts is a column of {other}, not of strings"))),
        }
        let mut first = 0;
        for chunk in &chunks {
            if let Some(i) = (0..chunk.len()).find(|&i| chunk.is_null(i)) {
                return Err(wrong_value(format!("text {} is null", first + i)));
            }
            first += chunk.len();
        }
        Ok(Self::Columns(chunks))
    }

    /// The texts where they lie.
    pub(crate) fn as_strs(&self) -> Vec<&str> {
        match self {
            Self::Strings(texts) => texts.iter().map(|text| &**text).collect(),
            Self::Columns(chunks) => chunks.iter().flat_map(|chunk| column_strs(chunk)).collect(),
        }
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
