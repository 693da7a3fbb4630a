//! The index of a safetensors file (<https://github.com/huggingface/safetensors#format>): eight
//! bytes with the length of a JSON header, the header, and the values.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype as Stored, Metadata};

use super::{Dtype, Entry, byte_len};
use crate::files::DataFile;
use crate::{Error, Result};

/// The largest header that the format's own library accepts.
const MAX_HEADER: u64 = 100_000_000;

/// Names and positions of the tensors in `file`, which is number `number` of its checkpoint.
pub(super) fn index(file: &DataFile, number: usize) -> Result<BTreeMap<String, Entry>> {
    let label = file.label();
    if file.len() < 8 {
        return Err(Error::invalid(label, format_args!("{} bytes are not a safetensors file", file.len())));
    }
    let mut length = [0; 8];
    file.read_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER.min(file.len() - 8) {
        return Err(Error::invalid(
            label,
            format_args!("a header of {length} bytes in a file of {}: truncated, or not safetensors", file.len()),
        ));
    }
    let mut header = vec![0; length as usize];
    file.read_at(8, &mut header)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|e| Error::invalid(&label, format_args!("header: {e}")))?;
    let first = 8 + length;
    let mut index = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let dtype = match info.dtype {
            Stored::F64 => Dtype::F64,
            Stored::F32 => Dtype::F32,
            Stored::F16 => Dtype::F16,
            Stored::BF16 => Dtype::Bf16,
            Stored::I8 => Dtype::I8,
            other => Dtype::Other(other.bitsize().div_ceil(8)),
        };
        let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        if end.checked_sub(start).is_none() || byte_len(&info.shape, dtype) != Some(end - start) {
            return Err(Error::invalid(
                label,
                format_args!("tensor `{name}`: {:?} does not match its bytes {start}..{end}", info.shape),
            ));
        }
        if first.checked_add(end).is_none_or(|end| end > file.len()) {
            let missing = first.saturating_add(end) - file.len();
            return Err(Error::invalid(
                label,
                format_args!("truncated: tensor `{name}` ends {missing} bytes after the end of the file"),
            ));
        }
        index.insert(
            name,
            Entry { file: number, offset: first + start, dtype, shape: info.shape.clone(), strides: None },
        );
    }
    Ok(index)
}
