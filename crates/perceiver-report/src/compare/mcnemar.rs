//! McNemar's test between two models on the same images.
//!
//! Images that both models get right, or both get wrong, carry no information. If the models were
//! equally good, each would win half of the others. The p-value is the exact two-sided binomial
//! one, for any number of images.

use perceiver_train::Prediction;

/// The result of McNemar's test for two models on the same images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct McNemar {
    /// The number of images that only the first model classified correctly.
    pub only_first: u64,
    /// The number of images that only the second model classified correctly.
    pub only_second: u64,
    /// The probability of a split at least this uneven if both models were equally good.
    pub p_value: f64,
}

impl McNemar {
    /// Compares the predictions of two models for the same images, in the same order.
    pub fn of(first: &[Prediction], second: &[Prediction]) -> Self {
        let (mut only_first, mut only_second) = (0, 0);
        for (a, b) in first.iter().zip(second) {
            match (a.is_right(), b.is_right()) {
                (true, false) => only_first += 1,
                (false, true) => only_second += 1,
                _ => {}
            }
        }
        Self::new(only_first, only_second)
    }

    /// Computes the test from the two counts.
    ///
    /// ```
    /// // Of 10 pictures that the models disagree on, 8 go to one: nothing unusual.
    /// let p = perceiver_report::McNemar::new(8, 2).p_value;
    /// assert!((p - 112.0 / 1024.0).abs() < 1e-12);
    /// ```
    pub fn new(only_first: u64, only_second: u64) -> Self {
        let (discordant, least) = (only_first + only_second, only_first.min(only_second));
        // The sum of C(n, k) / 2^n up to `least`, from the logarithms of its terms, because 2^n
        // soon overflows.
        let mut term = -(discordant as f64) * std::f64::consts::LN_2;
        let mut tail = term.exp();
        for k in 1..=least {
            term += (((discordant - k + 1) as f64) / k as f64).ln();
            tail += term.exp();
        }
        Self {
            only_first,
            only_second,
            p_value: (2.0 * tail).min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::prediction;

    fn assert_p(counts: [u64; 2], expected: f64) {
        let [a, b] = counts;
        for p_value in [McNemar::new(a, b), McNemar::new(b, a)].map(|test| test.p_value) {
            let error = (p_value - expected).abs();
            assert!(
                error < 1e-6 * expected,
                "{counts:?}: {p_value}, not {expected}"
            );
        }
    }

    /// Reference values: SciPy's `binomtest(a, a + b).pvalue`; R's `binom.test` gives the same.
    #[test]
    fn p_values_match_reference_values() {
        assert_p([0, 0], 1.0);
        assert_p([5, 5], 1.0);
        assert_p([0, 6], 0.03125);
        assert_p([121, 59], 4.434_449_263_755e-6);
        assert_p([86, 150], 3.715_936_139_571e-5);
        assert_p([1200, 1000], 2.181_702_640_791e-5);
    }

    #[test]
    fn only_discordant_predictions_count() {
        let first = [(0, 0), (0, 0), (0, 1), (0, 1)].map(prediction);
        let second = [(0, 0), (0, 1), (0, 0), (0, 2)].map(prediction);
        let test = McNemar::of(&first, &second);
        assert_eq!((test.only_first, test.only_second), (1, 1));
    }
}
