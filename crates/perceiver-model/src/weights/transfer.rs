//! Transfer of weights to a model with another head or image size.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};

use crate::architecture::Architecture;
use crate::config::PerceiverConfig;
use crate::error::Result;
use crate::layers::resize_positions;
use crate::weights::parameters::Parameters;

/// The result of a transfer of weights to another model.
#[derive(Debug)]
pub struct Transfer {
    /// Parameters of the other model.
    pub parameters: Parameters,
    /// Whether its head is newly initialized.
    pub has_fresh_head: bool,
    /// Tokens per row before and after, if positions were resized.
    pub resized: Option<(usize, usize)>,
}

impl Parameters {
    /// Transfers these parameters of a model `from` to a model `to`, whose initial parameters
    /// `fresh` also give the device.
    ///
    /// Weights are matched by name. The head is taken from `fresh`, unless `keep_head` is set and
    /// its layers are the same. If the number of tokens differs, learned positions are resized
    /// bilinearly on their grid, and the weights of Fourier features are refitted to resized
    /// positions.
    ///
    /// ```
    /// use candle_core::Device;
    /// use perceiver_model::{Parameters, PerceiverConfig};
    ///
    /// let small = PerceiverConfig { image_size: 16, ..PerceiverConfig::default() };
    /// let large = PerceiverConfig { image_size: 32, ..small.clone() }.with_num_classes(3);
    /// let trained = Parameters::from_seed(&small, 0, &Device::Cpu)?;
    /// let fresh = Parameters::from_seed(&large, 1, &Device::Cpu)?;
    /// let transfer = trained.transferred(&small, &large, &fresh, false)?;
    /// assert!(transfer.has_fresh_head);
    /// assert_eq!(transfer.resized, Some((8, 16)));
    /// # Ok::<(), perceiver_model::ModelError>(())
    /// ```
    ///
    /// # Errors
    /// When the models differ in more than head and image size, with the name of the first weight
    /// that is missing, surplus or of another shape.
    pub fn transferred<A: Architecture>(
        &self,
        from: &A,
        to: &A,
        fresh: &Parameters,
        keep_head: bool,
    ) -> Result<Transfer> {
        let is_of_head = |name: &str| name.starts_with(to.head());
        let own = self.tensors();
        let has_fresh_head =
            !(keep_head && shapes(&own, is_of_head) == shapes(&fresh.tensors(), is_of_head));
        let mut tensors = HashMap::new();
        for (name, tensor) in own {
            if has_fresh_head && is_of_head(&name) {
                continue;
            }
            let tensor = to.adapt(from, &name, &tensor)?;
            tensors.insert(name, tensor.detach()); // detached, since a variable would be shared
        }
        if has_fresh_head {
            let head = fresh.tensors().into_iter();
            let head = head.filter(|(name, _)| is_of_head(name));
            tensors.extend(head.map(|(name, tensor)| (name, tensor.detach())));
        }
        Ok(Transfer {
            parameters: Parameters::from_tensors(to, tensors, &fresh.device())?,
            has_fresh_head,
            resized: to.resized_positions(from),
        })
    }
}

/// Returns the shapes of the tensors that `is_wanted` names.
fn shapes(
    tensors: &HashMap<String, Tensor>,
    is_wanted: impl Fn(&str) -> bool,
) -> BTreeMap<&str, &[usize]> {
    let wanted = tensors.iter().filter(|(name, _)| is_wanted(name));
    wanted
        .map(|(name, tensor)| (name.as_str(), tensor.dims()))
        .collect()
}

/// Converts a weight of a Perceiver `from` for another image size.
pub(crate) fn adapt(
    from: &PerceiverConfig,
    to: &PerceiverConfig,
    name: &str,
    weight: &Tensor,
) -> Result<Tensor> {
    let sides = (from.tokens_per_side(), to.tokens_per_side());
    match name {
        _ if sides.0 == sides.1 => Ok(weight.clone()),
        "encoder.positions" => resized(weight, sides),
        "encoder.position_projection" => refitted(weight, sides, to),
        _ => Ok(weight.clone()),
    }
}

/// Resizes learned positions `[from * from, width]` to `[to * to, width]`.
fn resized(positions: &Tensor, (from, to): (usize, usize)) -> Result<Tensor> {
    let (_, width) = positions.dims2()?;
    let values = values(positions)?;
    let resized = resize_positions::resize(&values, from, to, width);
    Ok(Tensor::from_vec(resized, (to * to, width), &Device::Cpu)?)
}

