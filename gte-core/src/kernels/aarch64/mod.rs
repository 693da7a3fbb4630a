//! The AArch64 tables. `unsafe` is allowed only here, in `x86_64` and in `backend/cuda`: for
//! instructions behind a proof token, and for tiles that read and write through pointers whose
//! range they have asserted.
//!
//! NEON is part of the architecture, so functions here are compiled for it like any other code. The
//! instructions beyond it (dot products, matrix multiplication, bf16) have no stable intrinsics.
//! Each is one `asm!` that names its extension, in a function that only its own table calls.
#![allow(unsafe_code, reason = "intrinsics; every other folder is safe code")]

use std::arch::is_aarch64_feature_detected;

use super::{Isa, Kernels};

mod microkernel;
mod neon;
mod neon_bf16;
mod neon_dot;
mod neon_i8mm;

/// The table of `isa`, if this CPU has all its instructions: what makes it sound to run them from
/// there.
pub(super) fn table(isa: Isa) -> Option<&'static Kernels> {
    let dot = || is_aarch64_feature_detected!("dotprod");
    let i8mm = || dot() && is_aarch64_feature_detected!("i8mm");
    let bf16 = || i8mm() && is_aarch64_feature_detected!("bf16");
    let (here, table) = match isa {
        Isa::Neon => (true, &neon::NEON),
        Isa::Dotprod => (dot(), &neon_dot::NEON_DOT),
        Isa::I8mm => (i8mm(), &neon_i8mm::NEON_I8MM),
        Isa::Bf16 => (bf16(), &neon_bf16::NEON_BF16),
        _ => return None,
    };
    here.then_some(table)
}
