//! Runs the CUDA kernels on the CPU in tests: `kernels.cu` is C++ except for a few keywords, and
//! its threads' results depend only on their indices. Compared with the CPU kernels, in both types.
//! Without a C++ compiler, nothing is tested and a message says so.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use crate::attention::bias_columns;
use crate::attention::dropout_mask::Mask;
use crate::attention::shape::Geometry;
use crate::attention::softmax_dropout::{self, Rows};
use crate::nn::dropout::DropoutRule;
use crate::{
    AdamStep, Attention, LambStep, Mode, RngKey, adam_step, add_bias, add_dropout, decay, dropout,
    ema_update, gelu, im2col, lamb_step, layer_norm, softmax, sum_of_squares,
};

/// Returns the program that runs a kernel; `None` without a compiler.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Result<Option<(tempfile::TempDir, PathBuf)>, String>> =
        OnceLock::new();
    match PROGRAM.get_or_init(build) {
        Ok(built) => built.as_ref().map(|(_, program)| program.as_path()),
        Err(finding) => panic!("{finding}"),
    }
}

fn build() -> Result<Option<(tempfile::TempDir, PathBuf)>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let program = directory.path().join("on_cpu");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/on_cpu.cpp");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
    let output = Command::new(&compiler)
        .args(["-std=c++20", "-O1", "-ffp-contract=off", "-pthread", "-o"])
        .args([&program, &source])
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(Some((directory, program))),
        Ok(output) => Err(format!(
            "{compiler}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => {
            println!("kernels are not tested, as there is no C++ compiler: {compiler}: {error}");
            Ok(None)
        }
    }
}

/// An argument of a kernel.
enum Given<'a> {
    /// An input buffer.
    In(&'a Tensor),
    /// An output buffer, by its number of values.
    Out(usize),
    /// A number.
    Number(String),
}
use Given::{In, Out};

