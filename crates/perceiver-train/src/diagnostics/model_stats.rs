//! Model statistics during training: attention entropy, spread of the latents, gradient norms.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use perceiver_model::{Classifier, Stage, Summary};
use perceiver_ops::Mode;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::distributed::Communicator;
use crate::error::Result;
use crate::optim::gradients::Gradients;

/// Model statistics of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The gradients of the epoch's steps, before clipping.
    pub gradients: GradientDiagnosis,
    /// The model at the end of the epoch.
    #[serde(flatten)]
    pub model: ModelDiagnosis,
}

/// Euclidean norms of gradients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientDiagnosis {
    /// The global norm, averaged over the steps.
    pub norm_mean: f64,
    /// The maximum global norm.
    pub norm_max: f64,
    /// The norm of each layer, averaged over the steps; keys are the names of [`Summary`].
    pub layers: BTreeMap<String, f64>,
}

/// Statistics of a model on a few images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelDiagnosis {
    /// The cross-attention of every iteration that has one.
    pub cross_attentions: Vec<AttentionDiagnosis>,
    /// The self-attention of every block, by iteration.
    pub self_attentions: Vec<Vec<AttentionDiagnosis>>,
    /// The spread of an image's last latents: the root of the ratio of their variance to their mean
    /// square; 0 if all latents are equal.
    pub latent_spread: f64,
}

/// Statistics of an attention layer on a few images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionDiagnosis {
    /// The mean entropy of a query's attention weights as a share of its maximum, `ln n` for `n`
    /// keys: 0 for a single key, 1 for uniform weights.
    pub entropy: f64,
    /// The standard deviation of a query's attention logits.
    pub logit_deviation: f64,
    /// The entropy of the mean attention weights of all queries minus the mean entropy, as a share
    /// of the maximum: 0 if all queries have the same weights, at most 1.
    pub difference: f64,
}

impl ModelDiagnosis {
    /// Computes the statistics of `model` on `images` `[batch, channels, H, W]`, without dropout.
    ///
    /// # Errors
    /// When the shape of the images does not match the model.
    pub fn of(model: &dyn Classifier, images: &Tensor) -> Result<Self> {
        let mut diagnosis = Self {
            cross_attentions: Vec::new(),
            self_attentions: Vec::new(),
            latent_spread: 0.0,
        };
        let mut result = Ok(());
        model.forward_probed(images, Mode::Inference, &mut |stage, tensor| {
            let seen = diagnosis.observe(stage, tensor);
            if result.is_ok() {
                result = seen;
            }
        })?;
        result.map(|()| diagnosis)
    }

    /// Averages the statistics over all ranks, weighted by this rank's `share` of the images. All
    /// ranks have to call this.
    ///
    /// # Errors
    /// When a rank has gone.
    pub(crate) fn of_all(mut self, ranks: &dyn Communicator, share: f64) -> Result<Self> {
        if ranks.size() == 1 {
            return Ok(self);
        }
        let weighed = self.means().map(|mean| mean * share);
        let mut sums = weighed.collect::<Vec<_>>();
        ranks.all_reduce_f64(&mut sums)?;
        self.set_means(&sums);
        Ok(self)
    }

    /// Returns all statistics that are means over the images, standard deviations as squares.
    fn means(&self) -> impl Iterator<Item = f64> {
        let attentions = self.cross_attentions.iter();
        let attentions = attentions.chain(self.self_attentions.iter().flatten());
        let of_attentions = attentions.flat_map(|attention| {
            let deviation = attention.logit_deviation;
            [attention.entropy, deviation.powi(2), attention.difference]
        });
        of_attentions.chain([self.latent_spread])
    }

    /// Sets the values that [`ModelDiagnosis::means`] returns.
    fn set_means(&mut self, means: &[f64]) {
        let attentions = self.cross_attentions.iter_mut();
        let attentions = attentions.chain(self.self_attentions.iter_mut().flatten());
        let (of_attentions, rest) = means.as_chunks::<3>();
        for (attention, &[entropy, variance, difference]) in attentions.zip(of_attentions) {
            *attention = AttentionDiagnosis {
                entropy,
                logit_deviation: variance.sqrt(),
                difference,
            };
        }
        if let [latent_spread] = rest {
            self.latent_spread = *latent_spread;
        }
    }

