//! How fast this machine reads memory: what a pass that reads every weight once cannot exceed. For
//! benches.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use super::aligned::Aligned;

/// Bytes that are read, by all threads together: many times what the caches of most CPUs hold.
const BYTES: usize = 1 << 30;

/// Bytes per second that `threads` threads read from memory together, each its own share of a
/// gigabyte on huge pages, as weights are. It takes about a second.
pub fn read_speed(threads: usize) -> f64 {
    let threads = threads.max(1);
    let mut buffer = Aligned::<u64>::zeroed(BYTES / size_of::<u64>());
    buffer.fill(1); // pages of zeros might share one page of memory
    let share = buffer.len().div_ceil(threads);
    let (ready, done) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    // The best of a few: others use this machine too.
    const ROUNDS: usize = 8;
    std::thread::scope(|scope| {
        for share in buffer.chunks(share) {
            let (ready, done) = (&ready, &done);
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    ready.wait();
                    black_box(sum(share));
                    done.wait();
                }
            });
        }
        let round = |_| {
            ready.wait();
            let start = Instant::now();
            done.wait();
            BYTES as f64 / start.elapsed().as_secs_f64()
        };
        (0..ROUNDS).map(round).fold(0.0, f64::max)
    })
}

/// The sum of all values, in lanes, so that loads do not wait for each other.
fn sum(values: &[u64]) -> u64 {
    let mut lanes = [0u64; 16];
    for line in values.as_chunks::<16>().0 {
        lanes.iter_mut().zip(line).for_each(|(lane, value)| *lane = lane.wrapping_add(*value));
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_read() {
        assert_eq!(sum(&(0..160).collect::<Vec<_>>()), 159 * 160 / 2);
    }
}
