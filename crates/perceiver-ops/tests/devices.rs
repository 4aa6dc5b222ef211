//! Operations in 16 bits and on GPUs, compared with the CPU in f32 on the same values, gradients
//! included, over random shapes. The tolerance is a hundredth, or a ten-thousandth in f32.

use candle_core::{DType, Device, Result, Tensor, Var};
use perceiver_ops::{
    AbsorbedWeights, AdamStep, Attention, LambStep, Mode, ParameterStep, RngKey, Tape, Transpose,
    Upload, absorbed_attention, absorbed_attention_residual, adam_step_composed, adam_steps,
    add_bias, add_dropout, attention, batched_matmul, conv2d, copy_all, decay, ema_updates,
    expand_batch, gelu, im2col, lamb_step_composed, lamb_steps, layer_norm, linear,
    linear_residual, max_pool, mean_pool, multiply_scalar, open_cuda, softmax, sum_of_all_squares,
    sum_of_squares, widen_all,
};
use proptest::prelude::*;

/// Returns a variable of bf16-exact values in [-1, 1), a function of `seed` and the shape.
fn variable(seed: u64, shape: &[usize]) -> Var {
    let key = RngKey::new(seed);
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64)
        .map(|i| (key.bits(i) >> 57) as f32 / 64.0 - 1.0)
        .collect();
    Var::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let wide = tensor.to_dtype(DType::F32).unwrap();
    wide.flatten_all().unwrap().to_vec1().unwrap()
}

/// Scale of rounding errors where no better one is known.
const LEAST_SIZE: f32 = 0.1;

/// Returns the typical size of a sum of `terms` products of two values of [`variable`]. Terms that
/// cancel leave their rounding errors.
fn size_of_sum(terms: usize) -> f32 {
    (terms as f32).sqrt() / 3.0
}

/// Asserts that the difference is at most `share` of the norm (more for few values, whose rounding
/// errors do not average out) and at most ten times that for each value. Values count as at least
/// `least_size`.
fn assert_close(actual: &Tensor, expected: &Tensor, share: f32, least_size: f32, what: &str) {
    assert_eq!(actual.dims(), expected.dims(), "{what}");
    let (actual, expected) = (values(actual), values(expected));
    let mean = |squares: f64| (squares / expected.len() as f64).sqrt();
    let square = |x: f32| f64::from(x).powi(2);
    let size = mean(expected.iter().map(|x| square(*x)).sum()) as f32;
    let size = size.max(least_size);
    let pairs = || actual.iter().zip(&expected);
    let few = 1.0 + 3.0 / expected.len() as f32;
    let difference = mean(pairs().map(|(a, b)| square(a - b)).sum()) as f32;
    assert!(
        difference <= few * share * size,
        "{what}: {difference} from what has size {size}"
    );
    for (actual, expected) in pairs() {
        let bound = 10.0 * share * (size + expected.abs());
        assert!(
            (actual - expected).abs() <= bound,
            "{what}: {actual} for {expected} of size {size}"
        );
    }
}

/// Returns the devices and types to compare with the CPU in f32, with their tolerances: 16 bits on
/// the CPU, and a GPU if built for one, which must then be present.
fn targets() -> Vec<(Device, DType, f32)> {
    let mut targets = vec![(Device::Cpu, DType::BF16, 0.01)];
    if cfg!(feature = "cuda") {
        let gpu = open_cuda(0).expect("a GPU");
        targets.extend([(gpu.clone(), DType::F32, 1e-4), (gpu, DType::BF16, 0.01)]);
    }
    targets
}

