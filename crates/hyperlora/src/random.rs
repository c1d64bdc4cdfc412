//! Weights of random numbers that exist in memory only, so that a model of released size can be measured without its
//! files. They take the same way through loading as a file's.

use std::io;

use candle_core::DType;
use memmap2::{Mmap, MmapMut};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::files::Layout;

/// Bytes that one thread fills at a time.
const CHUNK: usize = 1 << 20;

/// A safetensors file in anonymous memory: every number has a random sign and a magnitude from 1/64 to 1/32, the size of
/// trained weights.
pub(crate) fn image(layout: &Layout, dtype: DType, seed: u64) -> io::Result<Mmap> {
    let (header, data) = header(layout, dtype);
    let mut map = MmapMut::map_anon(8 + header.len() + data)?;
    let (length, rest) = map.split_at_mut(8);
    length.copy_from_slice(&(header.len() as u64).to_le_bytes());
    let (head, numbers) = rest.split_at_mut(header.len());
    head.copy_from_slice(&header);
    fill(numbers, Pattern::of(dtype), seed);
    map.make_read_only()
}

/// The header as bytes, a multiple of eight of them, and how many bytes of numbers follow.
fn header(layout: &Layout, dtype: DType) -> (Vec<u8>, usize) {
    let mut entries = Map::new();
    let mut end = 0;
    for (name, shape) in layout {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.size_in_bytes();
        let entry = json!({"dtype": dtype.as_str().to_uppercase(), "shape": shape, "data_offsets": [start, end]});
        entries.insert(name.clone(), entry);
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    (header, end)
}

/// Which bits of eight bytes are random, and which are set.
#[derive(Clone, Copy)]
struct Pattern {
    random: u64,
    set: u64,
}

impl Pattern {
    /// Sign and fraction are random, the exponent is that of 1/64.
    fn of(dtype: DType) -> Self {
        let (random, set) = match dtype {
            DType::F16 => (0x83ff_83ff_83ff_83ff, 0x2400_2400_2400_2400),
            DType::BF16 => (0x807f_807f_807f_807f, 0x3c80_3c80_3c80_3c80),
            _ => (0x807f_ffff_807f_ffff, 0x3c80_0000_3c80_0000),
        };
        Self { random, set }
    }
}

fn fill(bytes: &mut [u8], pattern: Pattern, seed: u64) {
    let chunks = bytes.par_chunks_mut(CHUNK).enumerate();
    chunks.for_each(|(number, chunk)| {
        let mut state = mixed(seed ^ mixed(number as u64));
        for word in chunk.chunks_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let bits = mixed(state) & pattern.random | pattern.set;
            word.copy_from_slice(&bits.to_le_bytes()[..word.len()]);
        }
    });
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
fn mixed(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::files::TensorFile;

    #[test]
    fn numbers_have_the_size_of_weights_and_both_signs() {
        let layout = Layout::from([("a".to_owned(), vec![3, 5]), ("b".to_owned(), vec![4097])]);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let file = TensorFile::random(&layout, dtype, 7).unwrap();
            file.check(&layout, |_| false).unwrap();
            let numbers = file.tensor("b", &Device::Cpu).unwrap();
            let numbers = numbers.to_vec1::<f32>().unwrap();
            let size = |x: &f32| (1.0 / 64.0..=1.0 / 32.0).contains(&x.abs());
            assert!(numbers.iter().all(size), "{dtype:?}");
            let positive = numbers.iter().filter(|x| **x > 0.0).count();
            assert!((1900..2200).contains(&positive), "{dtype:?}: {positive}");
            let other = TensorFile::random(&layout, dtype, 8).unwrap();
            assert_ne!(
                other
                    .tensor("b", &Device::Cpu)
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap(),
                numbers
            );
        }
    }
}
