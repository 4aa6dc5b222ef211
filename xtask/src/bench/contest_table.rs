//! The table of one contest in turns: a row per contestant, compared with the first.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::alternation::{Stint, Turn};
use super::report::Figure;

/// One contest: its title and contestants.
#[derive(Clone, Debug)]
pub struct ContestTable {
    /// The name of the contest, as in the names of its figures.
    pub name: String,
    /// What every step does.
    pub title: String,
    rows: Vec<Row>,
}

/// A contestant.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    images_per_second: Option<Figure>,
    /// The speed of the first contestant divided by this one's.
    ratio: Option<Figure>,
    gflops: Option<Figure>,
    stint: Stint,
}

impl ContestTable {
    /// Creates a table without rows.
    pub fn new(name: &str, title: String) -> Self {
        Self {
            name: name.to_owned(),
            title,
            rows: Vec::new(),
        }
    }

    /// Adds a contestant whose amounts are images of `multiply_adds` each. Ratios are taken once
    /// per cycle, so that a slow minute of the machine affects both.
    pub fn add_images(&mut self, name: &str, stint: Stint, multiply_adds: f64) {
        let first = self.rows.first().map(|row| row.stint.turns.clone());
        let ratios: Option<Vec<f64>> = first.map(|first| {
            let turns = first.iter().zip(&stint.turns);
            let ratio =
                |(first, this): (&Turn, &Turn)| Some(first.per_second()? / this.per_second()?);
            turns.filter_map(ratio).collect()
        });
        self.rows.push(Row {
            name: name.to_owned(),
            images_per_second: speed(&stint, 1.0),
            ratio: ratios.and_then(|ratios| Figure::of(&ratios)),
            gflops: speed(&stint, 2e-9 * multiply_adds),
            stint,
        });
    }

    /// Adds matrix products alone, whose amounts are multiply-adds.
    pub fn add_products(&mut self, name: &str, stint: Stint) {
        self.rows.push(Row {
            name: name.to_owned(),
            images_per_second: None,
            ratio: None,
            gflops: speed(&stint, 2e-9),
            stint,
        });
    }

    /// Formats title and table.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header([
                "contestant",
                "images/s",
                "min to max",
                "first/this",
                "min to max",
                "GFLOP/s",
                "steps",
                "awake",
                "memory",
            ]);
        for row in &self.rows {
            table.add_row(row.cells());
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{}: {}\n{table}", self.name, self.title)
    }
}

impl Row {
    fn cells(&self) -> [String; 9] {
        let median = |figure: Option<Figure>, decimals| {
            figure.map_or_else(String::new, |f| format!("{:.decimals$}", f.median))
        };
        let range = |figure: Option<Figure>| {
            figure.map_or_else(String::new, |f| {
                format!("{:.2} to {:.2}", f.minimum, f.maximum)
            })
        };
        let memory = self.stint.peak_rss_bytes;
        [
            self.name.clone(),
            median(self.images_per_second, 2),
            range(self.images_per_second),
            median(self.ratio, 2),
            range(self.ratio),
            median(self.gflops, 1),
            self.stint.steps().to_string(),
            format!("{:.0} s", self.stint.awake.as_secs_f64()),
            memory.map_or_else(String::new, |bytes| format!("{:.0} MB", bytes as f64 / 1e6)),
        ]
    }
}

/// Returns the work per second of every slice with a step, times a factor.
fn speed(stint: &Stint, factor: f64) -> Option<Figure> {
    let speeds = stint.turns.iter().filter_map(Turn::per_second);
    Figure::of(&speeds.map(|speed| speed * factor).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Three slices of 10 s in which steps of 16 images took these seconds.
    fn stint(seconds: [f64; 3]) -> Stint {
        let turn = |seconds: f64| {
            let steps = (10.0 / seconds).floor();
            Turn {
                steps: steps as usize,
                amount: 16.0 * steps,
                seconds: steps * seconds,
            }
        };
        Stint {
            turns: seconds.map(turn).to_vec(),
            awake: Duration::from_secs(30),
            peak_rss_bytes: Some(1_670_000_000),
        }
    }

    #[test]
    fn ratios_are_of_the_same_cycle() {
        // The machine is half as fast in the second cycle, for both: the ratio is 2 in every cycle.
        let mut table = ContestTable::new("train_16", "a training step of 16 images".into());
        table.add_images("perceiver-f32", stint([1.0, 2.0, 1.0]), 15e9);
        table.add_images("pytorch-compiled-f32", stint([2.0, 4.0, 2.0]), 15e9);
        let mut slower = stint([5.0, 5.0, 5.0]);
        slower.turns[1] = Turn::default(); // no step in that slice
        slower.peak_rss_bytes = None;
        table.add_images("keras-tensorflow-bf16", slower, 15e9);
        let products = |turn: &mut Turn| turn.amount *= 1e9;
        let mut rate = stint([0.5, 0.5, 0.5]);
        rate.turns.iter_mut().for_each(products);
        table.add_products("products-f32", rate);
        let lines: Vec<String> = table
            .table()
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        train_16: a training step of 16 images
         contestant             images/s     min to max  first/this    min to max  GFLOP/s  steps  awake   memory
         perceiver-f32             16.00  8.00 to 16.00                              480.0     25   30 s  1670 MB
         pytorch-compiled-f32       8.00   4.00 to 8.00        2.00  2.00 to 2.00    240.0     12   30 s  1670 MB
         keras-tensorflow-bf16      3.20   3.20 to 3.20        5.00  5.00 to 5.00     96.0      4   30 s
         products-f32                                                                 64.0     60   30 s  1670 MB
        ");
    }
}
