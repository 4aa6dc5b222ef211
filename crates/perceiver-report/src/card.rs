//! The model card: the `README.md` of a model on the Hugging Face Hub.
//!
//! Its front matter is YAML that the Hub parses: license, data set, and the results as
//! `model-index`. The text below it comes from the template `templates/card.md`. Text from users,
//! such as class names, is escaped.

pub(crate) mod markdown;
pub(crate) mod redaction;
pub(crate) mod results;

use askama::Template;
use perceiver_data::Source;
use perceiver_model::Architecture;
use perceiver_train::{CheckpointConfig, EpochMetrics, Recipe, TestResults};

use crate::card::markdown::{escaped, fenced};
use crate::card::results::front_matter;
use crate::run::REPEAT;
use crate::text::{counted, grouped, says_top5};

/// The maximum number of epochs in the table of metrics.
const ROWS: usize = 12;

/// The maximum number of class names listed.
const NAMED_CLASSES: usize = 200;

/// The content of a model card. [`Public`](crate::Public) removes private paths from it beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Card<'a> {
    /// The repository, `USER/NAME`.
    pub repo: &'a str,
    /// The license by its identifier on the Hub, such as `mit`.
    pub license: &'a str,
    /// The checkpoint's `config.json`.
    pub config: &'a CheckpointConfig,
    /// The number of parameters.
    pub parameters: usize,
    /// The test results, if any.
    pub results: Option<&'a TestResults>,
    /// The metrics of each epoch, if known.
    pub history: &'a [EpochMetrics],
    /// The recipe of the training, if known.
    pub recipe: Option<&'a Recipe>,
}

/// Errors of writing or parsing a model card.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// The YAML front matter could not be serialized.
    #[error("front matter of the model card: {0}")]
    Yaml(String),
    /// The template or the recipe could not be rendered.
    #[error("model card: {0}")]
    Text(String),
    /// The front matter is not valid YAML, or not that of a model.
    #[error("README.md: expected the YAML front matter of a model card, found {finding}")]
    FrontMatter {
        /// The parse error.
        finding: String,
    },
}

/// The fields of the template, already escaped: askama has no Markdown escaper.
#[derive(Template)]
#[template(path = "card.md", escape = "none")]
struct Page {
    front_matter: String,
    title: String,
    repo: String,
    image_size: usize,
    parameters: String,
    data: String,
    train_images: usize,
    class_count: usize,
    classes: String,
    results: Option<ResultFigures>,
    epochs: Vec<Epoch>,
    all_epochs: usize,
    counted_epochs: String,
    says_top5: bool,
    command: &'static str,
    recipe: Option<String>,
    flip_average: bool,
    version: String,
}

struct ResultFigures {
    images: u64,
    split: &'static str,
    loss: String,
    acc: String,
    acc_interval: String,
    balanced_acc: Option<String>,
    macro_f1: Option<String>,
    top5: String,
    top5_interval: String,
}

/// A row of the table of metrics.
struct Epoch {
    number: usize,
    loss: String,
    acc: String,
    val_loss: String,
    val_acc: String,
    bar: String,
}

impl Card<'_> {
    /// Renders the card as Markdown with YAML front matter.
    ///
    /// # Errors
    /// When the front matter, the recipe or the template cannot be rendered.
    pub fn render(&self) -> Result<String, CardError> {
        let config = self.config;
        let data = match &config.data.dataset {
            Some(source) => describe_data(source),
            None => "a data set that the checkpoint does not name".to_string(),
        };
        let page = Page {
            front_matter: front_matter(self)?,
            title: escaped(self.repo),
            repo: self.repo.to_string(),
            image_size: config.model.image_size(),
            parameters: grouped(self.parameters),
            data,
            train_images: config.data.train_images,
            class_count: config.classes.len(),
            classes: class_names(&config.classes),
            results: self.results.map(ResultFigures::new),
            epochs: shown_epochs(self.history),
            all_epochs: self.history.len(),
            counted_epochs: counted(self.history.len(), "epoch"),
            says_top5: says_top5(config.classes.len()),
            command: REPEAT,
            recipe: self.recipe.map(recipe_block).transpose()?,
            flip_average: config.data.flip_average,
            version: escaped(&config.perceiver_version),
        };
        page.render()
            .map_err(|error| CardError::Text(error.to_string()))
    }
}

/// Returns the repository of a data set on the Hub, if it is there.
pub(crate) fn hub_dataset(source: &Source) -> Option<&str> {
    match source {
        Source::Cifar100 => Some("uoft-cs/cifar100"),
        Source::Cifar10 => Some("uoft-cs/cifar10"),
        Source::Hub { repo, .. } => Some(repo),
        Source::Shapes | Source::Folder(_) | Source::Shards { .. } | Source::Memory(_) => None,
    }
}

fn describe_data(source: &Source) -> String {
    match (hub_dataset(source), source) {
        (Some(repo), _) => {
            let shown = escaped(repo);
            format!("[{shown}](https://huggingface.co/datasets/{repo})")
        }
        (None, Source::Shapes) => {
            "`shapes`, the generated images embedded in the program".to_string()
        }
        // A local path reveals details of this machine and is useless to others.
        (None, _) => "images of its author".to_string(),
    }
}

fn class_names(classes: &[String]) -> String {
    let shown = classes.iter().take(NAMED_CLASSES);
    let mut names = shown
        .map(|name| escaped(name))
        .collect::<Vec<_>>()
        .join(", ");
    if classes.len() > NAMED_CLASSES {
        names.push_str(", ...");
    }
    names
}

fn recipe_block(recipe: &Recipe) -> Result<String, CardError> {
    let text = recipe.to_toml();
    let text = text.map_err(|error| CardError::Text(error.to_string()))?;
    Ok(fenced("toml", &text))
}

impl ResultFigures {
    fn new(results: &TestResults) -> Self {
        let interval = |[low, high]: [f64; 2]| format!("{:.2} to {:.2}", 100.0 * low, 100.0 * high);
        Self {
            images: results.images,
            split: results.split_description(),
            loss: format!("{:.4}", results.loss),
            acc: percent(results.acc),
            acc_interval: interval(results.acc_interval_95),
            balanced_acc: results.balanced_acc.map(percent),
            macro_f1: results.macro_f1.map(percent),
            top5: percent(results.top5_acc),
            top5_interval: interval(results.top5_acc_interval_95),
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}%", 100.0 * share)
}

/// Returns up to `ROWS` evenly spaced epochs, the first and the last included.
fn shown_epochs(history: &[EpochMetrics]) -> Vec<Epoch> {
    let count = history.len().min(ROWS);
    let last = history.len().saturating_sub(1);
    let rows = (0..count).map(|row| row * last / count.saturating_sub(1).max(1));
    rows.filter_map(|at| history.get(at))
        .map(|metrics| Epoch {
            number: metrics.epoch,
            loss: format!("{:.4}", metrics.loss),
            acc: percent(metrics.acc),
            val_loss: format!("{:.4}", metrics.val_loss),
            val_acc: percent(metrics.val_acc),
            bar: "█".repeat((20.0 * metrics.val_acc.clamp(0.0, 1.0)).round() as usize),
        })
        .collect()
}
