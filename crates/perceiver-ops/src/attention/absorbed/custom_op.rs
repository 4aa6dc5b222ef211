//! Absorbed attention on the CPU as a custom operation of candle.

use std::sync::PoisonError;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use crate::attention::absorbed::pass::AbsorbedAttention;
use crate::cpu;

impl CustomOp3 for AbsorbedAttention {
    fn name(&self) -> &'static str {
        "absorbed-attention"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        tokens: &CpuStorage,
        tokens_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = cpu::values(self.name(), x, x_layout)?;
        let tokens = cpu::values(self.name(), tokens, tokens_layout)?;
        let weights = cpu::values(self.name(), weights, weights_layout)?;
        let (output, kept) = self.forward(x, tokens, weights);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        let g = self.geometry;
        let shape = Shape::from((g.batch, g.queries, self.outputs));
        Ok((CpuStorage::F32(output), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        tokens: &Tensor,
        weights: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let are_tokens = x.id() == tokens.id();
        let tensors = [tokens, weights, &grad.contiguous()?];
        let [dx, dtokens, dweights] =
            cpu::with_values(self.name(), tensors, |[tokens, weights, grad]| {
                self.backward(tokens, weights, grad, are_tokens)
            })?;
        let tensor =
            |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((
            Some(tensor(dx, x)?),
            (!are_tokens).then(|| tensor(dtokens, tokens)).transpose()?,
            Some(tensor(dweights, weights)?),
        ))
    }
}
