//! Instructions that this CPU lacks, carried out by a signal handler, for tests: the tiles of AMX,
//! and `vpdpbusd` of AVX-VNNI.
//!
//! Each of them traps here (SIGILL). The handler decodes it, does what the manual says on the
//! registers of the interrupted thread or on tiles of its own, and steps over it. What the CPU
//! would refuse (a tile that was not configured, shapes that do not fit, one tile twice) ends the
//! process. It checks layouts, strides, tails and shapes. It says nothing about speed,
//! permission and detection.

#![allow(clippy::print_stderr, reason = "for tests: what ends them says why")]

use std::cell::UnsafeCell;
use std::sync::Once;

/// Bytes of a row of a tile, rows of a tile, and tiles.
const ROW: usize = 64;
const ROWS: usize = 16;
const TILES: usize = 8;

/// The tiles of a thread.
struct Tiles {
    configured: bool,
    rows: [usize; TILES],
    row_bytes: [usize; TILES],
    tiles: [[[u8; ROW]; ROWS]; TILES],
}

impl Tiles {
    const NONE: Self =
        Self { configured: false, rows: [0; TILES], row_bytes: [0; TILES], tiles: [[[0; ROW]; ROWS]; TILES] };
}

thread_local! {
    static STATE: UnsafeCell<Tiles> = const { UnsafeCell::new(Tiles::NONE) };
}

/// Makes this process carry out what its CPU lacks. Whether it can.
pub(super) fn install() -> bool {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let action = Action { handler, mask: [0; 16], flags: SA_SIGINFO, restorer: 0 };
        // SAFETY: `Action` is glibc's `struct sigaction`; the handler touches only what the
        // interrupted thread owns.
        let result = unsafe { sigaction(SIGILL, &action, std::ptr::null_mut()) };
        assert_eq!(result, 0, "sigaction");
    });
    true
}

const SIGILL: i32 = 4;
const SA_SIGINFO: i32 = 4;

#[repr(C)]
struct Action {
    handler: extern "C" fn(i32, *const u8, *mut u8),
    mask: [u64; 16],
    flags: i32,
    restorer: usize,
}

unsafe extern "C" {
    fn sigaction(signal: i32, action: *const Action, old: *mut Action) -> i32;
}

/// Where `ucontext_t` has a register, by the register's number in an instruction: rax, rcx, rdx,
/// rbx, rsp, rbp, rsi, rdi and r8 to r15. And the instruction pointer.
const GENERAL: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];
const IP: usize = 16;

extern "C" fn handler(_signal: i32, _info: *const u8, context: *mut u8) {
    // SAFETY: the layout of `ucontext_t` on Linux: 23 general registers from byte 40 on, behind
    // them a pointer to what `xsave` wrote. Both are the handler's own until it returns.
    let (general, vectors) =
        unsafe { (&mut *context.add(40).cast::<[u64; 23]>(), *context.add(224).cast::<*mut u8>()) };
    let mut count = 0;
    // All that follow each other at once: a trap costs more than what it does.
    while let Some(instruction) = Instruction::at(general) {
        // (What does not trap is carried out only behind what did.)
        if (count == 0 && instruction.op == BROADCAST) || !instruction.run(vectors) {
            break;
        }
        general[IP] += instruction.length;
        count += 1;
    }
    if count == 0 {
        // SAFETY: an instruction was read from there.
        let bytes = unsafe { *(general[IP] as *const [u8; 10]) };
        eprintln!("an instruction that neither this CPU nor the emulator knows, or that no CPU allows: {bytes:02x?}");
        std::process::abort();
    }
}

const BROADCAST: u8 = 0x58;

/// An instruction of three bytes of VEX prefix from the map 0F38, without a wide operand.
struct Instruction {
    op: u8,
    /// The prefix that it stands for: none, 66, F3, F2.
    prefix: u8,
    /// 256 bits.
    wide: bool,
    reg: usize,
    second: usize,
    operand: Operand,
    length: u64,
}

#[derive(Clone, Copy)]
enum Operand {
    Register(usize),
    /// An address, and what the index adds to it.
    Memory(u64, Option<u64>),
}

