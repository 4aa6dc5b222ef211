//! Nearest neighbors among embeddings, by exact search.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::eval::embeddings::Embeddings;

/// The measure of how similar two embeddings are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SimilarityMetric {
    /// Cosine similarity, from -1 to 1: the cosine of the angle between the two. An embedding of
    /// zeros has similarity 0 to all.
    #[default]
    Cosine,
    /// Euclidean distance, from 0.
    Euclidean,
}

/// An image in the order of similarity to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbor {
    /// The row of the image in the embeddings.
    pub row: usize,
    /// The cosine similarity or the Euclidean distance.
    pub score: f64,
}

impl SimilarityMetric {
    /// Computes the cosine similarity or the Euclidean distance of two embeddings of equal length.
    ///
    /// ```
    /// use perceiver_train::SimilarityMetric;
    ///
    /// assert_eq!(SimilarityMetric::Cosine.of(&[1.0, 0.0], &[0.0, 2.0]), 0.0);
    /// assert_eq!(SimilarityMetric::Euclidean.of(&[3.0, 0.0], &[0.0, 4.0]), 5.0);
    /// ```
    pub fn of(self, a: &[f32], b: &[f32]) -> f64 {
        let pairs = a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        match self {
            Self::Euclidean => pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
            Self::Cosine => {
                let (dot, a, b) = pairs.fold((0.0, 0.0, 0.0), |(dot, aa, bb), (a, b)| {
                    (dot + a * b, aa + a * a, bb + b * b)
                });
                let lengths = f64::sqrt(a) * f64::sqrt(b);
                if lengths > 0.0 {
                    (dot / lengths).clamp(-1.0, 1.0)
                } else {
                    0.0
                }
            }
        }
    }
}

impl Embeddings {
    /// Returns the `k` images whose embeddings are most similar to `query`, the most similar first;
    /// ties in the order of the file. `query` has as many values as an embedding of the file.
    pub fn nearest(&self, query: &[f32], metric: SimilarityMetric, k: usize) -> Vec<Neighbor> {
        let rows = (0..self.len()).into_par_iter();
        let mut all: Vec<Neighbor> = rows
            .map(|row| Neighbor {
                row,
                score: metric.of(query, self.row(row)),
            })
            .collect();
        let order = |a: &Neighbor, b: &Neighbor| {
            let by_score = match metric {
                SimilarityMetric::Cosine => b.score.total_cmp(&a.score),
                SimilarityMetric::Euclidean => a.score.total_cmp(&b.score),
            };
            by_score.then(a.row.cmp(&b.row))
        };
        if k < all.len() {
            if k == 0 {
                return Vec::new();
            }
            all.select_nth_unstable_by(k - 1, order);
            all.truncate(k);
        }
        all.sort_unstable_by(order);
        all
    }
}

#[cfg(test)]
mod tests {
    use perceiver_model::Features;

    use super::*;
    use crate::eval::embeddings::header::{EmbeddedImage, EmbeddingsHeader};

    fn embeddings(rows: &[[f32; 2]]) -> Embeddings {
        Embeddings {
            header: EmbeddingsHeader {
                checkpoint: String::new(),
                weights_sha256: String::new(),
                features: Features::Pooled,
                shape: vec![2],
            },
            images: (0..rows.len())
                .map(|row| EmbeddedImage {
                    image: row.to_string(),
                    image_percent_encoded: None,
                })
                .collect(),
            values: rows.concat(),
        }
    }

    fn rows(neighbors: &[Neighbor]) -> Vec<usize> {
        neighbors.iter().map(|neighbor| neighbor.row).collect()
    }

    #[test]
    fn the_metrics_order_images_differently() {
        let all = embeddings(&[
            [0.0, 0.0],
            [10.0, 0.0],
            [1.0, 1.0],
            [-1.0, 0.0],
            [10.0, 0.0],
        ]);
        let cosine = all.nearest(&[1.0, 0.0], SimilarityMetric::Cosine, 9);
        assert_eq!(rows(&cosine), [1, 4, 2, 0, 3]);
        let scores: Vec<f64> = cosine.iter().map(|neighbor| neighbor.score).collect();
        for (score, expected) in scores.iter().zip([1.0, 1.0, 0.5_f64.sqrt(), 0.0, -1.0]) {
            assert!((score - expected).abs() < 1e-12, "{score}, not {expected}");
        }
        let euclidean = all.nearest(&[1.0, 0.0], SimilarityMetric::Euclidean, 3);
        assert_eq!(rows(&euclidean), [0, 2, 3]);
        assert!((euclidean[0].score - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_first_k_are_those_of_the_whole_order() {
        let random = |row: u32| ((row * 7919) % 101) as f32 / 50.0 - 1.0;
        let all: Vec<[f32; 2]> = (0..50).map(|row| [random(row), random(row + 31)]).collect();
        let all = embeddings(&all);
        for metric in [SimilarityMetric::Cosine, SimilarityMetric::Euclidean] {
            let whole = all.nearest(&[0.3, -0.4], metric, 50);
            for k in [0, 1, 7, 49, 50, 51] {
                let first = all.nearest(&[0.3, -0.4], metric, k);
                assert_eq!(first, whole[..k.min(50)], "{k}");
            }
        }
    }
}
