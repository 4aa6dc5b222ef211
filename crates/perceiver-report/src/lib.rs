//! Training results for people: reports, comparisons of runs, attention maps over images.
//!
//! ```
//! use perceiver_report::{Attention, Latents, Show, overlay};
//! # use perceiver_data::{LoadOptions, Source, Split};
//! # fn show(checkpoint: &perceiver_train::Checkpoint) -> perceiver_report::Result<()> {
//! let shapes = Source::Shapes.load(Split::Test, &LoadOptions::default())?;
//! let image = &shapes.images()[0];
//! let attention = Attention::of(checkpoint, image)?;
//! let first = attention.map(1, Latents::Mean, Show::Probabilities)?;
//! overlay(image, &first, 512)?.write_png("attention.png")?;
//! # Ok(())
//! # }
//! ```

mod attention; // attention maps, overlays, sheets of images
mod card; // model card
mod compare; // comparison of runs
mod data_url; // images as data: URLs
mod error; // errors
mod live; // follows a run
mod page; // report.html: charts, classes, confusion matrix, images
mod run; // reads a run directory
#[cfg(test)]
mod testing; // test helpers
mod text; // number formatting

pub use attention::overlay::{map_address, overlay, stretched};
pub use attention::sheet::{Sheet, SheetFormat, SheetRow, Tile};
pub use attention::{Attention, Latents, Map, Show};
pub use card::redaction::Public;
pub use card::results::claimed_accuracies;
pub use card::{Card, CardError};
pub use compare::mcnemar::McNemar;
pub use compare::names::names;
pub use compare::sweep::{SweepVariant, sweep_page};
pub use compare::{Comparison, FieldValues, PairTest, RunFigures};
pub use data_url::data_address;
pub use error::{ReportError, Result};
pub use live::{Change, RunState, RunWatch, Snapshot};
pub use page::calibration::{Bin, Calibration};
pub use page::charts::{Axis, Chart, Curve, Intervals, Mark};
pub use page::live::{live_page, live_status};
pub use page::per_class::{ClassFigures, GroupFigures, per_class, per_group};
pub use page::{Shows, report, write_report};
pub use run::Run;
pub use text::{counted, grouped, says_top5, with_unit};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDocTests;