impl Instruction {
    fn at(general: &[u64; 23]) -> Option<Self> {
        let start = general[IP] as *const u8;
        // SAFETY: instructions are read up to their end, as far as what was read says that they go.
        let byte = |i: u64| unsafe { *start.add(i as usize) };
        if byte(0) != 0xc4 || byte(1) & 0x1f != 2 || byte(2) & 0x80 != 0 {
            return None;
        }
        let extension = |bit: u8| usize::from(!byte(1) >> bit & 1) << 3;
        let (r, x, b) = (extension(7), extension(6), extension(5));
        let (mode, reg, rm) = (byte(4) >> 6, usize::from(byte(4) >> 3 & 7) | r, usize::from(byte(4) & 7));
        let mut length = 5;
        let operand = if mode == 3 {
            Operand::Register(rm | b)
        } else {
            let (mut base, mut index) = (rm | b, None);
            if rm == 4 {
                let sib = byte(length);
                length += 1;
                base = usize::from(sib & 7) | b;
                let number = usize::from(sib >> 3 & 7) | x;
                index = (number != 4).then(|| general[GENERAL[number]] << (sib >> 6));
            }
            let offset = match mode {
                1 => {
                    length += 1;
                    i64::from(byte(length - 1) as i8)
                }
                2 => {
                    length += 4;
                    i64::from(i32::from_le_bytes(std::array::from_fn(|i| byte(length - 4 + i as u64))))
                }
                // Relative to the instruction, or without a base.
                _ if base & 7 == 5 => return None,
                _ => 0,
            };
            Operand::Memory(general[GENERAL[base]].wrapping_add(offset as u64), index)
        };
        Some(Self {
            op: byte(3),
            prefix: byte(2) & 3,
            wide: byte(2) & 4 != 0,
            reg,
            second: usize::from(!byte(2) >> 3 & 15),
            operand,
            length,
        })
    }

    /// Whether there is such an instruction, and what it does is done.
    fn run(&self, vectors: *mut u8) -> bool {
        if self.wide {
            return self.run_on_vectors(vectors);
        }
        // SAFETY: the tiles of this thread, which waits for the handler.
        STATE.with(|state| self.run_on_tiles(unsafe { &mut *state.get() }))
    }

    fn run_on_tiles(&self, t: &mut Tiles) -> bool {
        match (self.op, self.prefix, self.operand) {
            // ldtilecfg
            (0x49, 0, Operand::Memory(from, index)) => {
                // SAFETY: the instruction reads 64 bytes.
                let config = unsafe { *(from.wrapping_add(index.unwrap_or(0)) as *const [u8; 64]) };
                *t = Tiles { configured: true, ..Tiles::NONE };
                for i in 0..TILES {
                    t.row_bytes[i] = usize::from(u16::from_le_bytes([config[16 + 2 * i], config[17 + 2 * i]]));
                    t.rows[i] = usize::from(config[48 + i]);
                }
                let reserved = config[2..16].iter().chain(&config[32..48]).chain(&config[56..]);
                let none = |i: usize| (t.rows[i] == 0) == (t.row_bytes[i] == 0);
                config[..2] == [1, 0]
                    && reserved.into_iter().all(|&byte| byte == 0)
                    && (0..TILES).all(|i| t.rows[i] <= ROWS && t.row_bytes[i] <= ROW && none(i))
            }
            // tilerelease
            (0x49, 0, Operand::Register(0)) => {
                *t = Tiles::NONE;
                self.reg == 0
            }
            // tilezero
            (0x49, 3, Operand::Register(0)) => {
                t.tiles[self.reg] = [[0; ROW]; ROWS];
                t.has(self.reg)
            }
            // tileloadd, tileloaddt1
            (0x4b, 3 | 1, Operand::Memory(from, Some(stride))) if t.has(self.reg) => {
                let length = t.row_bytes[self.reg];
                t.tiles[self.reg] = [[0; ROW]; ROWS];
                for (i, row) in t.tiles[self.reg].iter_mut().enumerate().take(t.rows[self.reg]) {
                    let from = from.wrapping_add(stride.wrapping_mul(i as u64)) as *const u8;
                    // SAFETY: the instruction reads them.
                    row[..length].copy_from_slice(unsafe { std::slice::from_raw_parts(from, length) });
                }
                true
            }
            // tilestored
            (0x4b, 2, Operand::Memory(to, Some(stride))) if t.has(self.reg) => {
                let length = t.row_bytes[self.reg];
                for (i, row) in t.tiles[self.reg].iter().enumerate().take(t.rows[self.reg]) {
                    let to = to.wrapping_add(stride.wrapping_mul(i as u64)) as *mut u8;
                    // SAFETY: the instruction writes them.
                    unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), to, length) };
                }
                true
            }
            // tdpbuud, tdpbusd, tdpbsud, tdpbssd
            (0x5e, prefix, Operand::Register(a)) => {
                let signed = (prefix & 2 != 0, prefix & 1 != 0);
                t.multiply(self.reg, a, self.second, |a, b, sums| {
                    let value = |byte: u8, signed| if signed { i32::from(byte as i8) } else { i32::from(byte) };
                    let mut new: [i32; 16] = bytemuck::cast(*sums);
                    for (a, b) in a.chunks_exact(4).zip(b) {
                        let a: [i32; 4] = std::array::from_fn(|i| value(a[i], signed.0));
                        for (sum, b) in new.iter_mut().zip(b.chunks_exact(4)) {
                            for i in 0..4 {
                                *sum = sum.wrapping_add(a[i] * value(b[i], signed.1));
                            }
                        }
                    }
                    *sums = bytemuck::cast(new);
                })
            }
            // tdpbf16ps: two chains, of the even and of the odd values, that are added at the end.
            (0x5c, 2, Operand::Register(a)) => t.multiply(self.reg, a, self.second, |a, b, sums| {
                let value = |low: u8, high: u8| {
                    let value = f32::from_bits(u32::from(u16::from_le_bytes([low, high])) << 16);
                    if value.is_subnormal() { 0f32.copysign(value) } else { value }
                };
                let mut chains = [[0f32; 16]; 2];
                for (a, b) in a.chunks_exact(4).zip(b) {
                    for (half, chain) in chains.iter_mut().enumerate() {
                        let a = value(a[2 * half], a[2 * half + 1]);
                        for (sum, b) in chain.iter_mut().zip(b.chunks_exact(4)) {
                            // (The product of two such values is exact, so that the sum is rounded
                            // once.)
                            *sum += a * value(b[2 * half], b[2 * half + 1]);
                        }
                    }
                }
                let mut new: [f32; 16] = bytemuck::cast(*sums);
                new.iter_mut().zip(chains[0].iter().zip(chains[1])).for_each(|(sum, (even, odd))| *sum += even + odd);
                *sums = bytemuck::cast(new);
            }),
            _ => false,
        }
    }

    fn run_on_vectors(&self, vectors: *mut u8) -> bool {
        let mut vectors = Vectors(vectors);
        match (self.op, self.prefix, self.operand) {
            // vpdpbusd
            (0x50, 1, operand) => {
                let a = vectors.get(self.second);
                let b = match operand {
                    Operand::Register(register) => vectors.get(register),
                    // SAFETY: the instruction reads 32 bytes.
                    Operand::Memory(from, index) => unsafe {
                        *(from.wrapping_add(index.unwrap_or(0)) as *const [u8; 32])
                    },
                };
                let mut sums: [i32; 8] = bytemuck::cast(vectors.get(self.reg));
                for (sum, (a, b)) in sums.iter_mut().zip(a.chunks_exact(4).zip(b.chunks_exact(4))) {
                    for (&a, &b) in a.iter().zip(b) {
                        *sum = sum.wrapping_add(i32::from(a) * i32::from(b as i8));
                    }
                }
                vectors.set(self.reg, bytemuck::cast(sums));
                true
            }
            // vpbroadcastd
            (BROADCAST, 1, Operand::Memory(from, index)) => {
                // SAFETY: the instruction reads four bytes.
                let word = unsafe { (from.wrapping_add(index.unwrap_or(0)) as *const u32).read_unaligned() };
                vectors.set(self.reg, bytemuck::cast([word; 8]));
                true
            }
            _ => false,
        }
    }
}

