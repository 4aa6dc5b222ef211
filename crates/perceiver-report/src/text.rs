//! Formats numbers for people.

/// Formats a ratio in percent, such as `55.6%`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// Formats a ratio in percent with two digits, such as `55.60%`.
pub(crate) fn exact_percent(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}

/// Formats an interval of ratios in percent, such as `54.6 to 56.6`.
pub(crate) fn interval([low, high]: [f64; 2], digits: usize) -> String {
    format!("{:.digits$} to {:.digits$}", 100.0 * low, 100.0 * high)
}

/// Returns `part / whole`, or 0 if `whole` is 0.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Formats a count with thousands separators.
///
/// ```
/// assert_eq!(perceiver_report::grouped(9_697_637), "9,697,637");
/// assert_eq!(perceiver_report::grouped(7), "7");
/// ```
pub fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Formats a count with its noun, in the singular for 1: `1 epoch`, `2,000 steps`.
///
/// ```
/// assert_eq!(perceiver_report::counted(1, "epoch"), "1 epoch");
/// assert_eq!(perceiver_report::counted(2_000, "step"), "2,000 steps");
/// assert_eq!(perceiver_report::counted(3, "class"), "3 classes");
/// ```
pub fn counted(count: usize, thing: &str) -> String {
    let ending = match thing {
        _ if count == 1 => "",
        _ if thing.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {thing}{ending}", grouped(count))
}

/// Formats a large number with an SI unit, to three digits: `60.3 M`, `1.27 G`.
///
/// ```
/// let texts = [812, 60_300_000, 999_600, 1_268_000_000].map(perceiver_report::with_unit);
/// assert_eq!(texts, ["812", "60.3 M", "1.00 M", "1.27 G"]);
/// ```
pub fn with_unit(number: u64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let value = number as f64;
    // A value that would round to 1,000 of a unit is written as 1 of the next.
    let unit = UNITS.iter().find(|(size, _)| value >= 0.9995 * size);
    let Some((size, unit)) = unit.filter(|_| number >= 1000) else {
        return number.to_string();
    };
    let value = value / size;
    let digits = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// Whether the top-5 accuracy is informative: with at most five classes it is always 100%.
///
/// ```
/// assert_eq!([2, 5, 6].map(perceiver_report::says_top5), [false, false, true]);
/// ```
pub fn says_top5(classes: usize) -> bool {
    classes > perceiver_train::TOP_K
}

/// Formats a duration in a suitable unit.
pub(crate) fn time(seconds: f64) -> String {
    match seconds.round() as u64 {
        0..10 => format!("{seconds:.1} s"),
        whole @ 10..120 => format!("{whole} s"),
        120..7200 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// Serializes a value as JSON for a `<script>` element, which nothing in it can end.
///
/// # Errors
/// When the value cannot be serialized.
pub(crate) fn json_in_page(value: &impl serde::Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string(value)?.replace('<', "\\u003c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(percent(share(1, 3)), "33.3%");
        assert_eq!(percent(share(0, 0)), "0.0%");
        assert_eq!(interval([0.5462, 0.5657], 1), "54.6 to 56.6");
        assert_eq!(grouped(9_697_637), "9,697,637");
        assert_eq!(
            [0.25, 61.4, 1769.7, 9000.0].map(time),
            ["0.2 s", "61 s", "29 min", "2.5 h"]
        );
    }

    #[test]
    fn json_cannot_leave_its_element() {
        let json = json_in_page(&["</script><script>alert(1)"]).unwrap();
        assert!(!json.contains('<'), "{json}");
        let read: Vec<String> = serde_json::from_str(&json).unwrap();
        assert_eq!(read, ["</script><script>alert(1)"]);
    }
}
