//! Figures by name: median, minimum and maximum, as tables and as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use super::contest_table::ContestTable;
use super::contestant::Contestant;
use super::machine::Machine;
use super::worker::Sample;
use crate::error::{Result, XtaskError};

/// A quantity that was measured several times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The median; for an even number of values, the mean of the middle two.
    pub median: f64,
    /// The minimum.
    pub minimum: f64,
    /// The maximum.
    pub maximum: f64,
}

impl Figure {
    /// Computes the figure; `None` without values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (minimum, maximum) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self {
            median,
            minimum,
            maximum,
        })
    }
}

/// The figures of a run of benchmarks, and the machine that they are of.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<Machine>,
    #[serde(flatten)]
    figures: BTreeMap<String, Figure>,
    #[serde(skip)]
    contests: Vec<ContestTable>,
}

impl Report {
    /// Sets the machine.
    pub fn set_machine(&mut self, machine: Machine) {
        self.machine = Some(machine);
    }

    /// Adds the table of a contest, which then shows the contest's figures.
    pub fn add_table(&mut self, table: ContestTable) {
        self.contests.push(table);
    }

    /// Adds a figure, if there are values.
    pub fn add(&mut self, name: impl Into<String>, values: &[f64]) {
        if let Some(figure) = Figure::of(values) {
            self.figures.insert(name.into(), figure);
        }
    }

    /// Whether there is no figure.
    pub fn is_empty(&self) -> bool {
        self.figures.is_empty()
    }

    /// Returns a figure by name.
    pub fn get(&self, name: &str) -> Option<&Figure> {
        self.figures.get(name)
    }

    /// Adds the speed, time and memory of one contestant: `<name>.images_per_second`,
    /// `<name>.seconds`, `<name>.peak_rss_bytes`.
    pub fn add_samples(&mut self, name: &str, samples: &[Sample]) {
        let speeds: Vec<f64> = samples.iter().flat_map(Sample::per_second).collect();
        let seconds: Vec<f64> = samples.iter().flat_map(|s| s.seconds.clone()).collect();
        let peaks = |bytes: fn(&Sample) -> Option<u64>| -> Vec<f64> {
            let bytes = samples.iter().filter_map(bytes);
            bytes.map(|bytes| bytes as f64).collect()
        };
        self.add(format!("{name}.images_per_second"), &speeds);
        self.add(format!("{name}.seconds"), &seconds);
        self.add(
            format!("{name}.peak_rss_bytes"),
            &peaks(|sample| sample.peak_rss_bytes),
        );
        let on_device = peaks(|sample| sample.peak_device_bytes);
        self.add(format!("{name}.peak_device_bytes"), &on_device);
    }

    /// Adds the first contestant, which is ours, under `<name>`, the others under
    /// `<name>.<contestant>`, and the first's speed relative to theirs as
    /// `<name>.times_<contestant>`. The ratio is taken once per round, so that a slow minute of the
    /// machine affects both.
    pub fn add_contest(&mut self, name: &str, contestants: &[Contestant], samples: &[Vec<Sample>]) {
        for (index, (contestant, samples_of_it)) in contestants.iter().zip(samples).enumerate() {
            if index == 0 {
                self.add_samples(name, samples_of_it);
                continue;
            }
            let peer = &contestant.name;
            self.add_samples(&format!("{name}.{peer}"), samples_of_it);
            let ratios: Vec<f64> = samples[0]
                .iter()
                .zip(samples_of_it)
                .filter_map(|(ours, theirs)| Some(median_speed(ours)? / median_speed(theirs)?))
                .collect();
            self.add(format!("{name}.times_{peer}"), &ratios);
        }
    }

    /// Adds the speed of the loader relative to each training benchmark; a device that must not
    /// wait needs a ratio above 1.
    pub fn add_loader_ratios(&mut self) {
        let Some(loader) = self
            .get("loader.images_per_second")
            .map(|figure| figure.median)
        else {
            return;
        };
        let speeds = self.figures.iter().filter_map(|(name, figure)| {
            let training = name.strip_suffix(".images_per_second")?;
            let is_ours = training.starts_with("train") && !training.contains('.');
            is_ours.then(|| (format!("loader.times_{training}"), loader / figure.median))
        });
        for (name, ratio) in speeds.collect::<Vec<_>>() {
            self.add(name, &[ratio]);
        }
    }

    /// Adds the rate of matrix products alone, and the share of it that the model reaches with its
    /// own products.
    pub fn add_rates(&mut self, name: &str, per_second: &[f64], multiply_adds: f64, rates: &[f64]) {
        let gigaflops: Vec<f64> = rates.iter().map(|rate| 2e-9 * rate).collect();
        self.add(format!("{name}.products_gflops"), &gigaflops);
        let reached: Vec<f64> = per_second
            .iter()
            .map(|speed| 2e-9 * speed * multiply_adds)
            .collect();
        self.add(format!("{name}.gflops"), &reached);
        let best = rates.iter().copied().fold(0.0, f64::max);
        let shares: Vec<f64> = per_second
            .iter()
            .map(|speed| speed * multiply_adds / best)
            .collect();
        self.add(format!("{name}.share_of_products"), &shares);
    }

