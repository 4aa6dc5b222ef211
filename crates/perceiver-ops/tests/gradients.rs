//! Fused operations against their compositions of candle's operations and against finite
//! differences, over random shapes.

use candle_core::{Device, Result, Tensor, Var};
use perceiver_ops::{
    AbsorbedWeights, AdamStep, Attention, LambStep, Mode, RngKey, SgdStep, Transpose,
    absorbed_attention, absorbed_attention_composed, adam_step, adam_step_composed, add_bias,
    add_bias_composed, add_dropout, add_dropout_composed, attention, attention_composed,
    batched_matmul, batched_matmul_composed, conv2d, conv2d_composed, dropout, dropout_composed,
    expand_batch, expand_batch_composed, gelu, gelu_composed, im2col, im2col_composed, lamb_step,
    lamb_step_composed, layer_norm, layer_norm_composed, linear, linear_composed, max_pool,
    max_pool_composed, multiply_scalar, multiply_scalar_composed, sgd_step, sgd_step_composed,
    softmax, softmax_composed,
};
use proptest::prelude::*;

/// Returns a variable of values in [-2, 2), a function of `seed` and the shape.
fn variable(seed: u64, shape: &[usize]) -> Var {
    let key = RngKey::new(seed);
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64)
        .map(|i| (key.bits(i) >> 40) as f32 / (1 << 22) as f32 - 2.0)
        .collect();
    Var::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn largest(tensor: &Tensor) -> f32 {
    let values = tensor.abs().unwrap().flatten_all().unwrap();
    values
        .to_vec1::<f32>()
        .unwrap()
        .into_iter()
        .fold(0.0, f32::max)
}

/// Asserts that both tensors agree to a small fraction of the largest entry, or of the typical size
/// of a sum of `terms` values in [-2, 2) that do not cancel.
fn assert_close(actual: &Tensor, expected: &Tensor, terms: f32, what: &str) {
    assert_eq!(actual.dims(), expected.dims(), "{what}");
    let distance = largest(&(actual - expected).unwrap());
    let bound = 2e-5 * largest(expected).max(2.0 * terms.max(1.0).sqrt());
    assert!(
        distance <= bound,
        "{what}: {distance} apart, more than {bound}"
    );
}

