//! Stratified splits: a share of every class, drawn by a seed.

use perceiver_ops::RngKey;

/// Splits the indices of `labels` into the rest and a drawn part that has `fraction` of the images
/// of every class, rounded, but leaves at least one image of a class in either part if it has two.
/// Both parts are in ascending order.
pub(crate) fn stratified_split(labels: &[u32], fraction: f64, seed: u64) -> [Vec<usize>; 2] {
    let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let mut of_class = vec![Vec::new(); classes];
    for (index, &label) in labels.iter().enumerate() {
        of_class[label as usize].push(index);
    }
    let key = RngKey::new(seed).fold_in_name("stratified split");
    let mut is_drawn = vec![false; labels.len()];
    for mut indices in of_class {
        let count = indices.len();
        let share = (count as f64 * fraction).round() as usize;
        let share = match count {
            0 | 1 => 0,
            _ if fraction > 0.0 => share.clamp(1, count - 1),
            _ => 0,
        };
        indices.sort_by_key(|&index| key.bits(index as u64));
        for index in indices.into_iter().take(share) {
            is_drawn[index] = true;
        }
    }
    let (drawn, rest) = (0..labels.len()).partition(|&index| is_drawn[index]);
    [rest, drawn]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_class_gives_its_share(
            labels in prop::collection::vec(0_u32..5, 0..200), fraction in 0.01_f64..0.99, seed: u64,
        ) {
            let [rest, drawn] = stratified_split(&labels, fraction, seed);
            let mut all: Vec<usize> = rest.iter().chain(&drawn).copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
            prop_assert!(rest.is_sorted() && drawn.is_sorted());
            for class in 0..5 {
                let count = |part: &[usize]| part.iter().filter(|&&at| labels[at] == class).count();
                let (rest, drawn) = (count(&rest), count(&drawn));
                let expected = (rest + drawn) as f64 * fraction;
                prop_assert!((drawn as f64 - expected).abs() <= 1.0, "{drawn} of {expected}");
                prop_assert!(rest + drawn < 2 || (rest > 0 && drawn > 0));
            }
        }
    }

    #[test]
    fn seeds_draw_different_images() {
        let labels = vec![0; 100];
        let drawn = |seed| stratified_split(&labels, 0.1, seed)[1].clone();
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert_eq!(stratified_split(&labels, 0.0, 1)[1].len(), 0);
    }
}
