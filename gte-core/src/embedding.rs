//! `Embeddings`: unit vectors, one per row, in one allocation, and their shorter and smaller forms.

use ndarray::{Array2, ArrayView2};

use crate::error::{Error, Result};

/// Vectors of unit length, one per text. Because of their length, their dot product *is* their
/// cosine.
///
/// ```
/// use gte_core::Embeddings;
///
/// let vectors = Embeddings::from_unit_rows(vec![0.6, 0.8, 0.0, 1.0, 0.0, 0.0], 3)?;
/// assert_eq!((vectors.len(), vectors.dim()), (2, 3));
/// assert_eq!(vectors.get(1), Some(&[1.0, 0.0, 0.0][..]));
///
/// // Matryoshka, a quarter of the size, and a thirty-second of it.
/// assert_eq!(vectors.truncate(2)?.dim(), 2);
/// assert!((vectors.to_int8().dot(0, 1)? - 0.6).abs() < 0.01);
/// assert_eq!(vectors.to_binary().hamming(0, 1)?, 1);
/// # Ok::<(), gte_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    values: Vec<f32>, // (rows × dim)
    dim: usize,
}

impl Embeddings {
    /// Takes rows that already have unit length. `dim` is the length of a row.
    ///
    /// # Errors
    /// [`Error::Rows`] if `values` is not a whole number of rows, or if `dim` is more than an array
    /// can have.
    pub fn from_unit_rows(values: Vec<f32>, dim: usize) -> Result<Self> {
        // The upper limit is that of `ndarray`, which checks it even if there are no rows.
        if dim == 0 || isize::try_from(dim).is_err() || !values.len().is_multiple_of(dim) {
            return Err(Error::Rows { values: values.len(), dim });
        }
        Ok(Self { values, dim })
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Number of values per vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Vector `i`, or None if there are fewer vectors.
    pub fn get(&self, i: usize) -> Option<&[f32]> {
        self.rows().nth(i)
    }

    /// The vectors in order.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.dim)
    }

    /// All values, row after row.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    /// All values, row after row, without a copy.
    pub fn into_vec(self) -> Vec<f32> {
        self.values
    }

    /// A view of shape (rows × dim).
    pub fn view(&self) -> ArrayView2<'_, f32> {
        ArrayView2::from_shape((self.len(), self.dim), &self.values).expect("whole rows, by construction")
    }

    /// An array of shape (rows × dim), without a copy.
    pub fn into_array(self) -> Array2<f32> {
        Array2::from_shape_vec((self.len(), self.dim), self.values).expect("whole rows, by construction")
    }

    /// The first `dim` values of each vector, scaled to unit length again (Matryoshka embeddings,
    /// Kusupati et al. 2022, <https://arxiv.org/abs/2205.13147>). A vector whose first values are
    /// all zero stays zero. If `dim` is the full length, the values stay the same bit for bit.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for zero and for more values than there are.
    pub fn truncate(&self, dim: usize) -> Result<Self> {
        if dim == 0 || dim > self.dim {
            return Err(Error::InvalidOption {
                option: "dimensions",
                value: dim.to_string(),
                expected: format!("1 to {}", self.dim),
            });
        }
        if dim == self.dim {
            return Ok(self.clone());
        }
        let mut values = Vec::with_capacity(self.len() * dim);
        for row in self.rows() {
            let head = &row[..dim];
            let length = head.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
            let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
            values.extend(head.iter().map(|&v| (f64::from(v) * scale) as f32));
        }
        Ok(Self { values, dim })
    }

    /// A quarter of the size: integers in −127..=127, with one scale per vector, which is its
    /// largest magnitude ÷ 127.
    pub fn to_int8(&self) -> Int8Embeddings {
        let mut quantized =
            Int8Embeddings { values: Vec::with_capacity(self.values.len()), scales: Vec::new(), dim: self.dim };
        for row in self.rows() {
            let largest = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let scale = largest / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            quantized.values.extend(row.iter().map(|v| (v * inverse).round() as i8));
            quantized.scales.push(scale);
        }
        quantized
    }

    /// 1/32 of the size: one bit per value, set if the value is positive. Eight bits form a byte,
    /// with the first value in the highest bit, and the last byte is padded with zeros
    /// (`numpy.packbits`, sentence-transformers' `ubinary`).
    pub fn to_binary(&self) -> BinaryEmbeddings {
        let bytes = self.dim.div_ceil(8);
        let mut values = Vec::with_capacity(self.len() * bytes);
        for row in self.rows() {
            let byte =
                |bits: &[f32]| bits.iter().enumerate().fold(0, |byte, (i, &v)| byte | u8::from(v > 0.0) << (7 - i));
            values.extend(row.chunks(8).map(byte));
        }
        BinaryEmbeddings { values, dim: self.dim }
    }
}