fn same(inputs: &[Var], function: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let outcome = |device: &Device, dtype: DType, tape: Option<Tape>| {
        let there = |x: &Var| x.to_device(device).unwrap().to_dtype(dtype).unwrap();
        let there: Vec<Tensor> = inputs.iter().map(there).collect();
        let output = function(&there).unwrap();
        assert_eq!(output.dtype(), dtype);
        let output = output.to_dtype(DType::F32).unwrap();
        let output = output.to_device(&Device::Cpu).unwrap();
        let weights = variable(99, output.dims());
        let loss = (&output * weights.as_tensor()).unwrap().sum_all().unwrap();
        let gradients = match tape {
            Some(tape) => tape.backward(&loss),
            None => loss.backward(),
        };
        (output, gradients.unwrap())
    };
    let (expected_value, gradients) = outcome(&Device::Cpu, DType::F32, None);
    let twice = |target: (Device, DType, f32)| [(target.clone(), false), (target, true)];
    let cpu = (Device::Cpu, DType::F32, 1e-6);
    let targets = std::iter::once(cpu).chain(targets());
    for ((device, dtype, bound), is_recorded) in targets.flat_map(twice) {
        let tape = is_recorded.then(Tape::start);
        let (actual, actual_gradients) = outcome(&device, dtype, tape);
        assert_close(&actual, &expected_value, bound, LEAST_SIZE, "value");
        for (index, input) in inputs.iter().enumerate() {
            let actual = actual_gradients.get(input).expect("a gradient");
            assert_eq!(actual.dtype(), DType::F32);
            let expected = gradients.get(input).unwrap();
            // An input smaller than the output contributes to many of its values.
            let least_size = match expected_value.elem_count() / input.elem_count() {
                0 | 1 => LEAST_SIZE,
                terms => size_of_sum(terms),
            };
            let what = format!(
                "gradient of input {index} on {:?} in {dtype:?}, noted: {is_recorded}",
                device.location()
            );
            assert_close(actual, expected, bound, least_size, &what);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rows(batch in 1_usize..4, n in 1_usize..19, width in 2_usize..37, outputs in 1_usize..23, seed: u64) {
        let x = variable(seed, &[batch, n, width]);
        let vector = |add| variable(seed.wrapping_add(add), &[width]);
        same(&[x.clone(), vector(1), vector(2)], |t| layer_norm(&t[0], &t[1], &t[2], 1e-3));
        same(std::slice::from_ref(&x), |t| softmax(&t[0]));
        same(std::slice::from_ref(&x), |t| gelu(&t[0]));
        same(&[x.clone(), vector(3)], |t| add_bias(&t[0], &t[1]));
        let weight = variable(seed.wrapping_add(4), &[outputs, width]);
        let bias = variable(seed.wrapping_add(5), &[outputs]);
        same(&[x.clone(), weight.clone(), bias.clone()], |t| linear(&t[0], &t[1], &t[2]));
        let mode = Mode::Training(RngKey::new(seed));
        let began_at = variable(seed.wrapping_add(8), &[batch, n, outputs]);
        same(&[began_at, x.clone(), weight, bias], |t| linear_residual(&t[0], &t[1], [&t[2], &t[3]], 0.3, mode));
        same(std::slice::from_ref(&x), |t| mean_pool(&t[0]));
        let factor = variable(seed.wrapping_add(6), &[]);
        same(&[x.clone(), factor], |t| multiply_scalar(&t[0], &t[1]));
        let other = variable(seed.wrapping_add(7), &[batch, n, width]);
        same(&[x.clone(), other.clone()], |t| add_dropout(&t[0], &t[1], 0.0, mode));
        same(&[x, other], |t| add_dropout(&t[0], &t[1], 0.3, mode));
        same(&[variable(seed, &[1, n, width])], |t| expand_batch(&t[0], 70));
    }

    #[test]
    fn products(batch in 1_usize..4, m in 1_usize..14, k in 1_usize..14, n in 1_usize..14, seed: u64) {
        let a = variable(seed, &[batch, m, k]);
        let b = variable(seed.wrapping_add(1), &[batch, n, k]);
        same(&[a, b], |t| batched_matmul(&t[0], &t[1], Transpose::Right));
        let map = variable(seed, &[batch, m, k, 3]);
        same(&[map], |t| im2col(&t[0], 3, 2));
        let map = variable(seed, &[batch, m, k, 16]);
        let inputs = [map, variable(seed ^ 1, &[n, 9 * 16]), variable(seed ^ 2, &[n])];
        same(&inputs, |t| conv2d(&t[0], &t[1], &t[2], 3));
        // Distinct values, of which no two are equal after rounding to 16 bits.
        let map = (0..batch * 4 * 6 * 3).map(|i| ((i * 37) % 251) as f32 / 128.0 - 1.0);
        let map = Tensor::from_iter(map, &Device::Cpu).unwrap();
        let map = Var::from_tensor(&map.reshape((batch, 4, 6, 3)).unwrap()).unwrap();
        same(&[map], |t| max_pool(&t[0]));
    }

    /// At smaller sizes, rounding errors of 16 bits do not average out.
    #[test]
    fn attentions(
        batch in 1_usize..3, n in 20_usize..70, m in 20_usize..90, heads in 1_usize..4, width in 10_usize..40, seed: u64,
    ) {
        let how = Attention { heads, scale: 0.7, dropout: 0.2, mode: Mode::Training(RngKey::new(seed)) };
        let queries = variable(seed, &[batch, n, heads * width]);
        let keys = variable(seed.wrapping_add(1), &[batch, m, heads * width]);
        let values = variable(seed.wrapping_add(2), &[batch, m, heads * width]);
        same(&[queries, keys, values], |t| attention(&t[0], &t[1], &t[2], how));

        let x = variable(seed, &[batch, n, 5]);
        let tokens = variable(seed.wrapping_add(3), &[batch, m, width]);
        let query = variable(seed.wrapping_add(4), &[6, heads * width]);
        let output = variable(seed.wrapping_add(5), &[heads * width + heads + 1, 7]);
        let began_at = variable(seed.wrapping_add(6), &[batch, n, 7]);
        same(&[x, tokens, query, output, began_at], |t| {
            let weights = AbsorbedWeights::new(&t[2], &t[3])?;
            let read = absorbed_attention(&t[0], &t[1], &weights, how)?;
            absorbed_attention_residual(&(read * 0.5)?.add(&t[4])?, &t[0], &t[1], &weights, how)
        });
    }
}

/// Weights of absorbed attention of two heads to tokens of width 10.
fn absorbed_weights(seed: u64, width: usize) -> [Var; 2] {
    let query = variable(seed, &[width + 1, 2 * 10]);
    [query, variable(seed + 1, &[2 * 10 + 2 + 1, 7])]
}

const TWO_HEADS: Attention = Attention {
    heads: 2,
    scale: 0.7,
    dropout: 0.0,
    mode: Mode::Inference,
};

/// More queries and keys than are computed together, of other tokens and of themselves.
#[test]
fn attention_of_many_tokens() {
    let (x, tokens) = (variable(1, &[1, 150, 6]), variable(2, &[1, 301, 10]));
    let [query, output] = absorbed_weights(3, 6);
    same(&[x, tokens, query, output], |t| {
        let weights = AbsorbedWeights::new(&t[2], &t[3])?;
        absorbed_attention(&t[0], &t[1], &weights, TWO_HEADS)
    });
    let [query, output] = absorbed_weights(5, 10);
    same(&[variable(7, &[2, 150, 10]), query, output], |t| {
        let weights = AbsorbedWeights::new(&t[1], &t[2])?;
        absorbed_attention(&t[0], &t[0], &weights, TWO_HEADS)
    });
}

/// Sums in 16 bits have one order, whatever the number of threads.
#[test]
fn values_and_gradients_in_bf16_do_not_depend_on_threads() {
    let bits = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let narrow = |x: Var| x.to_dtype(DType::BF16).unwrap();
            let x = variable(1, &[5, 150, 10]);
            let [query, output] = absorbed_weights(2, 10);
            let [weight, bias] = [variable(4, &[10, 7]), variable(5, &[10])];
            let inputs = [&x, &query, &output, &weight, &bias].map(Clone::clone);
            let [there, q, o, w, b] = inputs.clone().map(narrow);
            let weights = AbsorbedWeights::new(&q, &o).unwrap();
            let mode = Mode::Training(RngKey::new(6));
            let how = Attention {
                dropout: 0.2,
                mode,
                ..TWO_HEADS
            };
            let read = absorbed_attention(&there, &there, &weights, how).unwrap();
            let y = gelu(&linear(&read, &w, &b).unwrap()).unwrap();
            let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let gradients = inputs
                .iter()
                .map(|input| values(gradients.get(input).unwrap()));
            let all: Vec<f32> = gradients.flatten().chain(values(&y)).collect();
            all.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        })
    };
    let expected = bits(1);
    assert!(bits(2) == expected && bits(5) == expected);
}