    fn observe(&mut self, stage: Stage, tensor: &Tensor) -> Result<()> {
        match stage {
            Stage::CrossAttentionLogits(_) => {
                self.cross_attentions.push(AttentionDiagnosis::of(tensor)?);
            }
            Stage::SelfAttentionLogits { iteration, .. } => {
                self.self_attentions.resize(iteration + 1, Vec::new());
                self.self_attentions[iteration].push(AttentionDiagnosis::of(tensor)?);
            }
            Stage::Transformer(_) => self.latent_spread = latent_spread(tensor)?,
            _ => {}
        }
        Ok(())
    }
}

impl AttentionDiagnosis {
    /// Computes the statistics of `logits` `[batch, heads, queries, keys]`.
    fn of(logits: &Tensor) -> Result<Self> {
        let (batch, heads, queries, keys) = logits.dims4()?;
        let most = (keys as f64).ln();
        if most == 0.0 {
            // With a single key, there is nothing to choose.
            return Ok(Self {
                entropy: 1.0,
                logit_deviation: 0.0,
                difference: 0.0,
            });
        }
        // Collected before they are added up, so that the result does not depend on threads.
        let heads_of_images: Vec<HeadSums> = values(logits)?
            .par_chunks(queries * keys)
            .map(|head| HeadSums::of(head, keys))
            .collect();
        let mean = |sum: fn(&HeadSums) -> f64| {
            heads_of_images.iter().map(sum).sum::<f64>() / (batch * heads) as f64
        };
        let entropy = mean(|head| head.entropy);
        Ok(Self {
            entropy: entropy / most,
            logit_deviation: mean(|head| head.variance).sqrt(),
            difference: ((mean(|head| head.entropy_of_mean) - entropy) / most).max(0.0),
        })
    }
}

/// Statistics of one head on one image, averaged over the queries.
struct HeadSums {
    entropy: f64,
    variance: f64,
    /// The entropy of the mean attention weights.
    entropy_of_mean: f64,
}

impl HeadSums {
    /// Computes the sums for logits `[queries, keys]`.
    fn of(logits: &[f32], keys: usize) -> Self {
        let queries = (logits.len() / keys) as f64;
        let (mut entropy, mut variance) = (0.0, 0.0);
        let mut mean = vec![0.0; keys];
        let mut weights = vec![0.0; keys];
        for row in logits.chunks(keys) {
            let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mean_logit = row.iter().copied().map(f64::from).sum::<f64>() / keys as f64;
            let (mut total, mut weighed) = (0.0, 0.0);
            for (weight, &logit) in weights.iter_mut().zip(row) {
                let below = logit - highest;
                *weight = f64::from(below.exp());
                total += *weight;
                weighed += *weight * f64::from(below);
                variance += (f64::from(logit) - mean_logit).powi(2) / keys as f64;
            }
            entropy += total.ln() - weighed / total;
            for (mean, weight) in mean.iter_mut().zip(&weights) {
                *mean += weight / total / queries;
            }
        }
        let entropy_of_mean = mean.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
        Self {
            entropy: entropy / queries,
            variance: variance / queries,
            entropy_of_mean,
        }
    }
}

/// Computes [`ModelDiagnosis::latent_spread`] of `latents` `[batch, latents, width]`.
fn latent_spread(latents: &Tensor) -> Result<f64> {
    let (batch, _, _) = latents.dims3()?;
    let latents = latents.detach();
    let squares = mean_of(&latents.sqr()?)?;
    let variance = mean_of(&latents.broadcast_sub(&latents.mean_keepdim(1)?)?.sqr()?)?;
    let spreads = variance.iter().zip(&squares);
    let spreads =
        spreads.map(|(variance, square)| (variance / square.max(f64::MIN_POSITIVE)).sqrt());
    Ok(spreads.sum::<f64>() / batch as f64)
}

/// Computes the mean of each sample of `x` `[batch, n, width]`.
fn mean_of(x: &Tensor) -> Result<Vec<f64>> {
    let means = values(&x.mean((1, 2))?)?;
    Ok(means.into_iter().map(f64::from).collect())
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    let x = x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(x.flatten_all()?.to_vec1()?)
}

/// Sums of gradient norms over the steps of an epoch, exact enough to be saved and resumed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GradientSums {
    steps: u64,
    norms: f64,
    norm_max: f64,
    layers: BTreeMap<String, f64>,
}

