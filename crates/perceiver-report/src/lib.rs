//! What training came to, for people: reports, comparisons of runs, attention over pictures.
//!
//! ```
//! use perceiver_report::{Attention, Latents, Show, overlay};
//! # use perceiver_data::{LoadOptions, Source, Split};
//! # fn show(checkpoint: &perceiver_train::Checkpoint) -> perceiver_report::Result<()> {
//! let shapes = Source::Shapes.load(Split::Test, &LoadOptions::default())?;
//! let picture = &shapes.images()[0];
//! let attention = Attention::of(checkpoint, picture)?;
//! let first = attention.map(1, Latents::Mean, Show::Probabilities)?;
//! overlay(picture, &first, 512)?.write_png("attention.png".as_ref())?;
//! # Ok(())
//! # }
//! ```

mod attention;
mod calibration;
mod caption;
mod card;
mod card_results;
mod charts;
mod comparison;
mod confusion;
mod curves;
mod error;
mod gallery;
mod markdown;
mod matrix;
mod mcnemar;
mod names;
mod overlay;
mod page;
mod per_class;
mod pictures;
mod public;
mod run;
mod sheet;
#[cfg(test)]
mod testing;
mod text;

pub use attention::{Attention, Latents, Map, Show};
pub use calibration::{Bin, Calibration};
pub use card::{Card, CardError};
pub use card_results::claimed_accuracies;
pub use charts::{Axis, Chart, Curve};
pub use comparison::{Comparison, FieldValues, PairTest, RunFigures};
pub use confusion::{Confusion, Pair};
pub use error::{ReportError, Result};
pub use mcnemar::McNemar;
pub use names::names;
pub use overlay::{overlay, stretched};
pub use page::{Shows, report};
pub use per_class::{ClassFigures, GroupFigures, per_class, per_group};
pub use public::Public;
pub use run::Run;
pub use sheet::{Sheet, SheetFormat, SheetRow, Tile};
pub use text::{counted, grouped, says_top5, with_unit};
