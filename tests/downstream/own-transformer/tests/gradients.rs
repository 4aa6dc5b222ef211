//! Every gradient of the block against finite differences, with our layer norm and with candle's.

use candle_core::{D, Result, Tensor, Var};
use own_transformer::{Parameters, differentiable_norm, logits, parameters, uniform};
use perceiver_ops::{Mode, RngKey};

const STEP: f64 = 0.02;

/// A cross-entropy in training mode: the key fixes the dropout masks.
fn loss(
    parameters: &Parameters,
    norm: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let tokens = uniform("tokens", &[2, 5, 8])?;
    let mode = Mode::Training(RngKey::new(7));
    let scores = logits(parameters, &tokens, mode, norm)?; // [2, 3]
    let log_probabilities = candle_nn::ops::log_softmax(&scores, D::Minus1)?;
    log_probabilities.narrow(1, 1, 1)?.mean_all()?.neg()
}

/// The derivative of the loss by one value, by a fourth-order central difference.
fn difference(parameters: &Parameters, variable: &Var, index: usize) -> Result<f64> {
    let values = variable.flatten_all()?.to_vec1::<f32>()?;
    let at = |step: f64| -> Result<f64> {
        let mut moved = values.clone();
        moved[index] += step as f32;
        variable.set(&Tensor::from_vec(
            moved,
            variable.shape(),
            variable.device(),
        )?)?;
        let loss = loss(parameters, differentiable_norm)?.to_scalar::<f32>()?;
        Ok(f64::from(loss))
    };
    let near = at(STEP)? - at(-STEP)?;
    let far = at(2.0 * STEP)? - at(-2.0 * STEP)?;
    variable.set(&Tensor::from_vec(
        values.clone(),
        variable.shape(),
        variable.device(),
    )?)?;
    Ok((8.0 * near - far) / (12.0 * STEP))
}

#[test]
fn every_gradient_equals_finite_differences() -> Result<()> {
    let parameters = parameters()?;
    let gradients = loss(&parameters, differentiable_norm)?.backward()?;
    for (name, variable) in &parameters {
        let gradient = gradients
            .get(variable)
            .unwrap_or_else(|| panic!("{name} has no gradient"));
        for (index, found) in gradient
            .flatten_all()?
            .to_vec1::<f32>()?
            .into_iter()
            .enumerate()
        {
            let expected = difference(&parameters, variable, index)?;
            let distance = (f64::from(found) - expected).abs();
            assert!(
                distance < 2e-4,
                "{name}[{index}]: {found}, finite differences give {expected}"
            );
        }
    }
    Ok(())
}

/// With candle's fused layer norm the same model runs, and everything before its last layer norm
/// has no gradient but that of the residual path.
#[test]
fn candles_fused_layer_norm_cuts_the_gradient() -> Result<()> {
    let parameters = parameters()?;
    let fused = |x: &Tensor, weight: &Tensor, bias: &Tensor| {
        candle_nn::ops::layer_norm(x, weight, bias, 1e-5)
    };
    let same = loss(&parameters, differentiable_norm)?.to_scalar::<f32>()?;
    let loss = loss(&parameters, fused)?;
    assert!((loss.to_scalar::<f32>()? - same).abs() < 1e-5);
    let gradients = loss.backward()?;
    let cut: Vec<&str> = parameters
        .iter()
        .filter(|(_, variable)| gradients.get(variable).is_none())
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(
        cut,
        ["norm1.bias", "norm1.weight", "norm2.bias", "norm2.weight"]
    );
    // What is there is wrong: the way through the second norm is missing.
    let ours = self::loss(&parameters, differentiable_norm)?.backward()?;
    let of = |store: &candle_core::backprop::GradStore| {
        store.get(&parameters["output.weight"]).unwrap().clone()
    };
    let distance = (of(&ours) - of(&gradients))?
        .abs()?
        .max_all()?
        .to_scalar::<f32>()?;
    assert!(distance > 1e-3, "{distance}");
    Ok(())
}
