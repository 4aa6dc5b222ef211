//! Accuracies as points with intervals on a common axis, which starts where the lowest interval
//! does: on an axis from zero, accuracies above 85% look alike.

/// The axis: from `start` to `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RangeAxis {
    start: f64,
    end: f64,
}

/// A point with its interval, as CSS percentages of the axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RangeBar {
    pub(crate) point: String,
    pub(crate) low: String,
    pub(crate) width: String,
}

impl RangeAxis {
    /// Creates an axis for intervals: it starts at a whole tenth.
    pub(crate) fn of(intervals: impl Iterator<Item = [f64; 2]>) -> Self {
        let least = intervals.map(|[low, _]| low).fold(1.0, f64::min);
        Self {
            start: ((10.0 * least).floor() / 10.0).clamp(0.0, 0.9),
            end: 1.0,
        }
    }

    /// Creates an axis that also ends at a whole tenth, for comparisons.
    pub(crate) fn around(intervals: impl Iterator<Item = [f64; 2]> + Clone) -> Self {
        let axis = Self::of(intervals.clone());
        let most = intervals.map(|[_, high]| high).fold(0.0, f64::max);
        Self {
            end: ((10.0 * most).ceil() / 10.0).clamp(axis.start + 0.1, 1.0),
            ..axis
        }
    }

    /// Returns the start in percent, such as `80%`.
    pub(crate) fn start(&self) -> String {
        format!("{:.0}%", 100.0 * self.start)
    }

    /// Returns the end in percent.
    pub(crate) fn end(&self) -> String {
        format!("{:.0}%", 100.0 * self.end)
    }

    /// Returns the place of a share and its interval.
    pub(crate) fn bar(&self, share: f64, [low, high]: [f64; 2]) -> RangeBar {
        let place =
            |share: f64| (100.0 * (share - self.start) / (self.end - self.start)).clamp(0.0, 100.0);
        RangeBar {
            point: format!("{:.1}%", place(share)),
            low: format!("{:.1}%", place(low)),
            width: format!("{:.1}%", (place(high) - place(low)).max(0.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_starts_below_the_lowest_interval() {
        let axis = RangeAxis::of([[0.87, 0.95], [0.81, 0.9]].into_iter());
        assert_eq!(axis.start(), "80%");
        let bar = axis.bar(0.9, [0.85, 0.95]);
        assert_eq!((bar.point.as_str(), bar.low.as_str()), ("50.0%", "25.0%"));
        assert_eq!(bar.width, "50.0%");
        assert_eq!(RangeAxis::of([[1.0, 1.0]].into_iter()).start(), "90%");
        assert_eq!(RangeAxis::of(std::iter::empty()).start(), "90%");
        let axis = RangeAxis::around([[0.04, 0.06], [0.0, 0.12]].into_iter());
        assert_eq!(
            (axis.start(), axis.end()),
            ("0%".to_string(), "20%".to_string())
        );
        assert_eq!(axis.bar(0.1, [0.0, 0.3]).width, "100.0%");
    }
}
