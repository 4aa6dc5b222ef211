//! Cross-entropy with soft targets, with a backward pass.

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
    if logits.rank() != 2 || logits.dims() != targets.dims() {
        bail!(
            "cross-entropy: expected logits and targets [batch, classes], found {:?} and {:?}",
            logits.dims(),
            targets.dims()
        );
    }
    let batch = logits.dim(0)? as f64;
    let values = logits.detach();
    let below = values.broadcast_sub(&values.max_keepdim(D::Minus1)?)?;
    let sums = below.exp()?.sum_keepdim(D::Minus1)?;
    let log_probabilities = below.broadcast_sub(&sums.log()?)?; // [batch, classes]
    let loss = ((&log_probabilities * targets)?.sum_all()? * (-1.0 / batch))?;
    let targets = targets.detach();
    with_backward([logits; 3], copied(&loss)?, move |grad| {
        let away = (log_probabilities.exp()? - &targets)?;
        let gradient = away.broadcast_mul(&(grad / batch)?)?;
        Ok([Some(gradient), None, None])
    })
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
    }
}
