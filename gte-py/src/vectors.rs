//! Vectors from any source: the nearest of them, and smaller forms.

use gte_core::{Embeddings, similarity};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::errors::to_python;

/// For each of `queries`, the `k` nearest rows of `corpus`: (queries × k) indices and scores.
#[pyfunction]
#[allow(clippy::type_complexity, reason = "two arrays")]
fn top_k<'py>(
    py: Python<'py>,
    queries: PyReadonlyArray2<'py, f32>,
    corpus: PyReadonlyArray2<'py, f32>,
    k: usize,
) -> PyResult<(Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<f32>>)> {
    let (queries, corpus) = (queries.as_array(), corpus.as_array());
    let hits = py.detach(|| similarity::top_k(queries, corpus, k)).map_err(to_python)?;
    let shape = [hits.len(), k.min(corpus.nrows())];
    let indices: Vec<i64> = hits.iter().flatten().map(|hit| hit.index as i64).collect();
    let scores: Vec<f32> = hits.iter().flatten().map(|hit| hit.score).collect();
    Ok((indices.into_pyarray(py).reshape(shape)?, scores.into_pyarray(py).reshape(shape)?))
}

/// int8 values and one scale per row of unit vectors: (rows × dim), (rows).
#[pyfunction]
#[allow(clippy::type_complexity, reason = "two arrays")]
fn to_int8<'py>(
    py: Python<'py>,
    vectors: PyReadonlyArray2<'py, f32>,
) -> PyResult<(Bound<'py, PyArray2<i8>>, Bound<'py, PyArray1<f32>>)> {
    let embeddings = unit_rows(&vectors)?;
    let (rows, dim) = (embeddings.len(), embeddings.dim());
    let quantized = embeddings.to_int8();
    Ok((quantized.values.into_pyarray(py).reshape([rows, dim])?, quantized.scales.into_pyarray(py)))
}

/// One bit per value, packed as by `numpy.packbits`: (rows × ⌈dim / 8⌉).
#[pyfunction]
fn to_ubinary<'py>(py: Python<'py>, vectors: PyReadonlyArray2<'py, f32>) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let embeddings = unit_rows(&vectors)?;
    let (rows, bytes) = (embeddings.len(), embeddings.dim().div_ceil(8));
    embeddings.to_binary().values.into_pyarray(py).reshape([rows, bytes])
}

/// The first `dim` values of each row, scaled to unit length again.
#[pyfunction]
fn truncate<'py>(
    py: Python<'py>,
    vectors: PyReadonlyArray2<'py, f32>,
    dim: usize,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let shorter = unit_rows(&vectors)?.truncate(dim).map_err(to_python)?;
    Ok(shorter.into_array().into_pyarray(py))
}

fn unit_rows(vectors: &PyReadonlyArray2<'_, f32>) -> PyResult<Embeddings> {
    let view = vectors.as_array();
    let dim = view.ncols();
    Embeddings::from_unit_rows(view.iter().copied().collect(), dim).map_err(to_python)
}

pub(crate) fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(top_k, module)?)?;
    module.add_function(wrap_pyfunction!(to_int8, module)?)?;
    module.add_function(wrap_pyfunction!(to_ubinary, module)?)?;
    module.add_function(wrap_pyfunction!(truncate, module)?)
}