/// Returns the CPU, and a GPU if built for one.
fn devices() -> Vec<Device> {
    let mut devices: Vec<Device> = targets().into_iter().map(|(device, ..)| device).collect();
    devices.dedup_by(|a, b| a.same_device(b));
    devices
}

/// Returns three tensors, one of them longer than a block of the kernel.
fn all(kind: u64, device: &Device) -> Vec<Tensor> {
    let shapes: [&[usize]; 3] = [&[3, 5], &[1], &[9_000]];
    let tensor = |(seed, shape): (u64, &&[usize])| {
        let values = variable(7 * kind + seed, shape);
        values.detach().to_device(device).unwrap().copy().unwrap()
    };
    (0..).zip(&shapes).map(tensor).collect()
}

const ADAM: AdamStep = AdamStep {
    first_rate: 0.1,
    second_rate: 0.001,
    step_size: 0.03,
    epsilon: 1e-7,
};

const LAMB: LambStep = LambStep {
    first_rate: 0.1,
    second_rate: 0.001,
    first_correction: 10.0,
    second_correction: 1000.0,
    epsilon: 1e-7,
    weight_decay: 0.25,
    learning_rate: 0.01,
};

/// Returns parameters and moments after a step, for all parameters at once or one by one.
fn after_a_step(device: &Device, is_lamb: bool, one_by_one: bool) -> Vec<Tensor> {
    let (parameters, gradients) = (all(0, device), all(1, device));
    let (firsts, seconds) = (all(2, device), all(3, device));
    let seconds = seconds.iter().map(|tensor| tensor.sqr().unwrap());
    let moments = firsts.into_iter().zip(seconds).map(|(a, b)| [a, b]);
    let moments: Vec<_> = moments.collect();
    let tensors = parameters.iter().zip(&moments).zip(&gradients);
    let steps = tensors.map(|((parameter, moments), gradient)| ParameterStep {
        parameter,
        moments,
        gradient,
        decay: 0.125,
        weight_decay: LAMB.weight_decay,
    });
    let steps: Vec<_> = steps.collect();
    let factor = Tensor::new(0.5f32, device).unwrap();
    if one_by_one {
        for step in &steps {
            let [first, second] = step.moments;
            let gradient = (step.gradient * 0.5).unwrap();
            decay(step.parameter, step.decay).unwrap();
            if is_lamb {
                lamb_step_composed(step.parameter, first, second, &gradient, LAMB).unwrap();
            } else {
                adam_step_composed(step.parameter, first, second, &gradient, ADAM).unwrap();
            }
        }
    } else if is_lamb {
        lamb_steps(&steps, LAMB, Some(&factor)).unwrap();
    } else {
        adam_steps(&steps, ADAM, Some(&factor)).unwrap();
    }
    let means: Vec<_> = parameters.iter().zip(&gradients).collect();
    ema_updates(&means, 0.25).unwrap();
    let moments = moments.into_iter().flatten();
    parameters.into_iter().chain(moments).collect()
}