    /// Formats the machine, the contests, and a table of all other figures.
    pub fn table(&self) -> String {
        let machine = self.machine.iter().map(ToString::to_string);
        let contests = self.contests.iter().map(ContestTable::table);
        let mut parts: Vec<String> = machine.chain(contests).collect();
        let mut shown = self
            .figures
            .iter()
            .filter(|(name, _)| !self.is_in_contest(name))
            .peekable();
        if shown.peek().is_some() {
            parts.push(figure_table(shown));
        }
        parts.join("\n\n")
    }

    /// Whether the table of a contest shows a figure.
    fn is_in_contest(&self, figure: &str) -> bool {
        let (contest, rest) = figure.split_once('.').unwrap_or((figure, ""));
        self.contests.iter().any(|table| table.name == contest) && !rest.starts_with("share_of_")
    }

    /// Writes the figures as a JSON object: by name, each with `median`, `minimum` and `maximum`;
    /// and the object `machine`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let write = || {
            let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
            std::fs::write(path, text + "\n")
        };
        write().map_err(XtaskError::io("write", path))
    }
}

/// Formats figures as a table.
fn figure_table<'a>(figures: impl Iterator<Item = (&'a String, &'a Figure)>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["benchmark", "median", "minimum", "maximum"]);
    for (name, figure) in figures {
        let numbers = [figure.median, figure.minimum, figure.maximum].map(|n| readable(name, n));
        table.add_row(std::iter::once(name.clone()).chain(numbers));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn median_speed(sample: &Sample) -> Option<f64> {
    let speeds: Vec<f64> = sample.per_second().collect();
    Figure::of(&speeds).map(|figure| figure.median)
}

fn readable(name: &str, number: f64) -> String {
    match name {
        _ if name.ends_with("bytes") => format!("{:.0} MB", number / 1e6),
        _ if name.ends_with("seconds") && number < 0.1 => format!("{:.3} ms", number * 1e3),
        _ if name.contains(".share_of_") => format!("{:.1} %", number * 100.0),
        _ => format!("{number:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value() {
        let of = |values: &[f64]| Figure::of(values).map(|f| (f.minimum, f.median, f.maximum));
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(of(&[4.0, 1.0, 2.0, 8.0]), Some((1.0, 3.0, 8.0)));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn the_share_is_of_the_best_rate() {
        let mut report = Report::default();
        // 10 images per second of 4 multiply-adds each, of 80 multiply-adds per second possible.
        report.add_rates("train", &[10.0], 4.0, &[60.0, 80.0]);
        let share = Figure::of(&[0.5]);
        assert_eq!(report.get("train.share_of_products"), share.as_ref());
    }

    #[test]
    fn the_loader_is_compared_with_every_training() {
        let mut report = Report::default();
        for (name, speed) in [("loader", 60.0), ("train_64", 20.0), ("train_64.peer", 5.0)] {
            report.add(format!("{name}.images_per_second"), &[speed]);
        }
        report.add_loader_ratios();
        assert_eq!(
            report.get("loader.times_train_64"),
            Figure::of(&[3.0]).as_ref()
        );
        assert_eq!(report.get("loader.times_train_64.peer"), None);
    }

    #[test]
    fn the_machine_and_contests_stand_above_all_other_figures() {
        let mut report = Report::default();
        let machine = Machine {
            cpu: Some("AMD EPYC".into()),
            threads: 2,
            extensions: Some(vec!["avx2"]),
            bf16_kernel: None,
            steal_share: Some(0.0213),
        };
        report.set_machine(machine.clone());
        report.add_table(ContestTable::new("train", "training steps".into()));
        report.add("train.images_per_second", &[11.5]);
        report.add("train.share_of_products", &[0.702]);
        report.add("loader.times_train", &[6000.0]);
        let table = report.table();
        let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        CPU                AMD EPYC, 2 threads
        matrix extensions  avx2 yes, avx512f no, avx512_bf16 no, amx_bf16 no
        products in bf16   computed in f32, as the CPU has no instructions for them
        steal time         2.1 % of the CPU time of this run

        train: training steps
         contestant  images/s  min to max  first/this  min to max  GFLOP/s  steps  awake  memory

         benchmark                  median   minimum   maximum
         loader.times_train       6000.000  6000.000  6000.000
         train.share_of_products    70.2 %    70.2 %    70.2 %
        ");
        let unknown = Machine {
            cpu: None,
            extensions: None,
            bf16_kernel: Some("AVX512-BF16".into()),
            steal_share: None,
            ..machine
        };
        insta::assert_snapshot!(unknown.to_string(), @r"
        CPU                unknown CPU, 2 threads
        matrix extensions  unknown
        products in bf16   AVX512-BF16
        steal time         not reported by this system
        ");
        assert_eq!(
            serde_json::to_value(&report).unwrap()["machine"]["steal_share"],
            0.0213
        );
    }

    #[test]
    fn json_has_one_object_a_benchmark() {
        let mut report = Report::default();
        report.add("train.images_per_second", &[1.0, 2.0, 4.0]);
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        let figure = &json["train.images_per_second"];
        assert_eq!(figure["median"], 2.0);
        assert_eq!(figure["maximum"], 4.0);
        assert!(report.table().contains("train.images_per_second"));
    }
}
