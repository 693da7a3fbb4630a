//! The kernels as PTX, for cards with and without tensor cores for bf16 (compute capability 8.0).

/// A file, the first letters of its kernels' names, and its text for the compute capabilities 7.5
/// and 8.0, each with a zero byte at its end.
struct Module {
    file: &'static str,
    kernels: &'static [&'static str],
    sm_75: &'static str,
    sm_80: &'static str,
}

macro_rules! module {
    ($file:literal, $kernels:expr) => {
        Module {
            file: $file,
            kernels: &$kernels,
            sm_75: concat!(include_str!(concat!("../kernels/ptx/", $file, ".sm_75.ptx")), "\0"),
            sm_80: concat!(include_str!(concat!("../kernels/ptx/", $file, ".sm_80.ptx")), "\0"),
        }
    };
}

static MODULES: [Module; 9] = [
    module!("attention_f32", ["attention_f32"]), // before the next, because it begins with its name
    module!("attention", ["attention_"]),
    module!("activation", ["activate_", "gate_"]),
    module!("dense", ["dense", "unit"]),
    module!("embedding", ["embed_"]),
    module!("fp8", ["quantize_fp8"]),
    module!("norm", ["add_norm_"]),
    module!("pooling", ["pool", "pick"]),
    module!("rope", ["rope_"]),
];

/// The file of a kernel, and its text for a compute capability.
pub(super) fn of(kernel: &str, capability: u32) -> Option<(&'static str, &'static str)> {
    let module = MODULES.iter().find(|module| module.kernels.iter().any(|start| kernel.starts_with(start)))?;
    Some((module.file, if capability >= 80 { module.sm_80 } else { module.sm_75 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_found_where_it_is() {
        let mut all = 0;
        for module in &MODULES {
            for (capability, text) in [(75, module.sm_75), (90, module.sm_80)] {
                assert!(text.ends_with("\n}\n\0"), "{}: cut off", module.file);
                let entries = text.lines().filter_map(|line| line.strip_prefix(".visible .entry "));
                for kernel in entries.filter_map(|line| line.split('(').next()) {
                    let (file, found) = of(kernel, capability).expect("a module");
                    assert!(file == module.file && found == text, "{kernel} is looked for in {file}");
                    all += 1;
                }
            }
        }
        assert!(all > 40, "{all} kernels");
    }
}