/// The gradient of a sum goes to both terms, and both get more before and after.
#[test]
fn gradients_of_reused_tensors_are_independent() {
    let gradients = |device: &Device| {
        let there = |seed| variable(seed, &[3, 7]).to_device(device).unwrap();
        let [a, b] = [1, 2].map(|seed| Var::from_tensor(&there(seed)).unwrap());
        let tape = device.is_cuda().then(Tape::start);
        let plus = |a: &Tensor, b: &Tensor| add_dropout(a, b, 0.0, Mode::Inference).unwrap();
        let before = gelu(&b).unwrap();
        let sum = plus(&a, &b);
        let after = plus(&gelu(&a).unwrap(), &softmax(&a).unwrap());
        let all = plus(&plus(&before, &sum), &after);
        let gradients = match tape {
            Some(tape) => tape.backward(&all),
            None => all.backward(),
        };
        let gradients = gradients.unwrap();
        [a, b].map(|input| gradients.get(&input).unwrap().clone())
    };
    let expected = gradients(&Device::Cpu);
    for device in &devices() {
        for (actual, expected) in gradients(device).iter().zip(&expected) {
            let actual = actual.to_device(&Device::Cpu).unwrap();
            assert_close(&actual, expected, 1e-4, LEAST_SIZE, "a gradient");
        }
    }
}