/// Vectors as int8: value ≈ `values` · the row's scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8Embeddings {
    /// (rows × dim)
    pub values: Vec<i8>,
    /// (rows)
    pub scales: Vec<f32>,
    /// Number of values per vector.
    pub dim: usize,
}

impl Int8Embeddings {
    /// Dot product of vectors `i` and `j`, summed exactly in integers. Each value is off by at most
    /// half a scale, so the product differs from the cosine of the originals by at most √dim / 2 ·
    /// (scaleᵢ + scaleⱼ) + dim / 4 · scaleᵢ · scaleⱼ: 0.04 for 1024 dimensions with a largest value
    /// of 0.15, and far less on average, because the errors have both signs.
    ///
    /// # Errors
    /// [`Error::NoRow`] if there are fewer vectors.
    pub fn dot(&self, i: usize, j: usize) -> Result<f32> {
        let row = |i: usize| match (row(&self.values, self.dim, i), self.scales.get(i)) {
            (Some(values), Some(&scale)) => Ok((values, scale)),
            _ => Err(no_row(i, self.scales.len())),
        };
        let ((a, scale_a), (b, scale_b)) = (row(i)?, row(j)?);
        // 32 bits hold at most 131,072 products.
        let sum: i64 = a.iter().zip(b).map(|(&a, &b)| i64::from(i32::from(a) * i32::from(b))).sum();
        Ok(sum as f32 * scale_a * scale_b)
    }
}

/// Vectors as signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryEmbeddings {
    /// (rows × ⌈dim / 8⌉)
    pub values: Vec<u8>,
    /// Number of bits per vector.
    pub dim: usize,
}

impl BinaryEmbeddings {
    /// The number of signs in which vectors `i` and `j` differ: 0 for the same direction, about dim
    /// / 2 for unrelated vectors.
    ///
    /// # Errors
    /// [`Error::NoRow`] if there are fewer vectors.
    pub fn hamming(&self, i: usize, j: usize) -> Result<u32> {
        let bytes = self.dim.div_ceil(8);
        let row = |i: usize| row(&self.values, bytes, i).ok_or_else(|| no_row(i, self.values.len() / bytes.max(1)));
        Ok(row(i)?.iter().zip(row(j)?).map(|(a, b)| (a ^ b).count_ones()).sum())
    }
}

/// Row `i` of `values`, if it exists: the small forms have public fields, which may contain
/// anything.
fn row<T>(values: &[T], width: usize, i: usize) -> Option<&[T]> {
    (width > 0).then(|| values.chunks_exact(width).nth(i))?
}

fn no_row(index: usize, rows: usize) -> Error {
    Error::NoRow { index, rows }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    fn rows() -> Embeddings {
        Embeddings::from_unit_rows(vec![0.6, -0.8, 0.0, 0.0, 0.0, 1.0], 3).unwrap()
    }

    #[test]
    fn rows_are_viewed_without_a_copy() {
        let e = rows();
        assert_eq!((e.len(), e.dim(), e.view().dim()), (2, 3, (2, 3)));
        assert_eq!(e.get(1).unwrap(), [0.0, 0.0, 1.0]);
        assert!(e.get(2).is_none());
        let place = e.as_slice().as_ptr();
        assert_eq!(e.into_array().as_ptr(), place);
        assert!(matches!(Embeddings::from_unit_rows(vec![0.0; 4], 3), Err(Error::Rows { values: 4, dim: 3 })));
        assert!(Embeddings::from_unit_rows(vec![], 0).is_err());
        assert_eq!(Embeddings::from_unit_rows(vec![], 3).unwrap().len(), 0);
    }

    #[test]
    fn truncation_normalises_again() {
        let short = rows().truncate(1).unwrap();
        assert_eq!(short.as_slice(), [1.0, 0.0]);
        assert_eq!(rows().truncate(2).unwrap().get(0).unwrap(), [0.6, -0.8]);
        assert!(rows().truncate(0).is_err() && rows().truncate(4).is_err());
    }

    #[test]
    fn small_forms_keep_what_they_say() {
        let e = rows();
        let int8 = e.to_int8();
        assert_eq!(int8.values, [95, -127, 0, 0, 0, 127]);
        approx::assert_abs_diff_eq!(int8.dot(0, 0).unwrap(), 1.0, epsilon = 0.01);
        assert!(matches!(int8.dot(0, 2), Err(Error::NoRow { index: 2, rows: 2 })));
        let binary = e.to_binary();
        assert_eq!(binary.values, [0b1000_0000, 0b0010_0000]);
        assert_eq!(binary.hamming(0, 1).unwrap(), 2);
        let error = binary.hamming(7, 1).unwrap_err().to_string();
        assert!(error.contains("row 7") && error.contains("there are 2"), "{error}");
        assert_eq!(Embeddings::from_unit_rows(vec![0.5; 9], 9).unwrap().to_binary().values, [0xFF, 0x80]);
    }
}
