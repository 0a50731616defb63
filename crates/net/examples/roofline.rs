//! What bounds each layer of the two benchmark networks on a card, by counting: the tables of `kernels/RESULTS.md`.
//!
//! `cargo run -p net --example roofline -- [matrix TFLOP/s] [memory TB/s]`; the defaults are an H100 SXM's data sheet.
//! Activations are bfloat16, each tensor is moved once by each pass that needs it, nothing stays in a cache between
//! passes, and the image is padded to 8 channels.
#![expect(clippy::print_stdout, reason = "the tables are what is asked for")]

use artifact::plan::{Encoder, Network};
use net::describe::{LayerInfo, layers};

/// Rates of a card.
struct Card {
    /// FLOP/s of the tensor cores in bfloat16.
    matrix: f64,
    /// Bytes/s of device memory.
    memory: f64,
}

/// Work of a pass over a layer.
#[derive(Clone, Copy)]
struct Work {
    flop: f64,
    bytes: f64,
}

impl Work {
    fn matrix(self, card: &Card) -> f64 {
        self.flop / card.matrix
    }

    fn memory(self, card: &Card) -> f64 {
        self.bytes / card.memory
    }

    /// Seconds below which no card of these rates does it.
    fn bound(self, card: &Card) -> f64 {
        self.matrix(card).max(self.memory(card))
    }
}

/// A layer of a batch, pass by pass. Its two gradients each cost what the forward pass costs: as many products, over
/// the same two tensors and weights.
struct Passes {
    forward: Work,
    /// 1 with the weights' gradient alone (the image needs none), else 2.
    gradients: f64,
    /// Instance norm and leaky ReLU, forward and backward; 0 behind a head or a transposed convolution.
    norm: Work,
}

impl Passes {
    fn of(layer: &LayerInfo, batch: usize, first: bool) -> Self {
        let output: usize = layer.size.iter().product();
        let stride: usize = layer.stride.iter().product();
        let up = layer.name.ends_with(".up");
        let input = if up { output / stride } else { output * stride };
        let taps: usize = layer.kernel.iter().product();
        let tensor = |voxels: usize, channels: usize| {
            (2 * batch * voxels * channels.next_multiple_of(8)) as f64
        };
        let written = tensor(output, layer.outputs);
        let weights = (2 * taps * layer.inputs * layer.outputs) as f64;
        // Forward: one read, one write (the convolution sums what the norm needs). Backward: the activation is made
        // again (one read, one write); sums over the input and the gradient, then both again and one write.
        let norm = if layer.name.contains(".conv.") { (2.0 + 2.0 + 5.0) * written } else { 0.0 };
        Self {
            forward: Work {
                flop: layer.forward_flops * batch as f64,
                bytes: tensor(input, layer.inputs) + written + weights,
            },
            gradients: if first { 1.0 } else { 2.0 },
            norm: Work { flop: 0.0, bytes: norm },
        }
    }

    fn training(&self) -> Work {
        let times = 1.0 + self.gradients;
        Work {
            flop: times * self.forward.flop,
            bytes: times * self.forward.bytes + self.norm.bytes,
        }
    }

    fn training_bound(&self, card: &Card) -> f64 {
        (1.0 + self.gradients) * self.forward.bound(card) + self.norm.bound(card)
    }
}

fn network(features: &[usize]) -> Network {
    let stages = features.len();
    let mut strides = vec![[2; 3]; stages];
    strides[0] = [1; 3];
    Network {
        encoder: Encoder::Plain,
        input_channels: 1,
        output_channels: 3,
        features: features.to_vec(),
        kernels: vec![[3; 3]; stages],
        strides,
        encoder_convs: vec![2; stages],
        decoder_convs: vec![2; stages - 1],
        deep_supervision: true,
        negative_slope: 0.01,
        norm_epsilon: 1e-5,
    }
}

fn tables(title: &str, spec: &Network, batch: usize, patch: [usize; 3], card: &Card) {
    println!("\n### {title}\n");
    println!(
        "| layer | channels | output voxels | GFLOP | MB | FLOP/byte | matrix µs | memory µs | bound by | norm µs | \
         training µs |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let (mut total, mut forward) = (Work { flop: 0.0, bytes: 0.0 }, 0.0);
    let (mut by_matrix, mut by_memory, mut norms) = (0.0, 0.0, 0.0);
    let list = layers(spec, patch).expect("the networks of this file are sound");
    for (i, layer) in list.iter().filter(|l| l.trained).enumerate() {
        let passes = Passes::of(layer, batch, i == 0);
        let (work, norm) = (passes.forward, passes.norm.bound(card));
        let (matrix, memory) = (work.matrix(card), work.memory(card));
        println!(
            "| {} | {} → {} | {} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} | {} | {:.0} | {:.0} |",
            layer.name,
            layer.inputs,
            layer.outputs,
            batch * layer.size.iter().product::<usize>(),
            work.flop / 1e9,
            work.bytes / 1e6,
            work.flop / work.bytes,
            matrix * 1e6,
            memory * 1e6,
            if matrix > memory { "matrix" } else { "memory" },
            norm * 1e6,
            passes.training_bound(card) * 1e6
        );
        let training = passes.training();
        total = Work { flop: total.flop + training.flop, bytes: total.bytes + training.bytes };
        let convolutions = passes.training_bound(card) - norm;
        *(if matrix > memory { &mut by_matrix } else { &mut by_memory }) += convolutions;
        norms += norm;
        // Of the norm's nine passes, prediction has the first two.
        forward += work.bound(card) + norm * 2.0 / 9.0;
    }
    let bound = by_matrix + by_memory + norms;
    let ms = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
    println!("\n| training iteration | |\n|---|---|");
    println!("| work | {:.2} TFLOP, {:.1} GB |", total.flop / 1e12, total.bytes / 1e9);
    println!("| least time, every pass at its own bound | {} |", ms(bound));
    println!("| … of it convolutions bound by the matrix units | {} |", ms(by_matrix));
    println!("| … of it convolutions bound by memory | {} |", ms(by_memory));
    println!("| … of it norms and activations (memory) | {} |", ms(norms));
    println!("| all products at the matrix units' peak | {} |", ms(total.matrix(card)));
    println!("| all products at a quarter of it | {} |", ms(4.0 * total.matrix(card)));
    println!("| least time of a forward pass | {} |", ms(forward));
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|a| a.parse::<f64>().ok());
    let matrix = numbers.next().unwrap_or(989.0) * 1e12;
    let card = Card { matrix, memory: numbers.next().unwrap_or(3.35) * 1e12 };
    println!(
        "Peaks: {:.0} TFLOP/s, {:.2} TB/s; they meet at {:.0} FLOP/byte.",
        card.matrix / 1e12,
        card.memory / 1e12,
        card.matrix / card.memory
    );
    let large = network(&[32, 64, 128, 256, 320, 320]);
    tables("128×128×128, batch 2, features 32 … 320, six stages", &large, 2, [128; 3], &card);
    let small = network(&[32, 64, 128, 256]);
    tables("40×56×40, batch 9, features 32 … 256, four stages", &small, 9, [40, 56, 40], &card);
}