impl GradientSums {
    /// Adds the gradients of a step, with global norm `norm`, to the layers of `summary`.
    pub(crate) fn add(
        &mut self,
        gradients: &Gradients,
        norm: f64,
        summary: &Summary,
    ) -> Result<()> {
        let mut squares: BTreeMap<&str, f64> = BTreeMap::new();
        for (name, square) in gradients.squares()? {
            *squares
                .entry(summary.layer_of(name).unwrap_or(name))
                .or_default() += square;
        }
        for (layer, square) in squares {
            *self.layers.entry(layer.to_string()).or_default() += square.sqrt();
        }
        self.steps += 1;
        self.norms += norm;
        self.norm_max = self.norm_max.max(norm);
        Ok(())
    }

    pub(crate) fn diagnosis(&self) -> GradientDiagnosis {
        let steps = self.steps.max(1) as f64;
        let layers = self.layers.iter();
        GradientDiagnosis {
            norm_mean: self.norms / steps,
            norm_max: self.norm_max,
            layers: layers
                .map(|(layer, sum)| (layer.clone(), sum / steps))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use perceiver_model::{Parameters, PerceiverConfig};

    use super::*;
    use crate::distributed::threads::ranks_of_threads;

    fn attention(rows: &[[f32; 4]]) -> AttentionDiagnosis {
        let shape = (1, 1, rows.len(), 4);
        let logits = Tensor::from_slice(rows.as_flattened(), shape, &Device::Cpu);
        AttentionDiagnosis::of(&logits.unwrap()).unwrap()
    }

    #[test]
    fn equal_logits_give_uniform_attention() {
        let uniform = attention(&[[3.0; 4], [-7.0; 4]]);
        assert!((uniform.entropy - 1.0).abs() < 1e-9);
        assert!(uniform.logit_deviation < 1e-9 && uniform.difference < 1e-9);
    }

    #[test]
    fn large_logits_attend_to_a_single_token() {
        let same = attention(&[[100.0, 0.0, 0.0, 0.0], [90.0, 0.0, 0.0, 0.0]]);
        assert!(same.entropy < 1e-9 && same.difference < 1e-9);
        let own = attention(&[[100.0, 0.0, 0.0, 0.0], [0.0, 100.0, 0.0, 0.0]]);
        // Two of four keys: ln 2 of ln 4.
        assert!((own.difference - 0.5).abs() < 1e-9);
        assert!((own.logit_deviation - 100.0 * (3.0f64 / 16.0).sqrt()).abs() < 1e-6);
    }

    #[test]
    fn statistics_of_ranks_equal_those_of_one_process() {
        let config = PerceiverConfig {
            image_size: 16,
            latent_dim: 8,
            projection_dim: 16,
            num_heads: 2,
            num_iterations: 2,
            num_transformer_blocks: 1,
            ffn_units: vec![16, 16],
            classifier_units: vec![16, 5],
            ..PerceiverConfig::default()
        };
        let parameters = Parameters::from_seed(&config, 1, &Device::Cpu).unwrap();
        let model = parameters.model(&config).unwrap();
        let images = Tensor::rand(-1f32, 1.0, (3, 3, 16, 16), &Device::Cpu).unwrap();
        let whole = ModelDiagnosis::of(&model, &images).unwrap();
        let threads = ranks_of_threads(2).into_iter().map(|ranks| {
            let (start, count) = [(0, 2), (2, 1)][ranks.rank()];
            let part = images.narrow(0, start, count).unwrap();
            let seen = ModelDiagnosis::of(&model, &part).unwrap();
            thread::spawn(move || seen.of_all(&ranks, count as f64 / 3.0).unwrap())
        });
        for thread in threads.collect::<Vec<_>>() {
            let together = thread.join().unwrap();
            assert_eq!(together.self_attentions.len(), 2);
            let pairs = together.means().zip(whole.means()).collect::<Vec<_>>();
            assert_eq!(pairs.len(), whole.means().count());
            for (actual, expected) in pairs {
                assert!(
                    (actual / expected - 1.0).abs() < 1e-6,
                    "{actual}, {expected}"
                );
            }
        }
    }

    #[test]
    fn equal_latents_have_no_spread() {
        let of = |rows: &[[f32; 2]]| {
            let shape = (1, rows.len(), 2);
            let latents = Tensor::from_slice(rows.as_flattened(), shape, &Device::Cpu);
            latent_spread(&latents.unwrap()).unwrap()
        };
        assert!(of(&[[1.0, 2.0], [1.0, 2.0]]) < 1e-9);
        assert!((of(&[[1.0, -2.0], [-1.0, 2.0]]) - 1.0).abs() < 1e-6);
    }
}