impl Given<'_> {
    /// Copies a number.
    fn same(&self) -> Self {
        match self {
            Self::Number(number) => Self::Number(number.clone()),
            In(_) | Out(_) => unreachable!("numbers alone are given twice"),
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // numbers
fn number(value: impl ToString) -> Given<'static> {
    Given::Number(value.to_string())
}

/// Runs a kernel and returns the bytes it writes.
fn run(kernel: &str, given: &[Given]) -> Option<Vec<u8>> {
    let words = given.iter().map(|given| match given {
        In(tensor) => tensor.elem_count().to_string(),
        Out(count) => count.to_string(),
        Given::Number(number) => number.clone(),
    });
    let mut child = Command::new(program()?)
        .arg(kernel)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input: Vec<u8> = given
        .iter()
        .flat_map(|given| match given {
            In(tensor) => bytes(tensor),
            Out(_) | Given::Number(_) => Vec::new(),
        })
        .collect();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{kernel}: {:?}", output.status);
    Some(output.stdout)
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let flat = tensor.flatten_all().unwrap();
    if tensor.dtype() == DType::BF16 {
        let values = flat.to_vec1::<half::bf16>().unwrap();
        return values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
    }
    let values = flat.to_vec1::<f32>().unwrap();
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn values(bytes: &[u8], dtype: DType) -> Vec<f32> {
    if dtype == DType::BF16 {
        let values = bytes.as_chunks().0.iter();
        let values = values.map(|&value| half::bf16::from_le_bytes(value));
        return values.map(half::bf16::to_f32).collect();
    }
    let values = bytes.as_chunks().0.iter();
    values.map(|&value| f32::from_le_bytes(value)).collect()
}

/// Returns a tensor of values in [-3, 3), a function of the seed.
fn tensor(seed: u64, n: usize, dtype: DType) -> Tensor {
    let key = RngKey::new(seed);
    let values: Vec<f32> = (0..n as u64)
        .map(|i| (key.bits(i) >> 40) as f32 / (1 << 24) as f32 * 6.0 - 3.0)
        .collect();
    let tensor = Tensor::from_vec(values, n, &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap()
}

/// Asserts that a kernel's result equals the CPU's: bit for bit, or within the difference between
/// two math libraries.
fn assert_output(actual: Option<Vec<u8>>, expected: &Tensor, relative: f32) {
    let Some(actual) = actual else { return };
    let dtype = expected.dtype();
    let (actual, expected) = (values(&actual, dtype), values(&bytes(expected), dtype));
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.into_iter().zip(expected) {
        let distance = (actual - expected).abs();
        assert!(
            distance <= relative * expected.abs().max(0.1),
            "{actual}, not {expected}"
        );
    }
}

/// Asserts equality bit for bit, except for NaN.
fn assert_same(actual: Vec<f32>, expected: Vec<f32>) {
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.into_iter().zip(expected) {
        let same = actual.to_bits() == expected.to_bits();
        assert!(
            same || (actual.is_nan() && expected.is_nan()),
            "{actual}, not {expected}"
        );
    }
}

const TYPES: [(DType, &str, f32); 2] = [(DType::F32, "f32", 2e-6), (DType::BF16, "bf16", 8e-3)];

/// Converts to an `f32` variable, for gradients.
fn wide(x: &Tensor, shape: &[usize]) -> Var {
    let wide = x.to_dtype(DType::F32).unwrap().reshape(shape).unwrap();
    Var::from_tensor(&wide).unwrap()
}

/// Returns the gradients of `sum(y * dy)`.
fn gradients(y: &Tensor, dy: &Tensor) -> GradStore {
    let dy = wide(dy, y.dims());
    (y * dy.as_tensor())
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap()
}

fn narrow(x: &Tensor, dtype: DType) -> Tensor {
    x.to_dtype(dtype).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn dropout_masks_equal_the_cpu(n in 1_usize..400, seed: u64, rate in 0.01_f64..0.9) {
        let key = RngKey::new(seed);
        let (mode, rule) = (Mode::Training(key), DropoutRule::new(key, rate));
        for (dtype, suffix, _) in TYPES {
            let (x, branch) = (tensor(seed, n, dtype), tensor(seed ^ 1, n, dtype));
            let [key, threshold] = rule.numbers().map(number);
            let numbers = [number(n), key, threshold, number(rule.scale())];
            // One sample of n values: its mask is that of the key itself.
            let sample = |x: &Tensor| x.reshape((1, n)).unwrap();
            let expected = dropout(&sample(&x), rate, mode).unwrap();
            let given: Vec<_> = [In(&x), Out(n)].into_iter().chain(numbers).collect();
            assert_output(run(&format!("dropout_{suffix}"), &given), &expected, 0.0);
            let expected = add_dropout(&sample(&x), &sample(&branch), rate, mode).unwrap();
            let given: Vec<_> = [In(&x), In(&branch)].into_iter().chain(given.into_iter().skip(1)).collect();
            assert_output(run(&format!("add_dropout_{suffix}"), &given), &expected, 0.0);
            // Each value with the bias of its own column, in f32 until the final sum.
            let bias = tensor(seed ^ 2, n, dtype);
            let wide = |x: &Tensor| sample(x).to_dtype(DType::F32).unwrap();
            let biased = add_bias(&wide(&branch), &wide(&bias).squeeze(0).unwrap()).unwrap();
            let expected = add_dropout(&wide(&x), &biased, rate, mode).unwrap();
            let given: Vec<_> = [In(&x), In(&branch), In(&bias), Out(n), number(n)].into_iter().chain(given.into_iter().skip(3)).collect();
            assert_output(run(&format!("add_biased_dropout_{suffix}"), &given), &narrow(&expected, dtype), 0.0);
        }
    }

    #[test]
    fn softmax_dropout_equals_the_cpu_attention(
        queries in 1_usize..4, keys in prop_oneof![1_usize..70, (1_usize..33).prop_map(|blocks| 16 * blocks)], heads in 1_usize..3, seed: u64,
        rate in 0.01_f64..0.9,
    ) {
        let mode = Mode::Training(RngKey::new(seed));
        let how = Attention { heads, scale: 0.7, dropout: rate, mode };
        let g = Geometry::new(&[2, queries, heads], &[2, keys, 1], &[2, keys, 1], how).unwrap();
        let mask = Mask::new(rate, mode, g).unwrap().unwrap();
        let n = 2 * heads * queries * keys;
        for (dtype, suffix, relative) in TYPES {
            let (x, dy) = (tensor(seed, n, DType::F32), tensor(seed ^ 1, n, dtype));
            let logits = wide(&x, &[2, queries * heads, keys]);
            let rows = Rows { g, mask: Some(mask), by_head: false };
            let y = softmax_dropout::softmax_composed(&logits, rows).unwrap();
            let kernel = |name: &str| format!("{}_{suffix}", rows.kernel(name));
            let (key, threshold, factor) = mask.for_gpu();
            let numbers = || {
                let sizes = [number(n), number(keys), number(0.7), number(queries), number(heads)];
                sizes.into_iter().chain([number(key), number(threshold), number(factor)])
            };
            let given: Vec<_> = [In(&x), Out(n)].into_iter().chain(numbers()).collect();
            assert_output(run(&kernel("softmax_dropout"), &given), &narrow(&y, dtype), 4.0 * relative);
            let expected = narrow(gradients(&y, &dy).get(&logits).unwrap(), dtype);
            let given: Vec<_> = [In(&x), In(&dy), Out(n)].into_iter().chain(numbers()).collect();
            assert_output(run(&kernel("softmax_dropout_backward"), &given), &expected, 10.0 * relative);
        }
    }

    #[test]
    fn gelu_and_its_gradient_equal_the_cpu(n in 1_usize..400, seed: u64) {
        for (dtype, suffix, relative) in TYPES {
            let (x, dy) = (tensor(seed, n, dtype), tensor(seed ^ 1, n, dtype));
            let input = wide(&x, &[n]);
            let y = gelu(&input).unwrap();
            let actual = run(&format!("gelu_{suffix}"), &[In(&x), Out(n), number(n)]);
            assert_output(actual, &narrow(&y, dtype), relative);
            let expected = narrow(gradients(&y, &dy).get(&input).unwrap(), dtype);
            let actual = run(&format!("gelu_backward_{suffix}"), &[In(&x), In(&dy), Out(n), number(n)]);
            assert_output(actual, &expected, 3.0 * relative);
        }
    }

    #[test]
    fn bias_kernels_equal_the_cpu(rows in 1_usize..9, width in 1_usize..50, seed: u64) {
        let n = rows * width;
        for (dtype, suffix, relative) in TYPES {
            let [x, dy] = [0, 1].map(|add| tensor(seed ^ add, n, dtype));
            let bias = tensor(seed ^ 2, width, dtype);
            let (input, by) = (wide(&x, &[rows, width]), wide(&bias, &[width]));
            let sum = add_bias(&input, &by).unwrap();
            let given = [In(&x), In(&bias), Out(n), number(n), number(width)];
            let actual = run(&format!("add_bias_{suffix}"), &given);
            assert_output(actual, &narrow(&sum, dtype), relative);
            let y = gelu(&sum).unwrap();
            let actual = run(&format!("bias_gelu_{suffix}"), &given);
            assert_output(actual, &narrow(&y, dtype), 3.0 * relative);
            let expected = narrow(gradients(&y, &dy).get(&input).unwrap(), dtype);
            let given = [In(&x), In(&bias), In(&dy), Out(n), number(n), number(width)];
            let actual = run(&format!("bias_gelu_backward_{suffix}"), &given);
            assert_output(actual, &expected, 3.0 * relative);
        }
    }

    #[test]
    fn repeats_ones_columns_and_column_sums_equal_the_cpu(rows in 1_usize..70, width in 1_usize..50, chunks in 1_usize..4, seed: u64) {
        let n = rows * width;
        let padded = (width + 1).next_multiple_of(8);
        for (dtype, suffix, _) in TYPES {
            let x = tensor(seed, n, dtype);
            let actual = run(&format!("repeat_{suffix}"), &[In(&x), Out(3 * n), number(n), number(3 * n)]);
            assert_output(actual, &Tensor::cat(&[&x, &x, &x], 0).unwrap(), 0.0);
            let sizes = || [number(width), number(padded)];
            let [width_of, padded_of] = sizes();
            let given = [In(&x), Out(rows * padded), number(n), width_of, padded_of];
            let actual = run(&format!("with_ones_{suffix}"), &given);
            let expected = bias_columns::with_ones_composed(&x.reshape((rows, width)).unwrap()).unwrap();
            assert_output(actual, &expected, 0.0);
            let [width_of, padded_of] = sizes();
            let given = [In(&expected), Out(n), number(rows * padded), width_of, padded_of];
            assert_output(run(&format!("without_ones_{suffix}"), &given), &x, 0.0);
            let bias = tensor(seed ^ 1, rows, dtype);
            let in_rows = x.reshape((rows, width)).unwrap();
            let expected = bias_columns::with_column(&in_rows, &bias, None).unwrap();
            let [width_of, padded_of] = sizes();
            let given = [In(&x), In(&bias), Out(rows * padded), number(n), width_of, padded_of];
            assert_output(run(&format!("with_column_{suffix}"), &given), &expected, 0.0);
            let given = [In(&x), Out(chunks * width), number(n), number(width), number(chunks)];
            let Some(sums) = run(&format!("column_sums_{suffix}"), &given) else { continue };
            let sums = Tensor::from_vec(values(&sums, DType::F32), (chunks, width), &Device::Cpu).unwrap();
            let expected = wide(&x, &[rows, width]).sum(0).unwrap();
            assert_output(Some(bytes(&sums.sum(0).unwrap())), &expected, 1e-4);
            let given = [In(&x), Out(width), number(n), number(width), number(1)];
            let actual = run(&format!("column_sums_to_bf16_{suffix}"), &given);
            assert_output(actual, &narrow(&expected, DType::BF16), 1e-2);
        }
    }

    #[test]
    fn im2col_equals_the_cpu(
        batch in 1_usize..3, height in 1_usize..7, width in 1_usize..7, channels in 1_usize..4, margin in 0_usize..3, stride in 1_usize..4,
        seed: u64,
    ) {
        let (n, side) = (batch * height * width * channels, 2 * margin + 1);
        for (dtype, suffix, relative) in TYPES {
            let x = tensor(seed, n, dtype);
            let input = wide(&x, &[batch, height, width, channels]);
            let y = im2col(&input, side, stride).unwrap();
            let m = y.elem_count();
            let sizes = [height, width, channels, side, stride];
            let given: Vec<_> = [In(&x), Out(m), number(n)].into_iter().chain(sizes.map(number)).collect();
            assert_output(run(&format!("neighbourhoods_{suffix}"), &given), &narrow(&y, dtype), 0.0);
            let dy = tensor(seed ^ 1, m, dtype);
            let expected = narrow(gradients(&y, &dy).get(&input).unwrap(), dtype);
            let given: Vec<_> = [In(&dy), Out(n), number(m)].into_iter().chain(sizes.map(number)).collect();
            assert_output(run(&format!("neighbourhoods_backward_{suffix}"), &given), &expected, 10.0 * relative);
        }
    }

    #[test]
    fn softmax_and_its_gradient_equal_the_cpu(rows in 1_usize..9, width in 1_usize..80, seed: u64) {
        let n = rows * width;
        for (dtype, suffix, relative) in TYPES {
            let in_rows = |x: &Tensor| x.to_dtype(DType::F32).unwrap().reshape((rows, width)).unwrap();
            let (x, dy) = (tensor(seed, n, dtype), tensor(seed ^ 1, n, dtype));
            let y = narrow(&softmax(&in_rows(&x)).unwrap(), dtype);
            let actual = run(&format!("softmax_{suffix}"), &[In(&x), Out(n), number(n), number(width)]);
            assert_output(actual, &y, relative);
            let (wide_y, wide_dy) = (in_rows(&y), in_rows(&dy));
            let dot = (&wide_y * &wide_dy).unwrap().sum_keepdim(1).unwrap();
            let expected = (wide_y * wide_dy.broadcast_sub(&dot).unwrap()).unwrap();
            let given = [In(&y), In(&dy), Out(n), number(n), number(width)];
            let actual = run(&format!("softmax_backward_{suffix}"), &given);
            assert_output(actual, &narrow(&expected, dtype), 2.0 * relative);
        }
    }

    #[test]
    fn layer_norm_and_its_gradients_equal_the_cpu(rows in 1_usize..9, width in 2_usize..300, seed: u64) {
        let n = rows * width;
        for (dtype, suffix, relative) in TYPES {
            let (x, dy) = (tensor(seed, n, dtype), tensor(seed ^ 1, n, dtype));
            let [gamma, beta] = [2, 3].map(|add| tensor(seed ^ add, width, dtype));
            let inputs = [wide(&x, &[rows, width]), wide(&gamma, &[width]), wide(&beta, &[width])];
            let y = layer_norm(&inputs[0], &inputs[1], &inputs[2], 1e-2).unwrap();
            let kernel = |name: &str, buffers: [&Tensor; 3]| {
                let [a, b, c] = buffers.map(In);
                let given = [a, b, c, Out(n), number(n), number(width), number("1e-2")];
                run(&format!("{name}_{suffix}"), &given)
            };
            let actual = kernel("layer_norm", [&x, &gamma, &beta]);
            assert_output(actual, &narrow(&y, dtype), 10.0 * relative);
            let gradients = gradients(&y, &dy);
            let actual = kernel("layer_norm_backward", [&x, &gamma, &dy]);
            let expected = narrow(gradients.get(&inputs[0]).unwrap(), dtype);
            assert_output(actual, &expected, 100.0 * relative.min(2e-3));
            let given = [In(&x), In(&dy), Out(3 * 2 * width), number(n), number(width), number("1e-2")];
            let sums = run(&format!("layer_norm_weights_{suffix}"), &given);
            let Some(sums) = sums else { continue };
            let sums = values(&sums, DType::F32);
            let sums = Tensor::from_vec(sums, (3, 2, width), &Device::Cpu).unwrap().sum(0).unwrap();
            for (row, input) in inputs[1..].iter().enumerate() {
                let expected = gradients.get(input).unwrap();
                let actual = bytes(&sums.get(row).unwrap());
                assert_output(Some(actual), expected, 1e-4);
            }
        }
    }

    #[test]
    fn multi_tensor_steps_equal_the_cpu(counts: [u8; 2], length in 1_usize..300, seed: u64) {
        let counts = counts.map(|count| usize::from(count) + 1);
        let parameters: Vec<[Tensor; 4]> = counts.iter().enumerate().map(|(number, &count)| {
            let of = |kind: u64| tensor(seed ^ (4 * number as u64 + kind), count, DType::F32);
            [of(0), of(1), of(2).sqr().unwrap(), of(3)]
        }).collect();
        let numbers = [counts[0], counts[1], length].map(number);
        let buffers = parameters.iter().flatten().map(|tensor| tensor.copy().unwrap()).collect::<Vec<_>>();
        let given = || numbers.iter().map(Given::same).chain(buffers.iter().map(In)).collect::<Vec<_>>();
        let changed = || {
            let all: Vec<_> = parameters.iter().flat_map(|tensors| &tensors[..3]).collect();
            Tensor::cat(&all, 0).unwrap()
        };
        let reset = || for (tensor, value) in parameters.iter().flatten().zip(&buffers) {
            tensor.slice_set(value, 0, 0).unwrap();
        };
        let sums = run("squares", &given());
        let Some(sums) = sums.map(|sums| values(&sums, DType::F32)) else { return Ok(()) };
        let expected: f64 = parameters.iter().map(|tensors| sum_of_squares(&tensors[3]).unwrap()).sum();
        let actual = sums.iter().copied().map(f64::from).sum::<f64>();
        assert!((actual - expected).abs() < 1e-5 * expected, "{actual}, not {expected}");

        let step = AdamStep { first_rate: 0.1, second_rate: 0.001, step_size: 0.03, epsilon: 1e-7 };
        for (number, [parameter, first, second, gradient]) in parameters.iter().enumerate() {
            decay(parameter, 0.125 * number as f32).unwrap();
            adam_step(parameter, first, second, &(gradient * 0.5).unwrap(), step).unwrap();
        }
        assert_output(run("adam_steps", &given()), &changed(), 1e-6);
        reset();
        let step = LambStep {
            first_rate: 0.1, second_rate: 0.001, first_correction: 10.0, second_correction: 1000.0, epsilon: 1e-7,
            weight_decay: 0.25, learning_rate: 0.01,
        };
        for (number, [parameter, first, second, gradient]) in parameters.iter().enumerate() {
            decay(parameter, 0.125 * number as f32).unwrap();
            lamb_step(parameter, first, second, gradient, step).unwrap();
        }
        assert_output(run("lamb_steps", &given()), &changed(), 1e-5);
        reset();
        for [mean, _, _, value] in &parameters {
            ema_update(mean, value, 0.25).unwrap();
        }
        assert_output(run("move_means", &given()), &changed(), 0.0);
        reset();
        for [sum, _, _, share] in &parameters {
            sum.slice_set(&(sum + share).unwrap(), 0, 0).unwrap();
        }
        assert_output(run("add_all_f32", &given()), &changed(), 0.0);
        reset();

        // Outputs for the first parameter, whose values come first.
        let (count, gradient) = (counts[0], &parameters[0][3]);
        let first = |kernel: &str, size: usize| run(kernel, &given()).map(|actual| actual[..size * count].to_vec());
        assert_output(first("narrow_all", 2), &narrow(gradient, DType::BF16), 0.0);
        // Any bits will do.
        let halves_of = |tensor: &Tensor| values(&bytes(tensor)[..2 * count], DType::BF16);
        let [halves, others] = [gradient, &parameters[0][0]].map(halves_of);
        let sums = halves.iter().zip(others).map(|(a, b)| half::bf16::from_f32(a + b).to_f32());
        let actual = values(&first("add_all_bf16", 2).unwrap(), DType::BF16);
        assert_same(actual, sums.collect());
        assert_same(values(&first("widen_all", 4).unwrap(), DType::F32), halves);
    }
}

/// Rounds to nearest, ties to even, as `half` does; infinities and NaN are preserved.
#[test]
fn values_are_rounded_to_nearest_even() {
    let special = [
        0.0,
        -0.0,
        1.0,
        1.003_906_2,
        1.011_718_8,
        3.389e38,
        f32::INFINITY,
        f32::NAN,
        1e-40,
    ];
    let x = Tensor::new(&special, &Device::Cpu).unwrap();
    let zeros = x.zeros_like().unwrap().neg().unwrap(); // -0, which changes nothing, not even -0
    let narrow = narrow(&x, DType::BF16);
    for (x, suffix) in [(&x, "f32"), (&narrow, "bf16")] {
        let bias = zeros.to_dtype(x.dtype()).unwrap();
        let n = special.len();
        let given = [In(x), In(&bias), Out(n), number(n), number(n)];
        let Some(actual) = run(&format!("add_bias_{suffix}"), &given) else {
            return;
        };
        let (actual, expected) = (values(&actual, x.dtype()), values(&bytes(x), x.dtype()));
        assert_same(actual, expected);
    }
}
