//! The convolution of bf16 tensors against the composed one in `f32` on the same values.

use candle_core::{Device, Var};
use proptest::prelude::*;

use super::*;
use crate::autograd::recorded_ops::apply_op3;
use crate::{RngKey, conv2d_composed};

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    outputs: usize,
    side: usize,
}

/// Input, weight, bias and the output's gradient.
type Inputs = [Tensor; 4];

/// The output and the gradients of input, weight and bias.
type Results = [Vec<f32>; 4];

impl Sizes {
    /// Returns inputs in [-1, 1) that are bf16 numbers, as `f32`.
    fn inputs(self, seed: u64) -> Inputs {
        let Self {
            batch,
            height,
            width,
            channels,
            outputs,
            side,
        } = self;
        let inputs = side * side * channels;
        let tensor = |number: u64, shape: &[usize]| {
            let key = RngKey::new(seed ^ number);
            let value = |i| (key.bits(i) >> 40) as f32 / 8_388_608.0 - 1.0;
            let count = shape.iter().product::<usize>() as u64;
            let values = (0..count).map(|i| bf16::from_f32(value(i)).to_f32());
            let values = Tensor::from_iter(values, &Device::Cpu).unwrap();
            values.reshape(shape).unwrap()
        };
        [
            tensor(0, &[batch, height, width, channels]),
            tensor(1, &[outputs, inputs]),
            tensor(2, &[outputs]),
            tensor(3, &[batch, height, width, outputs]),
        ]
    }
}

fn values(x: &Tensor) -> Vec<f32> {
    let x = x.to_dtype(DType::F32).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Computes a convolution and its gradients.
fn results(
    dtype: DType,
    inputs: &Inputs,
    convolve: impl Fn([&Tensor; 3]) -> Result<Tensor>,
) -> Results {
    let [x, weight, bias, dy] = inputs.each_ref().map(|x| x.to_dtype(dtype).unwrap());
    let [x, weight, bias] = [x, weight, bias].map(|x| Var::from_tensor(&x).unwrap());
    let y = convolve([&x, &weight, &bias]).unwrap();
    let loss = (&y * dy).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let gradient = |of: &Var| {
        let gradient = gradients.get(of).unwrap();
        assert_eq!((gradient.dtype(), gradient.dims()), (dtype, of.dims()));
        values(gradient)
    };
    [values(&y), gradient(&x), gradient(&weight), gradient(&bias)]
}

fn found(kernel: Bf16Kernel, side: usize, inputs: &Inputs) -> Results {
    results(DType::BF16, inputs, |[x, weight, bias]| {
        apply_op3(x, weight, bias, Conv2dBf16 { kernel, side })
    })
}

fn expected(side: usize, inputs: &Inputs) -> Results {
    results(DType::F32, inputs, |[x, weight, bias]| {
        conv2d_composed(x, weight, bias, side)
    })
}

fn bits(results: &Results) -> Vec<u32> {
    let values = results.iter().flatten();
    values.map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Sums are `f32` and rounded once.
    #[test]
    fn values_and_gradients_are_those_of_f32_rounded(
        batch in prop_oneof![1_usize..4, Just(17)],
        (height, width) in prop_oneof![
            (1_usize..8, 1_usize..8), (Just(3), 12_usize..18), Just((8, 8)), Just((1, 1)), Just((2, 16)),
        ],
        channels in prop_oneof![1_usize..6, 15_usize..19, 31_usize..34, Just(100)],
        outputs in prop_oneof![Just(1), Just(5), Just(32), Just(33), Just(64)],
        side in prop_oneof![Just(1), Just(3), Just(5)],
        seed: u64,
    ) {
        let sizes = Sizes { batch, height, width, channels, outputs, side };
        let inputs = sizes.inputs(seed);
        let exact = expected(side, &inputs);
        let size = expected(side, &inputs.each_ref().map(|x| x.abs().unwrap()));
        let portable = found(Bf16Kernel::PORTABLE, side, &inputs);
        for kernel in Bf16Kernel::all() {
            let found = found(kernel, side, &inputs);
            if kernel.to_string() != "AMX" {
                prop_assert_eq!(bits(&found), bits(&portable), "{}", kernel);
            }
            for (number, found) in found.iter().enumerate() {
                for (at, found) in found.iter().enumerate() {
                    let (exact, size) = (exact[number][at], size[number][at]);
                    let bound = 2e-6 * size + exact.abs() / 256.0;
                    prop_assert!(
                        (found - exact).abs() <= bound,
                        "{kernel}: {found} for {exact}, value {at} of result {number}"
                    );
                }
            }
        }
    }
}

/// What is known of a value that may be NaN or infinite.
fn kinds(results: &[Vec<f32>]) -> Vec<[bool; 2]> {
    let values = results.iter().flatten();
    values
        .map(|value| [value.is_nan(), value.is_finite()])
        .collect()
}

/// NaN and infinities in the input and in the output's gradient, at an edge and inside, reach the
/// values that depend on them, and no others. Those in the weight also meet the zeros around `dy`,
/// so of the input's gradient they reach more than in the composed form.
#[test]
fn nan_and_infinity_reach_what_depends_on_them() {
    for (height, width, channels, outputs, side) in [
        (4, 5, 3, 5, 3),
        (1, 1, 1, 1, 1),
        (8, 8, 16, 33, 3),
        (6, 3, 17, 4, 5),
    ] {
        let sizes = Sizes {
            batch: 2,
            height,
            width,
            channels,
            outputs,
            side,
        };
        let count = height * width * channels;
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (number, place) in [
                (0, count),
                (0, count + count / 2),
                (1, 0),
                (3, 0),
                (3, outputs),
            ] {
                let mut inputs = sizes.inputs(7);
                let mut changed = values(&inputs[number]);
                let place = place.min(changed.len() - 1);
                changed[place] = special;
                let shape = inputs[number].shape().clone();
                inputs[number] = Tensor::from_vec(changed, shape, &Device::Cpu).unwrap();
                let expected = expected(side, &inputs);
                let compared = if number == 1 { 1 } else { expected.len() };
                for kernel in Bf16Kernel::all() {
                    let found = found(kernel, side, &inputs);
                    assert!(
                        kinds(&found[..compared]) == kinds(&expected[..compared]),
                        "{kernel}: {special} in {number} of {sizes:?}"
                    );
                }
            }
        }
    }
}

/// Tasks of images and the order of their sums do not depend on threads.
#[test]
fn results_do_not_depend_on_threads() {
    let sizes = Sizes {
        batch: 3 * TASK_IMAGES + 1,
        height: 4,
        width: 4,
        channels: 20,
        outputs: 40,
        side: 3,
    };
    let inputs = sizes.inputs(3);
    let kernel = Bf16Kernel::fastest().unwrap_or(Bf16Kernel::PORTABLE);
    let [one, two] = [1, 2].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| bits(&found(kernel, 3, &inputs)))
    });
    assert_eq!(one, two);
}

#[test]
fn an_image_gets_no_gradient() {
    let sizes = Sizes {
        batch: 2,
        height: 4,
        width: 4,
        channels: 3,
        outputs: 8,
        side: 3,
    };
    let [x, weight, bias, _] = sizes.inputs(1).map(|x| x.to_dtype(DType::BF16).unwrap());
    let weight = Var::from_tensor(&weight).unwrap();
    let op = Conv2dBf16 {
        kernel: Bf16Kernel::PORTABLE,
        side: 3,
    };
    let y = apply_op3(&x, &weight, &bias, op).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&weight).is_some());
    assert!(gradients.get(&x).is_none());
}
