//! The kernels for NVIDIA GPUs, run on the CPU: `kernels.cu` is C++ but for some words, and what its threads compute is a function of
//! their numbers alone. Held to the CPU's own kernels, in both types. Where no C++ compiler is found, nothing is tested, and said so.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use crate::attention::mask::Mask;
use crate::attention::shape::Geometry;
use crate::dropout::Rule;
use crate::{
    AdamStep, Attention, Key, Mode, adam_step, add_dropout, dropout, gelu, layer_norm, softmax,
};

/// The program that runs a kernel; none without a compiler.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let built = PROGRAM.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("on_cpu");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/on_cpu.cpp");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
        let output = Command::new(&compiler)
            .args(["-std=c++20", "-O1", "-ffp-contract=off", "-pthread", "-o"])
            .args([&program, &source])
            .output();
        match output {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{compiler}: {said}");
                Some((directory, program))
            }
            Err(error) => {
                println!(
                    "kernels are not tested, as there is no C++ compiler: {compiler}: {error}"
                );
                None
            }
        }
    });
    built.as_ref().map(|(_, program)| program.as_path())
}

/// The bytes that a kernel writes, given these of its buffers.
fn run(kernel: &str, n: usize, numbers: &[String], buffers: &[&[u8]]) -> Option<Vec<u8>> {
    let mut child = Command::new(program()?)
        .args([kernel, &n.to_string()])
        .args(numbers)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = buffers.concat();
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

/// A tensor of values in [-3, 3), a function of the seed.
fn tensor(seed: u64, n: usize, dtype: DType) -> Tensor {
    let key = Key::new(seed);
    let values: Vec<f32> = (0..n as u64)
        .map(|i| (key.bits(i) >> 40) as f32 / (1 << 24) as f32 * 6.0 - 3.0)
        .collect();
    let tensor = Tensor::from_vec(values, n, &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap()
}

/// What a kernel finds, of the type of `like`, is what the CPU finds: to the bit, or as close as two libraries' functions are.
fn assert_found(found: Option<Vec<u8>>, expected: &Tensor, relative: f32) {
    let Some(found) = found else { return };
    let dtype = expected.dtype();
    let (found, expected) = (values(&found, dtype), values(&bytes(expected), dtype));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.into_iter().zip(expected) {
        let distance = (found - expected).abs();
        assert!(
            distance <= relative * expected.abs().max(0.1),
            "{found}, not {expected}"
        );
    }
}

const TYPES: [(DType, &str, f32); 2] = [(DType::F32, "f32", 2e-6), (DType::BF16, "bf16", 8e-3)];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn dropouts_have_the_masks_of_the_cpu(n in 1_usize..400, seed: u64, rate in 0.01_f64..0.9) {
        let key = Key::new(seed);
        let (mode, rule) = (Mode::Training(key), Rule::new(key, rate));
        for (dtype, suffix, _) in TYPES {
            let (x, branch) = (tensor(seed, n, dtype), tensor(seed ^ 1, n, dtype));
            let numbers = rule.numbers().map(|number| number.to_string());
            let numbers = [&numbers[..], &[rule.scale().to_string()]].concat();
            // One sample of n values, whose mask is that of the key itself.
            let sample = |x: &Tensor| x.reshape((1, n)).unwrap();
            let expected = dropout(&sample(&x), rate, mode).unwrap();
            let found = run(&format!("dropout_{suffix}"), n, &numbers, &[&bytes(&x)]);
            assert_found(found, &expected, 0.0);
            let expected = add_dropout(&sample(&x), &sample(&branch), rate, mode).unwrap();
            let buffers = [&bytes(&x)[..], &bytes(&branch)];
            let found = run(&format!("add_dropout_{suffix}"), n, &numbers, &buffers);
            assert_found(found, &expected, 0.0);
        }
    }

    #[test]
    fn attention_drops_what_it_drops_on_the_cpu(
        queries in 1_usize..5, keys in 1_usize..70, heads in 1_usize..3, seed: u64, rate in 0.01_f64..0.9,
    ) {
        let mode = Mode::Training(Key::new(seed));
        let how = Attention { heads, scale: 1.0, dropout: rate, mode };
        let g = Geometry::new(&[2, queries, heads], &[2, keys, heads], &[2, keys, heads], how).unwrap();
        let mask = Mask::new(rate, mode, g).unwrap().unwrap();
        let n = 2 * heads * queries * keys;
        let x = tensor(seed, n, DType::F32);
        let factors = Tensor::from_vec(mask.factors(g), n, &Device::Cpu).unwrap();
        let [key, threshold] = mask.numbers();
        let numbers = [keys as u64, key, threshold].map(|number| number.to_string());
        let numbers = [&numbers[..], &[mask.factor.to_string()]].concat();
        let found = run("attention_dropout_f32", n, &numbers, &[&bytes(&x)]);
        assert_found(found, &(x * factors).unwrap(), 0.0);
    }

    #[test]
    fn gelu_and_its_gradient_are_those_of_the_cpu(n in 1_usize..400, seed: u64) {
        for (dtype, suffix, relative) in TYPES {
            let x = tensor(seed, n, dtype);
            let found = run(&format!("gelu_{suffix}"), n, &[], &[&bytes(&x)]);
            let wide = Var::from_tensor(&x.to_dtype(DType::F32).unwrap()).unwrap();
            let y = gelu(&wide).unwrap();
            assert_found(found, &y.to_dtype(dtype).unwrap(), relative);
            let dy = tensor(seed ^ 1, n, dtype);
            let loss = (y * dy.to_dtype(DType::F32).unwrap()).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let expected = gradients.get(&wide).unwrap().to_dtype(dtype).unwrap();
            let buffers = [&bytes(&x)[..], &bytes(&dy)];
            let found = run(&format!("gelu_backward_{suffix}"), n, &[], &buffers);
            assert_found(found, &expected, 3.0 * relative);
        }
    }

    #[test]
    fn softmax_and_its_gradient_are_those_of_the_cpu(rows in 1_usize..9, width in 1_usize..80, seed: u64) {
        let n = rows * width;
        for (dtype, suffix, relative) in TYPES {
            let in_rows = |x: &Tensor| x.to_dtype(DType::F32).unwrap().reshape((rows, width)).unwrap();
            let (x, dy) = (tensor(seed, n, dtype), tensor(seed ^ 1, n, dtype));
            let number = [width.to_string()];
            let y = softmax(&in_rows(&x)).unwrap().to_dtype(dtype).unwrap();
            let found = run(&format!("softmax_{suffix}"), n, &number, &[&bytes(&x)]);
            assert_found(found, &y, relative);
            let (wide_y, wide_dy) = (in_rows(&y), in_rows(&dy));
            let dot = (&wide_y * &wide_dy).unwrap().sum_keepdim(1).unwrap();
            let expected = (wide_y * wide_dy.broadcast_sub(&dot).unwrap()).unwrap();
            let buffers = [&bytes(&y)[..], &bytes(&dy)];
            let found = run(&format!("softmax_backward_{suffix}"), n, &number, &buffers);
            assert_found(found, &expected.to_dtype(dtype).unwrap(), 2.0 * relative);
        }
    }

    #[test]
    fn layer_norm_and_its_gradients_are_those_of_the_cpu(rows in 1_usize..9, width in 2_usize..80, seed: u64) {
        let n = rows * width;
        for (dtype, suffix, relative) in TYPES {
            let wide = |x: &Tensor, shape: &[usize]| {
                let wide = x.to_dtype(DType::F32).unwrap().reshape(shape).unwrap();
                Var::from_tensor(&wide).unwrap()
            };
            let (x, dy) = (tensor(seed, n, dtype), tensor(seed ^ 1, n, dtype));
            let [gamma, beta] = [2, 3].map(|add| tensor(seed ^ add, width, dtype));
            let inputs = [wide(&x, &[rows, width]), wide(&gamma, &[width]), wide(&beta, &[width])];
            let y = layer_norm(&inputs[0], &inputs[1], &inputs[2], 1e-2).unwrap();
            let numbers = [width.to_string(), "1e-2".to_string()];
            let kernel = |name: &str, buffers: [&Tensor; 3]| {
                let buffers = buffers.map(bytes);
                run(&format!("{name}_{suffix}"), n, &numbers, &buffers.each_ref().map(|bytes| &bytes[..]))
            };
            let found = kernel("layer_norm", [&x, &gamma, &beta]);
            assert_found(found, &y.to_dtype(dtype).unwrap(), 10.0 * relative);
            let loss = (y * wide(&dy, &[rows, width]).as_tensor()).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let found = kernel("layer_norm_backward", [&x, &gamma, &dy]);
            let expected = gradients.get(&inputs[0]).unwrap().to_dtype(dtype).unwrap();
            assert_found(found, &expected, 100.0 * relative.min(2e-3));
            let buffers = [&bytes(&x)[..], &bytes(&dy)];
            let sums = run(&format!("layer_norm_weights_{suffix}"), n, &numbers, &buffers);
            let Some(sums) = sums else { continue };
            let sums = values(&sums, DType::F32);
            let sums = Tensor::from_vec(sums, (3, 2, width), &Device::Cpu).unwrap().sum(0).unwrap();
            for (row, input) in inputs[1..].iter().enumerate() {
                let expected = gradients.get(input).unwrap();
                let found = bytes(&sums.get(row).unwrap());
                assert_found(Some(found), expected, 1e-4);
            }
        }
    }

    #[test]
    fn a_step_of_adam_is_that_of_the_cpu(n in 1_usize..400, seed: u64) {
        let step = AdamStep { first_rate: 0.1, second_rate: 0.001, step_size: 0.03, epsilon: 1e-7 };
        let [parameter, first, gradient] = [0, 1, 2].map(|add| tensor(seed ^ add, n, DType::F32));
        let second = tensor(seed ^ 3, n, DType::F32).sqr().unwrap();
        let buffers = [&parameter, &first, &second, &gradient].map(bytes);
        let numbers = [step.first_rate, step.second_rate, step.step_size, step.epsilon];
        let numbers = numbers.map(|number| number.to_string());
        let found = run("adam_f32", n, &numbers, &buffers.each_ref().map(|bytes| &bytes[..]));
        adam_step(&parameter, &first, &second, &gradient, step).unwrap();
        let expected = Tensor::cat(&[parameter, first, second], 0).unwrap();
        assert_found(found, &expected, 0.0);
    }
}

/// To the nearest, ties to even, as `half` rounds; infinities and NaN stay what they are.
#[test]
fn values_are_rounded_as_they_should_be() {
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
    let Some(found) = run(
        "dropout_f32",
        special.len(),
        &["1", "0", "1"].map(String::from),
        &[&bytes(&x)],
    ) else {
        return;
    };
    let same = values(&found, DType::F32);
    assert!(
        same.iter()
            .zip(special)
            .all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
    );
}
