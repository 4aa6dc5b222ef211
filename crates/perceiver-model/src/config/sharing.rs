//! Weight sharing between iterations.

use crate::config::PerceiverConfig;

/// The weights of a cross-attention or latent transformer, used in one or more iterations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WeightSet {
    index: usize,
    /// Number of iterations that use these weights.
    pub(crate) iterations: usize,
}

impl WeightSet {
    pub(crate) fn of_cross_attention(config: &PerceiverConfig) -> Vec<Self> {
        Self::count((0..config.cross_attends()).filter_map(|i| config.cross_attention_set(i)))
    }

    pub(crate) fn of_transformer(config: &PerceiverConfig) -> Vec<Self> {
        Self::count((0..config.num_iterations).map(|i| config.transformer_set(i)))
    }

    /// Groups the iterations' weight indices, which are in ascending order, into sets.
    fn count(indices: impl Iterator<Item = usize>) -> Vec<Self> {
        let mut sets: Vec<Self> = Vec::new();
        for index in indices {
            match sets.last_mut() {
                Some(last) if last.index == index => last.iterations += 1,
                _ => sets.push(Self {
                    index,
                    iterations: 1,
                }),
            }
        }
        sets
    }

    /// Returns the name prefix of the weights.
    pub(crate) fn name(&self, layer: &str) -> String {
        name(layer, self.index)
    }
}

/// Returns the name prefix of a set of weights: `layer`, with its number from the second set on.
pub(crate) fn name(layer: &str, index: usize) -> String {
    match index {
        0 => layer.to_string(),
        index => format!("{layer}_{}", index + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sharing;

    #[test]
    fn weight_sets_count_the_iterations_that_share_them() {
        let of = |sharing, num_cross_attends| {
            let config = PerceiverConfig {
                num_iterations: 4,
                num_cross_attends,
                sharing,
                ..PerceiverConfig::default()
            };
            let uses = |sets: Vec<WeightSet>| -> Vec<(String, usize)> {
                sets.iter()
                    .map(|set| (set.name("x"), set.iterations))
                    .collect()
            };
            (
                uses(WeightSet::of_cross_attention(&config)),
                uses(WeightSet::of_transformer(&config)),
            )
        };
        let named = |sets: &[(&str, usize)]| -> Vec<(String, usize)> {
            sets.iter()
                .map(|(name, uses)| ((*name).to_string(), *uses))
                .collect()
        };
        assert_eq!(
            of(Sharing::All, 0),
            (named(&[("x", 4)]), named(&[("x", 4)]))
        );
        assert_eq!(
            of(Sharing::AllButFirstCross, 3),
            (named(&[("x", 1), ("x_2", 2)]), named(&[("x", 4)]))
        );
        assert_eq!(
            of(Sharing::None, 2),
            (
                named(&[("x", 1), ("x_2", 1)]),
                named(&[("x", 1), ("x_2", 1), ("x_3", 1), ("x_4", 1)])
            )
        );
    }
}