/// Refits the projection of Fourier features to another grid, in the same shape.
fn refitted(
    projection: &Tensor,
    (from, to): (usize, usize),
    config: &PerceiverConfig,
) -> Result<Tensor> {
    let refitted = resize_positions::refit(&values(projection)?, from, to, config.fourier_bands);
    Ok(Tensor::from_vec(refitted, projection.dims(), &Device::Cpu)?)
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use perceiver_ops::Mode;

    use super::*;
    use crate::config::Positions;
    use crate::error::ModelError;

    fn config(positions: Positions) -> PerceiverConfig {
        PerceiverConfig {
            image_size: 16,
            patch_size: 2,
            positions,
            latent_dim: 4,
            projection_dim: 8,
            num_heads: 2,
            num_transformer_blocks: 1,
            ffn_units: vec![8],
            classifier_units: vec![8, 5],
            ..PerceiverConfig::default()
        }
    }

    fn parameters(config: &PerceiverConfig, seed: u64) -> Parameters {
        Parameters::from_seed(config, seed, &Device::Cpu).unwrap()
    }

    fn bits(parameters: &Parameters, name: &str) -> Vec<u32> {
        let values = values(parameters.get(name).unwrap()).unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn the_same_architecture_transfers_every_bit() {
        for positions in [Positions::Learned, Positions::Fourier] {
            let config = config(positions);
            let (trained, fresh) = (parameters(&config, 1), parameters(&config, 2));
            let transfer = trained.transferred(&config, &config, &fresh, true).unwrap();
            assert!(!transfer.has_fresh_head && transfer.resized.is_none());
            for (name, _) in trained.iter() {
                assert_eq!(
                    bits(&transfer.parameters, name),
                    bits(&trained, name),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn other_heads_are_initialized_and_the_rest_is_transferred() {
        let from = config(Positions::Learned);
        for (to, keep_head) in [
            (from.clone().with_num_classes(3), true),
            (from.clone(), false),
        ] {
            let (trained, fresh) = (parameters(&from, 1), parameters(&to, 2));
            let transfer = trained.transferred(&from, &to, &fresh, keep_head).unwrap();
            assert!(transfer.has_fresh_head);
            for (name, _) in fresh.iter() {
                let origin = if name.starts_with("head.") {
                    &fresh
                } else {
                    &trained
                };
                assert_eq!(
                    bits(&transfer.parameters, name),
                    bits(origin, name),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn transferred_weights_are_copies() {
        let config = config(Positions::Learned);
        let (trained, fresh) = (parameters(&config, 1), parameters(&config, 2));
        let transfer = trained.transferred(&config, &config, &fresh, true).unwrap();
        let before = bits(&trained, "latents");
        let latents = transfer.parameters.get("latents").unwrap();
        latents.set(&latents.zeros_like().unwrap()).unwrap();
        assert_eq!(bits(&trained, "latents"), before);
    }

    /// An image without detail looks the same in every size, so its logits must stay nearly the
    /// same.
    #[test]
    fn positions_are_resized_for_larger_images() {
        for positions in [Positions::Learned, Positions::Fourier] {
            let from = config(positions);
            let to = PerceiverConfig {
                image_size: 32,
                ..from.clone()
            };
            let trained = parameters(&from, 1);
            // Smooth, as learned positions of neighbours are: ramps, and the lowest frequency
            // alone.
            let (name, smooth): (&str, fn(usize, usize) -> f32) = match positions {
                Positions::Learned => ("encoder.positions", |token, channel| {
                    (token / 8) as f32 / 8.0 - (channel * (token % 8)) as f32 / 32.0
                }),
                Positions::Fourier => ("encoder.position_projection", |channel, feature| {
                    f32::from(feature % 33 < 3) * (channel as f32 / 4.0 - 1.0)
                }),
            };
            let variable = trained.get(name).unwrap();
            let (rows, columns) = variable.dims2().unwrap();
            let smooth: Vec<f32> = (0..rows)
                .flat_map(|row| (0..columns).map(move |column| smooth(row, column)))
                .collect();
            let smooth = Tensor::from_vec(smooth, (rows, columns), &Device::Cpu).unwrap();
            variable.set(&smooth).unwrap();
            let fresh = parameters(&to, 2);
            let transfer = trained.transferred(&from, &to, &fresh, true).unwrap();
            assert_eq!(transfer.resized, Some((8, 16)));
            let scores = |config: &PerceiverConfig, parameters: &Parameters| {
                let side = config.image_size;
                let grey = Tensor::full(0.3_f32, (1, 3, side, side), &Device::Cpu).unwrap();
                let model = parameters.inference_model(config).unwrap();
                values(&model.forward(&grey, Mode::Inference).unwrap()).unwrap()
            };
            let expected = scores(&from, &trained);
            let distance = |actual: Vec<f32>| {
                let pairs = actual.iter().zip(&expected);
                pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
            };
            let carried_over = distance(scores(&to, &transfer.parameters));
            let spread = expected.iter().copied().fold(f32::MIN, f32::max)
                - expected.iter().copied().fold(f32::MAX, f32::min);
            assert!(
                carried_over < 0.1 * spread,
                "{positions:?}: {carried_over} of {spread}"
            );
        }
    }

    #[test]
    fn mismatched_architectures_are_errors_by_weight() {
        let from = config(Positions::Learned);
        let trained = parameters(&from, 1);
        let wider = PerceiverConfig {
            latent_dim: 6,
            ..from.clone()
        };
        let error = trained
            .transferred(&from, &wider, &parameters(&wider, 2), true)
            .unwrap_err();
        assert!(
            matches!(&error, ModelError::WeightShape { name, .. } if name == "latents"),
            "{error}"
        );
    }
}
