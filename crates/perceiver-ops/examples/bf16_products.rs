//! Measures products of bf16 matrices against those of the `gemm` crate in f32, in GFLOP/s:
//! `cargo run --release -p perceiver-ops --example bf16_products [ROUNDS] [THREADS]`.
//!
//! The contestants take turns; a figure is the median of the rounds, then the best. `packed` has
//! the right operand packed before, `all` packs it in every product; both read `f32`. `bf16` reads
//! and writes bf16, and has the right operand packed before.

use std::time::Instant;

use candle_core::{Device, Tensor};
use half::bf16;
use perceiver_ops::{Bf16Kernel, PackedMatrix};
use rayon::prelude::*;

#[path = "support/gemm.rs"]
mod product;

use product::multiply_f32;

/// Multiplies into an output.
type Multiply<'a> = Box<dyn Fn(&mut [f32], &mut [bf16]) + Sync + 'a>;

type Shape = [usize; 3]; // rows, inner dimension, columns

const SHAPES: [Shape; 8] = [
    [256, 256, 256],
    [128, 256, 256],
    [256, 256, 2048],
    [64, 32, 64],
    [64, 64, 32],
    [2048, 2048, 2048],
    [257, 2057, 255],
    [101, 67, 131],
];

fn main() -> candle_core::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().ok());
    let rounds: usize = numbers.next().flatten().unwrap_or(15);
    let threads: usize = numbers.next().flatten().unwrap_or(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let pool = pool.build().map_err(candle_core::Error::wrap)?;
    let kernels = Bf16Kernel::all();
    println!("{threads} threads, {rounds} rounds: median and best GFLOP/s");
    for shape in SHAPES {
        let [rows, inner, columns] = shape;
        println!("{rows} x {inner} x {columns}");
        let left = vec![0.5f32; rows * inner];
        let narrow = vec![bf16::from_f32(0.5); left.len()];
        let right = vec![0.25f32; inner * columns];
        let matrix = Tensor::from_slice(&right, (inner, columns), &Device::Cpu)?;
        let packed = PackedMatrix::from_tensor(&matrix)?;
        let work = 2.0 * (rows * inner * columns) as f64;
        let repeats = ((2e8 / work) as usize).max(1);
        let mut contestants: Vec<(String, Multiply)> = vec![(
            "gemm f32".to_string(),
            Box::new(|output, _| multiply_f32(shape, &left, &right, output)),
        )];
        for kernel in kernels
            .iter()
            .filter(|kernel| **kernel != Bf16Kernel::PORTABLE)
        {
            let (left, narrow, matrix, packed) = (&left, &narrow, &matrix, &packed);
            contestants.push((
                format!("{kernel} packed"),
                Box::new(move |output, _| fits(packed.multiply(*kernel, left, output))),
            ));
            contestants.push((
                format!("{kernel} all"),
                Box::new(move |output, _| {
                    let packed = PackedMatrix::from_tensor(matrix);
                    fits(packed.and_then(|packed| packed.multiply(*kernel, left, output)));
                }),
            ));
            contestants.push((
                format!("{kernel} bf16"),
                Box::new(move |_, output| fits(packed.multiply_bf16(*kernel, narrow, output))),
            ));
        }
        let size = rows * columns;
        let mut outputs = vec![(vec![0f32; size], vec![bf16::ZERO; size]); threads];
        let mut rates = vec![Vec::new(); contestants.len()];
        for _ in 0..rounds {
            for ((_, multiply), rates) in contestants.iter().zip(&mut rates) {
                let start = Instant::now();
                pool.install(|| {
                    outputs.par_iter_mut().for_each(|(wide, narrow)| {
                        for _ in 0..repeats {
                            multiply(wide, narrow);
                        }
                    });
                });
                let seconds = start.elapsed().as_secs_f64();
                rates.push(1e-9 * work * (repeats * threads) as f64 / seconds);
            }
        }
        for ((name, _), mut rates) in contestants.iter().zip(rates) {
            rates.sort_by(f64::total_cmp);
            let (median, best) = (rates[rates.len() / 2], rates[rates.len() - 1]);
            println!("    {name:20} {median:7.1} {best:7.1}");
        }
    }
    Ok(())
}

/// Says so when a product failed, which these shapes exclude.
fn fits(result: candle_core::Result<()>) {
    if let Err(error) = result {
        eprintln!("{error}");
    }
}
