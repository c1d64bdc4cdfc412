//! How much work a pass is: operations and bytes, counted from the sizes alone.

use candle_core::DType;

use crate::config::{LevelConfig, SdxlConfig, UNetConfig, VaeConfig};

/// What a computation has to do at the least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations of matrix products, convolutions and attention: two per multiplication
    /// with its addition. Norms and activations are left out.
    pub flops: f64,
    /// Bytes between memory and processor, if every operation reads its weights and inputs once and
    /// writes its result once.
    pub bytes: f64,
    /// Numbers in weights that it reads.
    pub weights: f64,
}

impl SdxlConfig {
    /// One pass of the UNet over `batch` latents of a picture of these sides in pixels, with `tokens`
    /// text states each.
    pub fn unet_work(
        &self,
        batch: usize,
        (height, width): (usize, usize),
        tokens: usize,
        dtype: DType,
    ) -> Work {
        let factor = self.vae.factor();
        let plane = (height / factor, width / factor);
        let mut count = Count::new(batch, dtype);
        unet(&mut count, &self.unet, plane, tokens);
        count.work
    }

    /// The autoencoder's decoding of `batch` pictures of these sides in pixels, in f32.
    pub fn decode_work(&self, batch: usize, (height, width): (usize, usize)) -> Work {
        let factor = self.vae.factor();
        let mut count = Count::new(batch, DType::F32);
        decoder(&mut count, &self.vae, (height / factor, width / factor));
        count.work
    }
}

/// Height and width in numbers.
type Plane = (usize, usize);

/// Adds operations up.
struct Count {
    work: Work,
    batch: f64,
    size: f64,
}

impl Count {
    fn new(batch: usize, dtype: DType) -> Self {
        Self {
            work: Work::default(),
            batch: batch as f64,
            size: dtype.size_in_bytes() as f64,
        }
    }

    /// A product per sample, of `weights` numbers, that reads and writes this many activations.
    fn add(&mut self, flops: usize, weights: usize, activations: usize) {
        self.work.flops += self.batch * flops as f64;
        self.work.weights += weights as f64;
        self.work.bytes += self.size * (weights as f64 + self.batch * activations as f64);
    }

    fn conv(&mut self, (input, output): (usize, usize), kernel: usize, from: Plane, to: Plane) {
        let weights = input * output * kernel * kernel;
        let activations = input * from.0 * from.1 + output * to.0 * to.1;
        self.add(2 * weights * to.0 * to.1, weights + output, activations);
    }

    fn linear(&mut self, rows: usize, (input, output): (usize, usize), bias: bool) {
        let weights = input * output + usize::from(bias) * output;
        self.add(2 * rows * input * output, weights, rows * (input + output));
    }

    /// One that is the same for the whole batch.
    fn linear_once(&mut self, sizes: (usize, usize)) {
        let batch = std::mem::replace(&mut self.batch, 1.0);
        self.linear(1, sizes, true);
        self.batch = batch;
    }

    /// Without its four projections: queries, keys, values in, a mix out.
    fn attention(&mut self, queries: usize, keys: usize, width: usize) {
        self.add(4 * queries * keys * width, 0, 2 * (queries + keys) * width);
    }

    fn norm(&mut self, channels: usize, positions: usize) {
        self.add(0, 2 * channels, 2 * channels * positions);
    }

    fn resnet(&mut self, (input, output): (usize, usize), time: Option<usize>, plane: Plane) {
        let positions = plane.0 * plane.1;
        self.norm(input, positions);
        self.conv((input, output), 3, plane, plane);
        if let Some(time) = time {
            self.linear(1, (time, output), true);
        }
        self.norm(output, positions);
        self.conv((output, output), 3, plane, plane);
        if input != output {
            self.conv((input, output), 1, plane, plane);
        }
    }

    fn transformer(&mut self, level: &LevelConfig, config: &UNetConfig, plane: Plane, text: usize) {
        let (c, n) = (level.channels, plane.0 * plane.1);
        let context = config.cross_attention_dim;
        self.norm(c, n);
        self.linear(n, (c, c), true);
        for _ in 0..level.transformers {
            self.projections(n, (n, c), c);
            self.attention(n, n, c);
            self.projections(n, (text, context), c);
            self.attention(n, text, c);
            self.norm(c, n);
            self.linear(n, (c, 8 * c), true);
            self.linear(n, (4 * c, c), true);
        }
        self.linear(n, (c, c), true);
    }

    /// Norm, queries, keys and values of `from` (count and width), output.
    fn projections(&mut self, queries: usize, from: (usize, usize), width: usize) {
        let (keys, context) = from;
        self.norm(width, queries);
        self.linear(queries, (width, width), false);
        self.linear(keys, (context, width), false);
        self.linear(keys, (context, width), false);
        self.linear(queries, (width, width), true);
    }
}

