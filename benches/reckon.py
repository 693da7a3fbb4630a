#!/usr/bin/env python3
"""Reckons the inner loops of the kernels for CPUs that are not at hand. The disassembly of a binary
gives instructions and bytes per multiply-add, and shows whether sums go to the stack. llvm-mca's
model of each core's ports gives the share of the possible multiply-adds that a loop reaches.
Nothing is measured on silicon: caches, memory and prefetching are not part of the model.

    benches/reckon.py LLVM_BIN BINARY     (benches/reckon.sh builds and calls it)
"""

import re
import subprocess
import sys

BIN, BINARY = sys.argv[1:3]

# Multiply-adds of an instruction, whatever the operands' registers.
WORK = {
    "aarch64": [
        (r"fmla\s+v\d+\.4s", 4), (r"smlal2?\s+v\d+\.4s", 4), (r"sdot\s+v\d+\.4s", 16), (r"usmmla\s", 32),
        (r"bfmmla\s", 16),
    ],
    "x86_64": [
        (r"vfmadd\d+ps\s+%?zmm|vfmadd\d+ps.*zmm", 16), (r"vfmadd\d+ps.*ymm", 8), (r"vpmaddwd.*ymm", 16),
        (r"vpdpbusd.*zmm", 64), (r"vpdpbusd.*ymm", 32), (r"vdpbf16ps.*zmm", 32),
        (r"tdpbusd", 16 * 16 * 64), (r"tdpbf16ps", 16 * 16 * 32),
    ],
}

# (what, symbol, instruction, cores, the instruction alone, for the model's peak)
AARCH64 = [
    ("f32, NEON", r"neon::tile$", "fmla", "neoverse-n1 neoverse-v1 neoverse-n2 neoverse-v2", "fmla v{}.4s, v30.4s, v31.s[0]"),
    ("bf16 widened, NEON", r"Widened.*tile::tile$", "fmla", "neoverse-n1", "fmla v{}.4s, v30.4s, v31.s[0]"),
    ("int8 by 16 bits, NEON", r"By16Bits.*tile::tile$", "smlal", "cortex-a72", "smlal v{}.4s, v30.4h, v15.h[0]"),
    ("int8, dotprod", r"Sdot.*tile::tile$", "sdot", "neoverse-n1 neoverse-v1 neoverse-n2 neoverse-v2", "sdot v{}.4s, v30.16b, v31.4b[0]"),
    ("int8, i8mm", r"Usmmla.*tile::tile$", "usmmla", "neoverse-v1 neoverse-n2 neoverse-v2", "usmmla v{}.4s, v30.16b, v31.16b"),
    ("bf16, bfmmla", r"Bfmmla.*tile::tile$", "bfmmla", "neoverse-v1 neoverse-n2 neoverse-v2", "bfmmla v{}.4s, v30.8h, v31.8h"),
]
X86_64 = [
    ("int8, AVX-VNNI", r"Avx2VnniInt8.*tile::tile$", "vpdpbusd", "alderlake", "{{vex}} vpdpbusd %ymm14, %ymm15, %ymm{}"),
    ("int8, AVX512-VNNI", r"Avx512Int8.*tile::tile$", "vpdpbusd", "sapphirerapids", "vpdpbusd %zmm30, %zmm31, %zmm{}"),
    ("bf16, AVX512-BF16", r"Avx512Bf16.*tile::tile$", "vdpbf16ps", "sapphirerapids", "vdpbf16ps %zmm30, %zmm31, %zmm{}"),
    ("int8, AMX", r"AmxInt8.*tile::f$", "tdpbusd", "", ""),
    ("bf16, AMX", r"AmxBf16.*tile::f$", "tdpbf16ps", "", ""),
]


def run(*args, stdin=None):
    return subprocess.run(args, input=stdin, capture_output=True, text=True, check=True).stdout


def functions():
    """(name, [(address, instruction)]) of the binary."""
    text = run(f"{BIN}/llvm-objdump", "-d", "--no-show-raw-insn", "-C", "--mattr=+all" if ARCH == "aarch64" else "--mattr=", BINARY)
    name, lines = None, []
    for line in text.splitlines():
        if head := re.match(r"^[0-9a-f]+ <(.*)>:$", line):
            if name:
                yield name, lines
            name, lines = re.sub(r"::h[0-9a-f]{16}$", "", head[1]), []
        elif (part := re.match(r"^\s*([0-9a-f]+):\s+(.*)$", line)) and name:
            instruction = re.sub(r"\s*(//|<|# ).*$", "", part[2].replace("\t", " ")).strip()
            lines.append((int(part[1], 16), instruction))
    if name:
        yield name, lines


