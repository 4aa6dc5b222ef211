//! Benchmarks every fused operation against its composition of candle's operations, forward and
//! backward together, in the shapes of the `keras` preset: `<operation>/kernel` and
//! `<operation>/composed`.
//!
//! Benchmarks matrix products on one thread, `matmul_<rows>x<inner>x<columns>/<form>`: `f32` by the
//! `gemm` crate, `bf16` by our kernel, and `bf16_packed` with the right operand packed before. A CPU
//! without instructions for bf16 has only the first.

// `criterion_group!` makes a function without documentation.
#![allow(missing_docs)]

use std::hint::black_box;

#[path = "../examples/support/gemm.rs"]
mod product;

use candle_core::{Device, Result, Tensor, Var};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use perceiver_ops::{
    AbsorbedWeights, AdamStep, Attention, Bf16Kernel, Mode, PackedMatrix, RngKey,
    absorbed_attention, absorbed_attention_composed, adam_step, adam_step_composed, add_dropout,
    add_dropout_composed, attention, attention_composed, gelu, gelu_composed, layer_norm,
    layer_norm_composed, linear, linear_composed, softmax, softmax_composed,
};
use product::multiply_f32;

const BATCH: usize = 2;
const LATENTS: usize = 256;
const WIDTH: usize = 256;
const HEADS: usize = 8;
/// Number of tokens in cross-attention: a 64 x 64 image in patches of 2 x 2.
const TOKENS: usize = 1024;

type Op<'a> = &'a dyn Fn(&[Var]) -> Result<Tensor>;

fn variables(shapes: &[&[usize]]) -> Vec<Var> {
    let variable = |shape: &&[usize]| {
        let values = Tensor::randn(0f32, 0.05, *shape, &Device::Cpu)?;
        Var::from_tensor(&values)
    };
    let all: Result<Vec<Var>> = shapes.iter().map(variable).collect();
    all.expect("variables on the CPU")
}

fn forward_and_backward(inputs: &[Var], op: Op) -> Result<()> {
    black_box(op(inputs)?.sum_all()?.backward()?);
    Ok(())
}

fn compare(criterion: &mut Criterion, name: &str, shapes: &[&[usize]], kernel: Op, composed: Op) {
    let inputs = variables(shapes);
    let mut group = criterion.benchmark_group(name);
    for (form, op) in [("kernel", kernel), ("composed", composed)] {
        group.bench_function(form, |bencher| {
            bencher.iter(|| forward_and_backward(&inputs, op).expect(name));
        });
    }
    group.finish();
}

fn element_wise(criterion: &mut Criterion) {
    let values: &[usize] = &[BATCH, LATENTS, WIDTH];
    let mode = Mode::Training(RngKey::new(1));
    compare(criterion, "gelu", &[values], &|x| gelu(&x[0]), &|x| {
        gelu_composed(&x[0])
    });
    compare(criterion, "softmax", &[values], &|x| softmax(&x[0]), &|x| {
        softmax_composed(&x[0])
    });
    compare(
        criterion,
        "layer_norm",
        &[values, &[WIDTH], &[WIDTH]],
        &|x| layer_norm(&x[0], &x[1], &x[2], 1e-6),
        &|x| layer_norm_composed(&x[0], &x[1], &x[2], 1e-6),
    );
    compare(
        criterion,
        "add_dropout",
        &[values, values],
        &|x| add_dropout(&x[0], &x[1], 0.2, mode),
        &|x| add_dropout_composed(&x[0], &x[1], 0.2, mode),
    );
    compare(
        criterion,
        "linear",
        &[values, &[WIDTH, WIDTH], &[WIDTH]],
        &|x| linear(&x[0], &x[1], &x[2]),
        &|x| linear_composed(&x[0], &x[1], &x[2]),
    );
}

fn attentions(criterion: &mut Criterion) {
    let mode = Mode::Training(RngKey::new(2));
    let how = |heads, width: usize| Attention {
        heads,
        scale: (width as f64).powf(-0.5),
        dropout: 0.2,
        mode,
    };
    let (one, eight) = (how(1, WIDTH), how(HEADS, WIDTH));
    let data: &[usize] = &[BATCH, TOKENS, WIDTH];
    compare(
        criterion,
        "cross_attention",
        &[&[BATCH, LATENTS, WIDTH], data, data],
        &|x| attention(&x[0], &x[1], &x[2], one),
        &|x| attention_composed(&x[0], &x[1], &x[2], one),
    );
    let inner = HEADS * WIDTH;
    let absorbed = |x: &[Var]| AbsorbedWeights::new(x[1].as_tensor(), x[2].as_tensor());
    compare(
        criterion,
        "absorbed_self_attention",
        &[
            &[BATCH, LATENTS, WIDTH],
            &[WIDTH + 1, inner],
            &[inner + HEADS + 1, WIDTH],
        ],
        &|x| absorbed_attention(&x[0], &x[0], &absorbed(x)?, eight),
        &|x| absorbed_attention_composed(&x[0], &x[0], &absorbed(x)?, eight),
    );
}

fn adam(criterion: &mut Criterion) {
    let step = AdamStep {
        first_rate: 0.1,
        second_rate: 0.001,
        step_size: 1e-9,
        epsilon: 1e-7,
    };
    let shape: &[usize] = &[WIDTH, HEADS * WIDTH];
    let tensors = variables(&[shape, shape, shape, shape]);
    let [parameter, first, second, gradient] = &tensors[..] else {
        unreachable!("four were made");
    };
    let second_positive = second.sqr().expect("squares");
    let mut group = criterion.benchmark_group("adam");
    group.bench_function("kernel", |bencher| {
        bencher
            .iter(|| adam_step(parameter, first, &second_positive, gradient, step).expect("adam"));
    });
    group.bench_function("composed", |bencher| {
        bencher.iter(|| {
            adam_step_composed(parameter, first, &second_positive, gradient, step).expect("adam");
        });
    });
    group.finish();
}

/// Products of the `keras` preset, and a large one.
fn products(criterion: &mut Criterion) {
    for [rows, inner, columns] in [
        [LATENTS, WIDTH, WIDTH],
        [LATENTS, WIDTH, HEADS * WIDTH],
        [TOKENS, WIDTH, WIDTH],
        [2048, 2048, 2048],
    ] {
        let left = vec![0.5f32; rows * inner];
        let right = vec![0.25f32; inner * columns];
        let matrix = Tensor::from_slice(&right, (inner, columns), &Device::Cpu).expect("a matrix");
        let mut output = vec![0f32; rows * columns];
        let mut group = criterion.benchmark_group(format!("matmul_{rows}x{inner}x{columns}"));
        group.throughput(Throughput::Elements(2 * (rows * inner * columns) as u64));
        group.bench_function("f32", |bencher| {
            bencher.iter(|| multiply_f32([rows, inner, columns], &left, &right, &mut output));
        });
        if let Some(kernel) = Bf16Kernel::fastest() {
            let pack = || PackedMatrix::from_tensor(&matrix).expect("a matrix on the CPU");
            let mut multiply = |packed: &PackedMatrix| {
                packed
                    .multiply(kernel, &left, &mut output)
                    .expect("sizes that fit");
            };
            group.bench_function("bf16", |bencher| bencher.iter(|| multiply(&pack())));
            let packed = pack();
            group.bench_function("bf16_packed", |bencher| bencher.iter(|| multiply(&packed)));
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = element_wise, attentions, adam, products
}
criterion_main!(benches);