/// Asserts that two forms of a function have the same value and gradients; the loss weights every
/// output differently.
fn assert_same(
    inputs: &[Var],
    fused: impl Fn(&[Var]) -> Result<Tensor>,
    composed: impl Fn(&[Var]) -> Result<Tensor>,
) {
    let (fused, composed) = (fused(inputs).unwrap(), composed(inputs).unwrap());
    assert_close(&fused, &composed, 1.0, "value");
    let outputs = fused.elem_count() as f32;
    let weights = variable(99, fused.dims());
    let gradients = |output: &Tensor| {
        let loss = (output * weights.as_tensor()).unwrap().sum_all().unwrap();
        loss.backward().unwrap()
    };
    let (fused, composed) = (gradients(&fused), gradients(&composed));
    for (index, input) in inputs.iter().enumerate() {
        let actual = fused
            .get(input)
            .expect("the fused form passes gradients on");
        let expected = composed.get(input).expect("the composed form does too");
        let terms = outputs / input.elem_count() as f32;
        let what = format!("gradient of input {index}");
        assert_close(actual, expected, terms, &what);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn im2col_equals_its_composition(
        (height, width) in (1usize..9, 1usize..9),
        channels in 1usize..4,
        margin in 0usize..3,
        stride in 1usize..4,
        seed: u64,
    ) {
        let x = [variable(seed, &[2, height, width, channels])];
        let side = 2 * margin + 1;
        assert_same(
            &x,
            |x| im2col(&x[0], side, stride),
            |x| im2col_composed(&x[0], side, stride),
        );
    }

    #[test]
    fn conv2d_equals_its_composition(
        (batch, height, width) in (1usize..20, 1usize..7, 1usize..7),
        channels in prop_oneof![1usize..4, 16usize..19],
        outputs in prop_oneof![1usize..4, 16usize..19],
        margin in 0usize..3,
        seed: u64,
    ) {
        let side = 2 * margin + 1;
        let inputs = [
            variable(seed, &[batch, height, width, channels]),
            variable(seed ^ 1, &[outputs, side * side * channels]),
            variable(seed ^ 2, &[outputs]),
        ];
        assert_same(
            &inputs,
            |v| conv2d(&v[0], &v[1], &v[2], side),
            |v| conv2d_composed(&v[0], &v[1], &v[2], side),
        );
    }

    #[test]
    fn max_pool_equals_its_composition(
        (rows, columns) in (1usize..5, 1usize..5), channels in 1usize..20, seed: u64,
    ) {
        let x = [variable(seed, &[2, 2 * rows, 2 * columns, channels])];
        assert_same(&x, |x| max_pool(&x[0]), |x| max_pool_composed(&x[0]));
    }

    #[test]
    fn softmax_equals_its_composition(rows in 1usize..40, width in 1usize..70, seed: u64) {
        let x = [variable(seed, &[2, rows, width])];
        assert_same(&x, |x| softmax(&x[0]), |x| softmax_composed(&x[0]));
    }

    #[test]
    fn layer_norm_equals_its_composition(rows in 1usize..700, width in 2usize..70, seed: u64) {
        let inputs = [
            variable(seed, &[rows, width]),
            variable(seed ^ 1, &[width]),
            variable(seed ^ 2, &[width]),
        ];
        assert_same(
            &inputs,
            |v| layer_norm(&v[0], &v[1], &v[2], 1e-3),
            |v| layer_norm_composed(&v[0], &v[1], &v[2], 1e-3),
        );
    }

    #[test]
    fn add_bias_equals_its_composition(rows in 1usize..700, width in 1usize..70, seed: u64) {
        let inputs = [variable(seed, &[rows, 2, width]), variable(seed ^ 1, &[2, width])];
        assert_same(&inputs, |v| add_bias(&v[0], &v[1]), |v| add_bias_composed(&v[0], &v[1]));
    }

    #[test]
    fn expand_batch_equals_its_composition(batch in 2usize..9, (m, n) in (1usize..200, 1usize..200), seed: u64) {
        let x = [variable(seed, &[1, m, n])];
        assert_same(&x, |x| expand_batch(&x[0], batch), |x| expand_batch_composed(&x[0], batch));
    }

    #[test]
    fn multiply_scalar_equals_its_composition(len in 1usize..40_000, seed: u64) {
        let inputs = [variable(seed, &[len]), variable(seed ^ 1, &[])];
        assert_same(
            &inputs,
            |v| multiply_scalar(&v[0], &v[1]),
            |v| multiply_scalar_composed(&v[0], &v[1]),
        );
    }

    #[test]
    fn linear_equals_its_composition(
        rows in 1usize..600, (inputs, outputs) in (1usize..20, 1usize..20), seed: u64,
    ) {
        let inputs = [
            variable(seed, &[rows, 2, inputs]),
            variable(seed ^ 1, &[outputs, inputs]),
            variable(seed ^ 2, &[outputs]),
        ];
        assert_same(
            &inputs,
            |v| linear(&v[0], &v[1], &v[2]),
            |v| linear_composed(&v[0], &v[1], &v[2]),
        );
    }

    #[test]
    fn gelu_equals_its_composition(len in 1usize..5000, seed: u64) {
        let x = [variable(seed, &[len])];
        assert_same(&x, |x| gelu(&x[0]), |x| gelu_composed(&x[0]));
    }

    #[test]
    fn dropout_equals_its_composition(len in 1usize..5000, rate in 0.0..0.95, seed: u64) {
        let (x, mode) = ([variable(seed, &[len])], Mode::Training(RngKey::new(seed)));
        assert_same(&x, |x| dropout(&x[0], rate, mode), |x| dropout_composed(&x[0], rate, mode));
    }

    #[test]
    fn add_dropout_equals_its_composition(
        (rows, width) in (1usize..9, 1usize..40), rate in 0.0..0.9, training: bool, seed: u64,
    ) {
        let inputs = [variable(seed, &[rows, width]), variable(seed ^ 1, &[rows, width])];
        let mode = if training { Mode::Training(RngKey::new(seed)) } else { Mode::Inference };
        assert_same(
            &inputs,
            |v| add_dropout(&v[0], &v[1], rate, mode),
            |v| add_dropout_composed(&v[0], &v[1], rate, mode),
        );
    }

    #[test]
    fn adam_step_equals_its_composition((rows, width) in (1usize..9, 1usize..40), seed: u64) {
        let tensors = || {
            let made = |number: u64| variable(seed ^ number, &[rows, width]);
            [made(0), made(1), Var::from_tensor(&made(2).abs().unwrap()).unwrap(), made(3)]
        };
        let step = AdamStep { first_rate: 0.1, second_rate: 0.001, step_size: 0.01, epsilon: 1e-3 };
        let (fused, composed) = (tensors(), tensors());
        let [w, m, v, g] = &fused;
        adam_step(w, m, v, g, step).unwrap();
        let [w, m, v, g] = &composed;
        adam_step_composed(w, m, v, g, step).unwrap();
        let names = ["parameter", "first", "second", "gradient"];
        for (name, (actual, expected)) in names.into_iter().zip(fused.iter().zip(&composed)) {
            assert_close(actual, expected, 1.0, name);
        }
        prop_assert!(largest(&(w.as_tensor() - variable(seed, &[rows, width]).as_tensor()).unwrap()) > 0.0);
    }

    #[test]
    fn lamb_step_equals_its_composition((rows, width) in (1usize..9, 1usize..5000), weight_decay in 0f32..0.5, seed: u64) {
        let step = LambStep {
            first_rate: 0.1, second_rate: 0.001, first_correction: 1.7, second_correction: 30.0, epsilon: 1e-3, weight_decay,
            learning_rate: 0.01,
        };
        let tensors = || {
            let made = |number: u64| variable(seed ^ number, &[rows, width]);
            [made(0), made(1), Var::from_tensor(&made(2).abs().unwrap()).unwrap(), made(3)]
        };
        let (fused, composed) = (tensors(), tensors());
        let [w, m, v, g] = &fused;
        lamb_step(w, m, v, g, step).unwrap();
        let [w, m, v, g] = &composed;
        lamb_step_composed(w, m, v, g, step).unwrap();
        for (name, (actual, expected)) in ["parameter", "first", "second"].into_iter().zip(fused.iter().zip(&composed)) {
            assert_close(actual, expected, 1.0, name);
        }
        prop_assert!(largest(&(w.as_tensor() - variable(seed, &[rows, width]).as_tensor()).unwrap()) > 0.0);
    }

    #[test]
    fn sgd_step_equals_its_composition((rows, width) in (1usize..9, 1usize..5000), nesterov: bool, seed: u64) {
        let step = SgdStep { learning_rate: 0.1, momentum: 0.9, nesterov };
        let tensors = || [0, 1, 2].map(|number| variable(seed ^ number, &[rows, width]));
        let (fused, composed) = (tensors(), tensors());
        let [w, v, g] = &fused;
        sgd_step(w, v, g, step).unwrap();
        let [w, v, g] = &composed;
        sgd_step_composed(w, v, g, step).unwrap();
        for (name, (actual, expected)) in ["parameter", "velocity"].into_iter().zip(fused.iter().zip(&composed)) {
            assert_close(actual, expected, 1.0, name);
        }
        prop_assert!(largest(&(w.as_tensor() - variable(seed, &[rows, width]).as_tensor()).unwrap()) > 0.0);
    }

    #[test]
    fn batched_matmul_equals_its_composition(
        (m, k, n) in (1usize..20, 1usize..20, 1usize..20), batch in 1usize..5, (left, right) in any::<(bool, bool)>(), seed: u64,
    ) {
        let transpose = match (left, right) {
            (false, false) => Transpose::Neither,
            (true, false) => Transpose::Left,
            (false, true) => Transpose::Right,
            (true, true) => Transpose::Both,
        };
        let shape = |transposed, rows, columns| if transposed { [batch, 2, columns, rows] } else { [batch, 2, rows, columns] };
        let inputs = [variable(seed, &shape(left, m, k)), variable(seed ^ 1, &shape(right, k, n))];
        assert_same(
            &inputs,
            |v| batched_matmul(&v[0], &v[1], transpose),
            |v| batched_matmul_composed(&v[0], &v[1], transpose),
        );
    }

    #[test]
    fn attention_equals_its_composition(
        (batch, n, m) in (1usize..4, prop_oneof![1usize..20, 120usize..140], prop_oneof![1usize..40, 250usize..530]),
        (heads, width, value_width) in (1usize..4, 1usize..12, 1usize..20),
        (shared, training, rate) in (any::<bool>(), any::<bool>(), 0.0..0.9),
        seed: u64,
    ) {
        let kv_heads = if shared { 1 } else { heads };
        let inputs = [
            variable(seed, &[batch, n, heads * width]),
            variable(seed ^ 1, &[batch, m, kv_heads * width]),
            variable(seed ^ 2, &[batch, m, kv_heads * value_width]),
        ];
        let mode = if training { Mode::Training(RngKey::new(seed)) } else { Mode::Inference };
        let how = Attention { heads, scale: 0.3, dropout: rate, mode };
        assert_same(
            &inputs,
            |v| attention(&v[0], &v[1], &v[2], how),
            |v| attention_composed(&v[0], &v[1], &v[2], how),
        );
    }

    #[test]
    fn batched_matmul_supports_any_strides(
        (m, k, n) in (1usize..9, 1usize..9, 1usize..9), (batch, heads) in (1usize..4, 1usize..4), seed: u64,
    ) {
        // Heads split from a wide projection as views; queries shared by the whole batch.
        let inputs = [variable(seed, &[1, m, heads * k]), variable(seed ^ 1, &[batch, n, heads * k])];
        let split = |x: &Var| x.reshape((x.dim(0)?, (), heads, k))?.transpose(1, 2);
        let product = |v: &[Var], matmul: fn(&Tensor, &Tensor, Transpose) -> Result<Tensor>| {
            matmul(&split(&v[0])?.broadcast_as((batch, heads, m, k))?, &split(&v[1])?, Transpose::Right)
        };
        assert_same(&inputs, |v| product(v, batched_matmul), |v| product(v, batched_matmul_composed));
    }

    #[test]
    fn absorbed_attention_equals_its_composition(
        (batch, n, m) in (1usize..4, prop_oneof![1usize..20, 120usize..140], prop_oneof![1usize..40, 250usize..530]),
        (heads, width, token_width, outputs) in (1usize..4, 1usize..12, 1usize..12, 1usize..12),
        (training, rate) in (any::<bool>(), 0.0..0.9),
        seed: u64,
    ) {
        let inner = heads * token_width;
        let inputs = [
            variable(seed, &[batch, n, width]),
            variable(seed ^ 1, &[batch, m, token_width]),
            variable(seed ^ 2, &[width + 1, inner]),
            variable(seed ^ 3, &[inner + heads + 1, outputs]),
        ];
        let mode = if training { Mode::Training(RngKey::new(seed)) } else { Mode::Inference };
        let how = Attention { heads, scale: 0.1, dropout: rate, mode };
        let weights = |v: &[Var]| AbsorbedWeights::new(&v[2], &v[3]);
        assert_same(
            &inputs,
            |v| absorbed_attention(&v[0], &v[1], &weights(v)?, how),
            |v| absorbed_attention_composed(&v[0], &v[1], &weights(v)?, how),
        );
        if width == token_width {
            assert_same(
                &[inputs[1].clone(), inputs[2].clone(), inputs[3].clone()],
                |v| absorbed_attention(&v[0], &v[0], &AbsorbedWeights::new(&v[1], &v[2])?, how),
                |v| absorbed_attention_composed(&v[0], &v[0], &AbsorbedWeights::new(&v[1], &v[2])?, how),
            );
        }
    }
}

/// The composed forms rely on candle's gradients; this check relies only on the definition of a
/// derivative.
#[test]
fn layer_norm_gradient_equals_finite_differences() {
    let (gamma, beta) = (variable(2, &[6]), variable(3, &[6]));
    let weights = variable(4, &[1, 6]);
    let loss = |x: &Tensor| -> Result<Tensor> {
        let y = layer_norm(x, &gamma, &beta, 1e-3)?;
        (y * weights.as_tensor())?.sum_all()
    };
    let x = variable(1, &[1, 6]);
    let gradients = loss(&x).unwrap().backward().unwrap();
    let gradient = gradients.get(&x).unwrap().flatten_all().unwrap();
    let gradient = gradient.to_vec1::<f32>().unwrap();
    let values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for i in 0..6 {
        let at = |shift: f32| {
            let mut moved = values.clone();
            moved[i] += shift;
            let moved = Tensor::from_vec(moved, (1, 6), &Device::Cpu).unwrap();
            loss(&moved).unwrap().to_scalar::<f32>().unwrap()
        };
        let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
        assert!(
            (difference - gradient[i]).abs() < 2e-2,
            "entry {i}: difference {difference}, gradient {}",
            gradient[i]
        );
    }
}

#[test]
fn sharp_attention_has_no_subnormal_gradients() {
    for keys in [200, 300] {
        let inputs = [(1, 1), (2, keys), (3, keys)].map(|(seed, n)| variable(seed, &[1, n, 32]));
        let [queries, keys, values] = &inputs;
        let how = Attention {
            heads: 2,
            scale: 3.0,
            dropout: 0.0,
            mode: Mode::Inference,
        };
        let output = attention(queries, keys, values, how).unwrap();
        let gradients = (output * 1e-6).unwrap().sum_all().unwrap();
        let gradients = gradients.backward().unwrap();
        for input in &inputs {
            let gradient = gradients.get(input).unwrap();
            assert!(largest(gradient) > 0.0);
            let values = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(!values.iter().any(|value| value.is_subnormal()));
        }
    }
}
