//! e4m3: floating point numbers in 8 bits (a sign, four bits of exponent, three of fraction)
//! without infinities (Micikevicius et al. 2022, <https://arxiv.org/abs/2209.05433>). Weights are
//! quantized here, hidden states by `kernels/fp8.cu`, by the same formula.

/// The largest number.
pub(super) const LARGEST: f32 = 448.0;

/// The nearest number, and of two the one whose last bit is 0. What exceeds the largest number
/// becomes that; NaN stays NaN.
pub(super) fn from_f32(x: f32) -> u8 {
    const SMALLEST_NORMAL: u32 = (1.0f32 / 64.0).to_bits();
    // The last place of 2¹⁴ in f32 is 2⁻⁹, the smallest number in e4m3.
    const ROUNDS_TO_STEPS: f32 = 16_384.0;
    let (sign, size) = ((x.to_bits() >> 24) as u8 & 0x80, x.to_bits() & 0x7FFF_FFFF);
    sign | match size {
        0x7F80_0001.. => 0x7F,
        _ if size >= LARGEST.to_bits() => 0x7E,
        0..SMALLEST_NORMAL => {
            let sum = f32::from_bits(size) + ROUNDS_TO_STEPS;
            (sum.to_bits() - ROUNDS_TO_STEPS.to_bits()) as u8
        }
        _ => {
            // The exponent's bias from 127 to 7, then 20 of 23 bits of the fraction are rounded.
            let shifted = size - (120 << 23);
            ((shifted + 0x7_FFFF + (shifted >> 20 & 1)) >> 20) as u8
        }
    }
}

/// The value of a number.
#[cfg(any(test, feature = "cuda-emulator"))]
pub(super) fn to_f32(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction / 512.0,
        _ => (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7),
    };
    if code & 0x80 == 0 { size } else { -size }
}

/// One scale per row, and the numbers that are the row when they are multiplied by it.
pub(super) fn quantize(rows: &[f32], width: usize) -> (Vec<u8>, Vec<f32>) {
    let mut codes = Vec::with_capacity(rows.len());
    let scale_of = |row: &[f32]| {
        let largest = row.iter().fold(f32::from_bits(0x0D80_0000), |largest, x| largest.max(x.abs()));
        codes.extend(row.iter().map(|x| from_f32(x * (LARGEST / largest))));
        largest / LARGEST
    };
    let scales = rows.chunks_exact(width).map(scale_of).collect();
    (codes, scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f32_becomes_the_nearest_number() {
        let numbers: Vec<f32> = (0..=0x7E).map(to_f32).collect();
        assert!(numbers.is_sorted() && numbers[0] == 0.0 && numbers[0x7E] == LARGEST && numbers[1] == 1.0 / 512.0);
        assert!(to_f32(0x7F).is_nan() && to_f32(0xFF).is_nan());
        for code in 0..=0x7Eu8 {
            let value = to_f32(code);
            assert_eq!((from_f32(value), from_f32(-value)), (code, code | 0x80), "{value}");
            let Some(&next) = numbers.get(usize::from(code) + 1) else { continue };
            // The middle is exact in f32, and goes to the number whose last bit is 0.
            let middle = (value + next) / 2.0;
            assert_eq!(from_f32(middle), code + code % 2, "{middle}");
            assert_eq!(from_f32(middle.next_down()), code, "below {middle}");
            assert_eq!(from_f32(middle.next_up()), code + 1, "above {middle}");
        }
        for (x, code) in [(449.0, 0x7E), (1e30, 0x7E), (f32::INFINITY, 0x7E), (1e-30, 0), (-0.0, 0x80)] {
            assert_eq!(from_f32(x), code, "{x}");
        }
        assert!(to_f32(from_f32(f32::NAN)).is_nan() && to_f32(from_f32(-f32::NAN)).is_nan());
    }

    #[test]
    fn rows_have_their_own_scales() {
        let rows = [1.0, -2.0, 0.5, 0.0, 0.0, 0.0, 1e4, 3.0, -448.0];
        let (codes, scales) = quantize(&rows, 3);
        for (i, (x, code)) in rows.iter().zip(codes).enumerate() {
            let found = to_f32(code) * scales[i / 3];
            let largest = 448.0 * scales[i / 3];
            assert!((found - x).abs() <= x.abs() / 16.0 + largest / 448.0 / 1024.0 * 1.001, "{x} became {found}");
        }
        assert_eq!(scales[2], 1e4 / 448.0);
    }
}