impl Tiles {
    fn has(&self, tile: usize) -> bool {
        self.configured && tile < TILES && self.rows[tile] > 0
    }

    /// Whether the three tiles can be multiplied; and their rows, by `multiply`: one of A, all of
    /// B, one of sums.
    fn multiply(
        &mut self,
        c: usize,
        a: usize,
        b: usize,
        multiply: impl Fn(&[u8], &[[u8; ROW]], &mut [u8; ROW]),
    ) -> bool {
        if ![a, b, c].into_iter().all(|tile| self.has(tile)) || a == b || b == c || a == c {
            return false;
        }
        let (rows, depth) = (self.rows[c], self.rows[b]);
        if self.rows[a] != rows || self.row_bytes[b] != self.row_bytes[c] || self.row_bytes[a] != 4 * depth {
            return false;
        }
        let (left, right) = (self.tiles[a], self.tiles[b]);
        for (sums, left) in self.tiles[c].iter_mut().zip(left).take(rows) {
            multiply(&left[..4 * depth], &right[..depth], sums);
            sums[self.row_bytes[c]..].fill(0);
        }
        true
    }
}

/// Vectors of 256 bits in what `xsave` wrote: the lower halves from byte 160 on, the upper from 576
/// on. A bit of byte 512 says whether these were written; else they are zero.
struct Vectors(*mut u8);

impl Vectors {
    const UPPER: u8 = 4;

    fn get(&self, register: usize) -> [u8; 32] {
        let mut value = [0; 32];
        // SAFETY: see the type; registers are below sixteen.
        unsafe {
            value[..16].copy_from_slice(&*self.0.add(160 + 16 * register).cast::<[u8; 16]>());
            if *self.0.add(512) & Self::UPPER != 0 {
                value[16..].copy_from_slice(&*self.0.add(576 + 16 * register).cast::<[u8; 16]>());
            }
        }
        value
    }

    fn set(&mut self, register: usize, value: [u8; 32]) {
        // SAFETY: see the type; registers are below sixteen.
        unsafe {
            if *self.0.add(512) & Self::UPPER == 0 {
                self.0.add(576).write_bytes(0, 256);
                *self.0.add(512) |= Self::UPPER;
            }
            self.0.add(160 + 16 * register).cast::<[u8; 16]>().write(value[..16].try_into().expect("half"));
            self.0.add(576 + 16 * register).cast::<[u8; 16]>().write(value[16..].try_into().expect("half"));
        }
    }
}