def loops(lines):
    """The innermost loops: instructions from the target of a jump back to the jump."""
    at = {address: i for i, (address, _) in enumerate(lines)}
    found = []
    for i, (_, instruction) in enumerate(lines):
        jump = re.match(r"^(b\.\w+|cbn?z|tbn?z|b|j\w+)\s+(?:.*,\s*)?(?:0x)?([0-9a-f]+)\b", instruction)
        if jump and (start := at.get(int(jump[2], 16))) is not None and start <= i:
            found.append((start, i))
    # (A loop of tiles may contain a loop that only prefetches.)
    inner = [l for l in found if not any(o != l and l[0] <= o[0] and o[1] <= l[1] and has_products(lines, o) for o in found)]
    return [[instruction for _, instruction in lines[a : b + 1]] for a, b in inner]


def work(instruction):
    return next((n for pattern, n in WORK[ARCH] if re.match(pattern, instruction.removeprefix("{vex} "))), 0)


def has_products(lines, span):
    return any(work(instruction) for _, instruction in lines[span[0] : span[1] + 1])


def bytes_read(instruction):
    if ARCH == "aarch64":
        if not instruction.startswith("ld"):
            return 0
        registers = instruction.split("[")[0]
        sizes = {"q": 16, "d": 8, "s": 4, "x": 8, "w": 4}
        vectors = len(re.findall(r"\bv\d+\.\w+", registers)) * (4 if "ld1r" in instruction else 16)
        return vectors or sum(sizes.get(r[0], 0) for r in re.findall(r"\b[qdsxw]\d+\b", registers))
    if instruction.startswith("tileload"):
        return 1024
    if not ("(" in instruction and instruction.startswith("v")):
        return 0
    return 4 if "broadcast" in instruction else 64 if "zmm" in instruction else 32


def to_stack(instruction):
    if ARCH == "aarch64":
        return bool(re.match(r"^(st|ld)\w*\s.*\[sp", instruction))
    return bool(re.match(r"^v?mov\w*\s.*\((%rsp|%rbp)", instruction))


def cycles(core, body, iterations=200):
    """Cycles of a turn of the loop in the model of a core."""
    lines = [line for line in body if not re.match(r"^(b\.|cb|tb|b |j)", line)]
    text = "\n".join(lines) + "\n"
    triple = "aarch64" if ARCH == "aarch64" else "x86_64"
    out = run(f"{BIN}/llvm-mca", f"-mtriple={triple}", f"-mcpu={core}", f"-iterations={iterations}",
              "-all-views=false", "-summary-view", *(["-mattr=+all"] if ARCH == "aarch64" else []), stdin=text)
    return int(re.search(r"Total Cycles:\s+(\d+)", out)[1]) / iterations


def main():
    version = re.search(r"version (\S+)", run(f"{BIN}/llvm-mca", "--version"))[1]
    print(f"{ARCH}, by llvm-mca {version}; not measured on silicon")
    every = list(functions())
    low = []
    for what, symbol, instruction, cores, alone in AARCH64 if ARCH == "aarch64" else X86_64:
        # The loop with the most products: that of the tallest tile. (The loop around it multiplies
        # floats too, in the epilogue.)
        named = [lines for name, lines in every if re.search(symbol, name)]
        bodies = [body for lines in named for body in loops(lines) if any(instruction in line for line in body)]
        if not bodies:
            sys.exit(f"{what}: no loop of {instruction} in {BINARY}")
        body = max(bodies, key=lambda body: (sum(instruction in line for line in body), -len(body)))
        macs = sum(map(work, body))
        products = sum(1 for line in body if work(line))
        spills = sum(map(to_stack, body))
        print(f"\n{what}: {len(body)} instructions in a turn, {products} products of {macs // products} multiply-adds, "
              f"{len(body) / macs:.5f} instructions and {sum(map(bytes_read, body)) / macs:.4f} bytes per multiply-add, "
              f"{spills} moves of vectors to or from the stack")
        if "tdp" in instruction:
            loads = [line for line in body if line.startswith("tileload")]
            print(f"  no model has AMX; by the figures of Intel's manual (16 cycles for a product, 8 for a tile from L1, "
                  f"16 where its rows begin within a line, as those of A do): {16 * products} cycles of products beside "
                  f"{12 * len(loads)} of loads in a turn, so that the products bind")
        if spills:
            low.append(f"{what}: {spills} spills")
        for core in cores.split():
            most = 24 if ARCH == "aarch64" or "zmm" in alone else 12
            registers = [i for i in range(32) if i not in (15, 30, 31)][:most]
            peak = most * (macs // products) / cycles(core, [alone.format(i) for i in registers])
            here = macs / cycles(core, body)
            print(f"  {core:14} {here:7.1f} multiply-adds per cycle of {peak:6.1f} by the ports alone: {here / peak:6.1%}")
            if here < 0.85 * peak:
                low.append(f"{what} on {core}: {here / peak:.1%}")
    if low:
        print("\nbelow 85 % or with spills:", "; ".join(low))
        sys.exit(1)


ARCH = "aarch64" if "aarch64" in run(f"{BIN}/llvm-objdump", "-f", BINARY) else "x86_64"
main()