fn unet(count: &mut Count, config: &UNetConfig, plane: Plane, text: usize) {
    let first = config.down[0].channels;
    let time = Some(4 * first);
    count.linear_once((first, 4 * first));
    count.linear_once((4 * first, 4 * first));
    count.linear(1, (config.added_dim, 4 * first), true);
    count.linear(1, (4 * first, 4 * first), true);
    count.conv((4, first), 3, plane, plane);
    let (mut input, mut planes, mut skips) = (first, vec![plane], vec![first]);
    for (i, level) in config.down.iter().enumerate() {
        let plane = planes[i];
        for _ in 0..level.layers {
            layer(count, config, (input, level), plane, text);
            input = level.channels;
            skips.push(input);
        }
        if i + 1 < config.down.len() {
            let half = (plane.0.div_ceil(2), plane.1.div_ceil(2));
            count.conv((input, input), 3, plane, half);
            planes.push(half);
            skips.push(input);
        }
    }
    let lowest = planes[planes.len() - 1];
    layer(count, config, (input, &config.mid), lowest, text);
    count.resnet((input, input), time, lowest);
    for level in &config.up {
        let plane = planes.pop().unwrap_or(plane);
        for _ in 0..=level.layers {
            let skip = skips.pop().unwrap_or_default();
            layer(count, config, (input + skip, level), plane, text);
            input = level.channels;
        }
        if let Some(&larger) = planes.last() {
            count.conv((input, input), 3, larger, larger);
        }
    }
    count.norm(first, plane.0 * plane.1);
    count.conv((first, 4), 3, plane, plane);
}

/// A residual block from `input` channels, and the transformer behind it.
fn layer(
    count: &mut Count,
    config: &UNetConfig,
    (input, level): (usize, &LevelConfig),
    plane: Plane,
    text: usize,
) {
    let time = Some(4 * config.down[0].channels);
    count.resnet((input, level.channels), time, plane);
    if level.transformers > 0 {
        count.transformer(level, config, plane, text);
    }
}

fn decoder(count: &mut Count, config: &VaeConfig, plane: Plane) {
    let last = config.channels[config.channels.len() - 1];
    if config.post_quant_conv {
        count.conv((4, 4), 1, plane, plane);
    }
    count.conv((4, last), 3, plane, plane);
    count.resnet((last, last), None, plane);
    if config.mid_attention {
        let n = plane.0 * plane.1;
        count.norm(last, n);
        for _ in 0..4 {
            count.linear(n, (last, last), true);
        }
        count.attention(n, n, last);
    }
    count.resnet((last, last), None, plane);
    let (mut input, mut plane) = (last, plane);
    for (i, &output) in config.channels.iter().rev().enumerate() {
        for _ in 0..=config.layers {
            count.resnet((input, output), None, plane);
            input = output;
        }
        if i + 1 < config.channels.len() {
            plane = (2 * plane.0, 2 * plane.1);
            count.conv((output, output), 3, plane, plane);
        }
    }
    count.norm(input, plane.0 * plane.1);
    count.conv((input, 3), 3, plane, plane);
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "counts, which are exact")]
mod tests {
    use super::*;

    /// Every weight is read once, so that the numbers of weights show that no layer is forgotten. The
    /// counts are diffusers' own (`sum(p.numel() for p in …parameters())`).
    #[test]
    fn a_pass_reads_every_weight_of_sdxl() {
        let config = SdxlConfig::full_size().unwrap();
        let unet = config.unet_work(3, (1024, 1024), 77, DType::F16);
        assert_eq!(unet.weights, 2_567_463_684.0);
        let decoder = config.decode_work(1, (512, 512));
        // AutoencoderKL's decoder and post_quant_conv.
        assert_eq!(decoder.weights, 49_490_199.0);
    }

    #[test]
    fn operations_grow_with_batch_and_area() {
        let config = SdxlConfig::full_size().unwrap();
        let pass = |batch, side| config.unet_work(batch, (side, side), 77, DType::F16).flops;
        // What torch's FlopCounterMode counts for diffusers' models of these sizes.
        assert_eq!(pass(1, 512), 1_588_778_762_240.0);
        assert_eq!(pass(1, 1024), 6_761_236_398_080.0);
        let decoding = config.decode_work(1, (512, 512));
        assert_eq!(decoding.flops, 2_514_518_933_504.0);
        let doubled = pass(2, 512) / pass(1, 512);
        assert!((1.999..=2.0).contains(&doubled), "{doubled}");
        assert!(pass(1, 1024) > 4.0 * pass(1, 512));
        let halves = config.unet_work(1, (512, 512), 77, DType::F16);
        let full = config.unet_work(1, (512, 512), 77, DType::F32);
        assert_eq!(full.bytes, 2.0 * halves.bytes);
    }
}
