//! What looks wrong with the classes of a data set before anything is learned of them, and is no error by itself.

use perceiver_data::Pictures;
use perceiver_train::TrainingData;

/// Says in warnings what looks wrong with the classes of the training split and, as far as it was counted, of the test split.
pub(crate) fn say(data: &TrainingData) {
    let classes = data.train.classes();
    let mut counts = data.train.class_counts();
    let validation: &Pictures = &data.validation;
    for (count, more) in counts.iter_mut().zip(validation.class_counts()) {
        *count += more;
    }
    for finding in findings(classes, &counts) {
        tracing::warn!("{}: {finding}", data.train.name());
    }
}

/// What looks wrong with classes of so many images each.
fn findings(classes: &[String], counts: &[usize]) -> Vec<String> {
    let mut findings = Vec::new();
    let of = |count: usize| (0..classes.len()).filter(move |&class| counts[class] == count);
    let single = of(1).count();
    if single > 1 && 2 * single > classes.len() - of(0).count() {
        findings.push(format!(
            "{single} classes have one image each, such as {:?}; are its labels numbers of images, and not of classes?",
            classes[of(1).next().unwrap_or(0)]
        ));
    }
    if let Some(class) = of(0).next() {
        let others = match of(0).count() - 1 {
            0 => String::new(),
            1 => " and one more class".to_string(),
            more => format!(" and {more} more classes"),
        };
        findings.push(format!(
            "there is no image to learn from of class {:?}{others}, of {} in all",
            classes[class],
            classes.len()
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(counts: &[usize]) -> String {
        let classes: Vec<String> = (0..counts.len()).map(|class| format!("c{class}")).collect();
        findings(&classes, counts).join("; ")
    }

    #[test]
    fn what_looks_wrong_with_classes_is_said() {
        assert_eq!(found(&[3, 1, 2]), "");
        assert_eq!(found(&[1]), "");
        assert!(found(&[1, 1, 1, 2]).starts_with("3 classes have one image each, such as \"c0\""));
        assert_eq!(
            found(&[5, 0, 5]),
            "there is no image to learn from of class \"c1\", of 3 in all"
        );
        assert!(found(&[0, 7, 0, 0]).contains("of class \"c0\" and 2 more classes, of 4"));
        let ids = found(&[1, 1, 0]);
        assert!(
            ids.contains("2 classes have one image") && ids.contains("class \"c2\""),
            "{ids}"
        );
    }
}
