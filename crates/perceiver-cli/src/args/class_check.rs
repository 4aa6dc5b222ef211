//! Warnings about the classes of a data set before training.

use perceiver_data::Samples;
use perceiver_train::TrainingData;

/// Warns about suspicious classes in the training split and, as far as it has been counted, in the
/// test split.
pub(crate) fn log_findings(data: &TrainingData) {
    let classes = data.train.classes();
    let mut counts = data.train.class_counts();
    let validation: &Samples = &data.validation;
    for (count, more) in counts.iter_mut().zip(validation.class_counts()) {
        *count += more;
    }
    for finding in findings(classes, &counts) {
        tracing::warn!("{}: {finding}", data.train.name());
    }
}

/// Describes suspicious classes, given the number of images of each.
fn findings(classes: &[String], counts: &[usize]) -> Vec<String> {
    let mut findings = Vec::new();
    let of = |count: usize| (0..classes.len()).filter(move |&class| counts[class] == count);
    let single = of(1).count();
    if single > 1 && 2 * single > classes.len() - of(0).count() {
        findings.push(format!(
            "{single} classes have one image each, such as {:?}; are the labels image numbers instead of class numbers?",
            classes[of(1).next().unwrap_or(0)]
        ));
    }
    if let Some(class) = of(0).next() {
        let others = match of(0).count() - 1 {
            0 => String::new(),
            1 => " and 1 more class".to_string(),
            more => format!(" and {more} more classes"),
        };
        findings.push(format!(
            "no training image of class {:?}{others}, of {} classes",
            classes[class],
            classes.len()
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined_findings(counts: &[usize]) -> String {
        let classes: Vec<String> = (0..counts.len()).map(|class| format!("c{class}")).collect();
        findings(&classes, counts).join("; ")
    }

    #[test]
    fn suspicious_classes_are_reported() {
        assert_eq!(joined_findings(&[3, 1, 2]), "");
        assert_eq!(joined_findings(&[1]), "");
        assert!(
            joined_findings(&[1, 1, 1, 2])
                .starts_with("3 classes have one image each, such as \"c0\"")
        );
        assert_eq!(
            joined_findings(&[5, 0, 5]),
            "no training image of class \"c1\", of 3 classes"
        );
        assert!(
            joined_findings(&[0, 7, 0, 0]).contains("of class \"c0\" and 2 more classes, of 4")
        );
        let ids = joined_findings(&[1, 1, 0]);
        assert!(
            ids.contains("2 classes have one image") && ids.contains("class \"c2\""),
            "{ids}"
        );
    }
}