#[test]
fn multi_tensor_steps_equal_single_steps() {
    for device in &devices() {
        for is_lamb in [false, true] {
            let expected = after_a_step(&Device::Cpu, is_lamb, true);
            let actual = after_a_step(device, is_lamb, false);
            for (actual, expected) in actual.iter().zip(&expected) {
                let actual = actual.to_device(&Device::Cpu).unwrap();
                assert_close(&actual, expected, 1e-5, LEAST_SIZE, "after a step");
            }
        }
    }
}

#[test]
fn sums_copies_and_transfers_keep_the_values() {
    for device in &devices() {
        let tensors = all(1, device);
        let sum = sum_of_all_squares(&tensors.iter().collect::<Vec<_>>()).unwrap();
        let squares = all(1, &Device::Cpu);
        let expected: f64 = squares.iter().map(|x| sum_of_squares(x).unwrap()).sum();
        let actual = f64::from(sum.to_scalar::<f32>().unwrap());
        assert!(
            (actual / expected - 1.0).abs() < 1e-5,
            "{actual}, {expected}"
        );

        // These values have at most 8 significant bits.
        let zeros = |x: &Tensor| x.zeros_like().unwrap().to_dtype(DType::BF16).unwrap();
        let narrow: Vec<_> = tensors.iter().map(zeros).collect();
        copy_all(&narrow.iter().zip(&tensors).collect::<Vec<_>>()).unwrap();
        for (actual, expected) in widen_all(&narrow).unwrap().iter().zip(&tensors) {
            assert_eq!(actual.dims(), expected.dims());
            assert_eq!(values(actual), values(expected));
        }

        // More copies than buffers, of different sizes.
        let mut upload = Upload::new(device);
        let there = squares.iter().cycle().take(9).map(|tensor| {
            let copy = upload.copy(tensor).unwrap();
            (copy, tensor)
        });
        for (copy, tensor) in there.collect::<Vec<_>>() {
            assert_eq!(values(&copy), values(tensor));
        }
        // Copies made by one thread are visible to another.
        let squares = &squares;
        let copies: Vec<Tensor> = std::thread::scope(|scope| {
            let copies = (0..9).map(|_| upload.copy(&squares[2]).unwrap());
            scope.spawn(|| copies.collect()).join().unwrap()
        });
        for copy in copies {
            assert_eq!(
                values(&(copy * 2.0).unwrap()),
                values(&(&squares[2] * 2.0).unwrap())
            );
        }
    }
}

/// In 16 bits, sums of many small values stagnate: 256 + 1 is 256.
#[test]
fn bias_gradients_sum_many_rows() {
    let bias = Var::zeros(1, DType::F32, &Device::Cpu).unwrap();
    let x = Tensor::zeros((1000, 1), DType::BF16, &Device::Cpu).unwrap();
    let narrow = bias.to_dtype(DType::BF16).unwrap();
    let sum = add_bias(&x, &narrow).unwrap().to_dtype(DType::F32).unwrap();
    let gradients = sum.sum_all().unwrap().backward().unwrap();
    assert_eq!(
        gradients.get(&bias).unwrap().to_vec1::<f32>().unwrap(),
        [1000.0]
    );
}
