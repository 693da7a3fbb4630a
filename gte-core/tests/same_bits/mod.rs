//! On which instruction sets a text has the same vector bit for bit.

use gte_core::{Isa, Precision};

/// Not on plain Rust, which rounds a product before it adds it. In low precision not on AMX and
/// bf16 of AArch64 either, whose instructions sum several products before they add them.
pub(crate) fn has_the_same_bits(isa: Isa, precision: Precision) -> bool {
    match isa {
        Isa::Scalar => false,
        Isa::Amx | Isa::Bf16 => precision == Precision::F32,
        _ => true,
    }
}
