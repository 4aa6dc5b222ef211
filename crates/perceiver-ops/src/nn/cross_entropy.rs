//! Cross-entropy with soft targets, with or without weights of the samples, with a backward pass.

use candle_core::{D, Result, Tensor, bail};

use crate::autograd::custom_function::{copied, with_backward};

/// Computes the mean cross-entropy, in nats, between the softmax of `logits` `[batch, classes]` and
/// `targets` of that shape, whose rows sum to 1: a scalar. Both are `f32`.
///
/// With `p` the softmax, the gradient of the logits is `(p - targets) / batch`.
///
/// # Errors
/// When the shapes differ.
pub fn cross_entropy_to(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    mean_cross_entropy(logits, targets, None)
}

/// Computes [`cross_entropy_to`] with the loss of every sample multiplied by its weight; `weights`
/// is `[batch]`, `f32`. The sum is divided by the batch size, not by the sum of the weights, so the
/// means of parts of a batch combine to that of the batch.
///
/// The gradient of a sample's logits is `weight (p - targets) / batch`.
///
/// # Errors
/// When the shapes do not match.
pub fn weighted_cross_entropy_to(
    logits: &Tensor,
    targets: &Tensor,
    weights: &Tensor,
) -> Result<Tensor> {
    mean_cross_entropy(logits, targets, Some(weights))
}

fn mean_cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    weights: Option<&Tensor>,
) -> Result<Tensor> {
    if logits.rank() != 2 || logits.dims() != targets.dims() {
        bail!(
            "cross-entropy: expected logits and targets [batch, classes], found {:?} and {:?}",
            logits.dims(),
            targets.dims()
        );
    }
    let batch = logits.dim(0)? as f64;
    let weights = weights.map(|weights| column(weights, logits)).transpose()?;
    let values = logits.detach();
    let below = values.broadcast_sub(&values.max_keepdim(D::Minus1)?)?;
    let sums = below.exp()?.sum_keepdim(D::Minus1)?;
    let log_probabilities = below.broadcast_sub(&sums.log()?)?; // [batch, classes]
    let of_classes = weighed((&log_probabilities * targets)?, weights.as_ref())?;
    let loss = (of_classes.sum_all()? * (-1.0 / batch))?;
    let targets = targets.detach();
    with_backward([logits; 3], copied(&loss)?, move |grad| {
        let away = weighed((log_probabilities.exp()? - &targets)?, weights.as_ref())?;
        let gradient = away.broadcast_mul(&(grad / batch)?)?;
        Ok([Some(gradient), None, None])
    })
}

/// Returns the weights of the samples as `[batch, 1]`, outside the graph.
fn column(weights: &Tensor, logits: &Tensor) -> Result<Tensor> {
    if weights.dims() != &logits.dims()[..1] {
        bail!(
            "cross-entropy: expected weights [{}], one per sample, found {:?}",
            logits.dim(0)?,
            weights.dims()
        );
    }
    weights.detach().unsqueeze(1)
}

/// Multiplies the rows of `[batch, classes]` by the weights `[batch, 1]`, if there are any.
fn weighed(rows: Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    match weights {
        None => Ok(rows),
        Some(weights) => rows.broadcast_mul(weights),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::softmax;
    use candle_core::{Device, Var};

    #[test]
    fn value_and_gradient_match_the_definition() {
        let logits = Var::new(&[[1f32, -1.0, 0.5], [0.0, 200.0, 0.3]], &Device::Cpu).unwrap();
        let targets = Tensor::new(&[[0.2f32, 0.5, 0.3], [0.0, 1.0, 0.0]], &Device::Cpu).unwrap();
        let loss = cross_entropy_to(&logits, &targets).unwrap();
        let first = [1f64, -1.0, 0.5];
        let sum: f64 = first.iter().map(|x| x.exp()).sum();
        let log_p = first.map(|x| x - sum.ln());
        let expected = -(0.2 * log_p[0] + 0.5 * log_p[1] + 0.3 * log_p[2]) / 2.0;
        let actual = f64::from(loss.to_scalar::<f32>().unwrap());
        assert!((actual - expected).abs() < 1e-6, "{actual}, not {expected}");
        let gradients = (loss * 3.0).unwrap().backward().unwrap();
        let expected = ((softmax(&logits.detach()).unwrap() - targets).unwrap() * 1.5).unwrap();
        let difference = (gradients.get(&logits).unwrap() - expected).unwrap();
        let most = difference.abs().unwrap().max_all().unwrap();
        assert!(most.to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn different_shapes_are_rejected() {
        let zeros = |rows: usize| Tensor::zeros((rows, 3), candle_core::DType::F32, &Device::Cpu);
        let error = cross_entropy_to(&zeros(2).unwrap(), &zeros(1).unwrap()).unwrap_err();
        assert!(error.to_string().contains("[2, 3] and [1, 3]"), "{error}");
        let weights = Tensor::new(&[1f32], &Device::Cpu).unwrap();
        let error = weighted_cross_entropy_to(&zeros(2).unwrap(), &zeros(2).unwrap(), &weights);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("expected weights [2]") && error.contains("found [1]"),
            "{error}"
        );
    }

    /// Compares with the weighted sum of the losses of each sample alone.
    #[test]
    fn weights_multiply_the_loss_and_the_gradient_of_a_sample() {
        let logits = [[1f32, -1.0, 0.5], [0.0, 2.0, 0.3]];
        let targets = [[0.2f32, 0.5, 0.3], [0.0, 1.0, 0.0]];
        let weights = [0.25f32, 3.0];
        let all = Var::new(&logits, &Device::Cpu).unwrap();
        let loss = weighted_cross_entropy_to(
            &all,
            &Tensor::new(&targets, &Device::Cpu).unwrap(),
            &Tensor::new(&weights, &Device::Cpu).unwrap(),
        )
        .unwrap();
        let gradients = (&loss * 2.0).unwrap().backward().unwrap();
        let gradient = gradients.get(&all).unwrap().to_vec2::<f32>().unwrap();
        let mut expected_loss = 0.0;
        for row in 0..2 {
            let alone = Var::new(&[logits[row]], &Device::Cpu).unwrap();
            let target = Tensor::new(&[targets[row]], &Device::Cpu).unwrap();
            let loss = cross_entropy_to(&alone, &target).unwrap();
            expected_loss += weights[row] * loss.to_scalar::<f32>().unwrap() / 2.0;
            let gradients = loss.backward().unwrap();
            let of_alone = gradients.get(&alone).unwrap().to_vec2::<f32>().unwrap();
            for (actual, of_alone) in gradient[row].iter().zip(&of_alone[0]) {
                let expected = 2.0 * weights[row] * of_alone / 2.0;
                assert!((actual - expected).abs() < 1e-6, "{actual}, not {expected}");
            }
        }
        let loss = loss.to_scalar::<f32>().unwrap();
        assert!(
            (loss - expected_loss).abs() < 1e-6,
            "{loss}, not {expected_loss}"
        );
    }
}
