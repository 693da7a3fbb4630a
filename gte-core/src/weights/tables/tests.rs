//! Tables that are read block after block.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::HashMap;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView, serialize};
use tempfile::TempDir;

use super::super::{Values, Weights, safetensors as format};
use super::BLOCK_BYTES;
use crate::error::Error;
use crate::files::ModelFiles;
use crate::models::FAMILIES;

const COLUMNS: usize = 1000; // does not divide a block

/// A checkpoint with one matrix named `t`, which takes two blocks and a part of a third.
fn table(dtype: Dtype, value: impl Fn(usize) -> f32) -> (TempDir, Weights, Vec<f32>) {
    let size = if dtype == Dtype::F32 { 4 } else { 2 };
    let rows = 5 * BLOCK_BYTES / (2 * COLUMNS * size);
    let values: Vec<f32> = (0..rows * COLUMNS).map(value).collect();
    let bytes: Vec<u8> = match dtype {
        Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let view = TensorView::new(dtype, vec![rows, COLUMNS], &bytes).unwrap();
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    std::fs::write(dir.path().join("t.safetensors"), serialize([("t", view)], None).unwrap()).unwrap();
    let file = ModelFiles::from_dir(&dir).unwrap().open_data("t.safetensors").unwrap().unwrap();
    let tensors = format::index(&file, 0).unwrap();
    let weights = Weights { files: vec![file], tensors, spelling: &FAMILIES[0].names[0], smoothing: HashMap::new() };
    (dir, weights, values)
}

fn small(i: usize) -> f32 {
    (i % 977) as f32 / 500.0 - 1.0
}

#[test]
fn a_table_in_blocks_is_what_is_stored() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let (_dir, weights, _) = table(dtype, small);
        let whole = weights.read("t").unwrap();
        assert_eq!(weights.read_table("t", false).unwrap(), whole, "{dtype:?}");
        if dtype != Dtype::F32 {
            assert_eq!(weights.read_table("t", true).unwrap(), whole, "{dtype:?}");
        }
    }
}

#[test]
fn a_table_in_f32_is_rounded_to_f16() {
    let (_dir, weights, values) = table(Dtype::F32, small);
    let Values::F16(halves) = weights.read_table("t", true).unwrap().values else { panic!("not in f16") };
    assert_eq!(halves, values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>());
}

#[test]
fn a_table_with_a_value_too_large_for_f16_stays_in_f32() {
    let (_dir, weights, values) = table(Dtype::F32, |i| if i == 20_003 { -65_505.0 } else { small(i) });
    assert_eq!(weights.read_table("t", true).unwrap().values, Values::F32(values));
}

#[test]
fn a_damaged_value_is_named_by_its_place_in_the_whole_table() {
    let (_dir, weights, _) = table(Dtype::F32, |i| if i == 20_003 { f32::NAN } else { small(i) });
    let error = weights.read_table("t", true).unwrap_err();
    assert!(matches!(error, Error::NotFinite { index: 20_003, .. }), "{error}");
}
