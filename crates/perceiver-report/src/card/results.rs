//! The front matter of a model card: written, and its results parsed.

use perceiver_train::TestResults;
use serde::{Deserialize, Serialize};

use crate::card::{Card, CardError, hub_dataset};

/// The type of the accuracy metric on the Hub.
const ACCURACY: &str = "accuracy";

#[derive(Serialize, Deserialize)]
struct FrontMatter {
    #[serde(default)]
    license: String,
    #[serde(default)]
    library_name: String,
    #[serde(default)]
    pipeline_tag: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    datasets: Vec<String>,
    #[serde(default, rename = "model-index", skip_serializing_if = "Vec::is_empty")]
    model_index: Vec<Model>,
}

#[derive(Serialize, Deserialize)]
struct Model {
    name: String,
    results: Vec<Outcome>,
}

#[derive(Serialize, Deserialize)]
struct Outcome {
    task: Named,
    dataset: Named,
    metrics: Vec<Metric>,
}

#[derive(Serialize, Deserialize)]
struct Named {
    r#type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    split: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Metric {
    r#type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    value: f64,
}

/// The results in the front matter of any model card; everything else is ignored.
#[derive(Deserialize)]
struct Claims {
    #[serde(default, rename = "model-index")]
    model_index: Option<Vec<ClaimingModel>>,
}

#[derive(Deserialize)]
struct ClaimingModel {
    #[serde(default)]
    results: Vec<ClaimedOutcome>,
}

#[derive(Deserialize)]
struct ClaimedOutcome {
    #[serde(default)]
    metrics: Vec<ClaimedMetric>,
}

#[derive(Deserialize)]
struct ClaimedMetric {
    r#type: String,
    #[serde(default)]
    value: Option<Value>,
}

/// A metric value, as authors write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Number(f64),
    Text(String),
}

/// Renders the front matter of a card, including its `---` lines.
pub(crate) fn front_matter(card: &Card) -> Result<String, CardError> {
    let dataset = card.config.data.dataset.as_ref();
    let hub = dataset.and_then(hub_dataset).map(str::to_string);
    let mut tags = ["perceiver", "image-classification", "rust", "candle"].map(String::from);
    tags.sort();
    let matter = FrontMatter {
        license: card.license.to_string(),
        library_name: "perceiver".to_string(),
        pipeline_tag: "image-classification".to_string(),
        tags: tags.to_vec(),
        datasets: hub.iter().cloned().collect(),
        model_index: card
            .results
            .map(|results| model(card.repo, hub, results))
            .into_iter()
            .collect(),
    };
    let yaml =
        serde_saphyr::to_string(&matter).map_err(|error| CardError::Yaml(error.to_string()))?;
    Ok(format!("---\n{}\n---", yaml.trim_end()))
}

fn model(repo: &str, hub: Option<String>, results: &TestResults) -> Model {
    let name = repo.rsplit('/').next().unwrap_or(repo).to_string();
    // The name of a local data set is its path, which is private.
    let local = match hub {
        Some(_) => results.dataset.clone(),
        None if results.dataset == "shapes" => "shapes".to_string(),
        None => "own images".to_string(),
    };
    // The type is the metric's name on the Hub. Results of earlier versions lack some.
    let metrics = [
        (ACCURACY, "Accuracy", Some(results.acc)),
        (
            "balanced_accuracy",
            "Balanced accuracy",
            results.balanced_acc,
        ),
        ("f1", "Macro F1", results.macro_f1),
        ("top_5_accuracy", "Top-5 accuracy", Some(results.top5_acc)),
        ("loss", "Cross-entropy, in nats", Some(results.loss)),
    ];
    let metrics = metrics.into_iter().filter_map(|(r#type, name, value)| {
        Some(Metric {
            r#type: r#type.to_string(),
            name: Some(name.to_string()),
            value: value?,
        })
    });
    Model {
        name,
        results: vec![Outcome {
            task: Named {
                r#type: "image-classification".to_string(),
                name: Some("Image classification".to_string()),
                split: None,
            },
            dataset: Named {
                r#type: hub.unwrap_or_else(|| local.clone()),
                name: Some(local),
                split: Some("test".to_string()),
            },
            metrics: metrics.collect(),
        }],
    }
}

/// Parses the accuracies that a card claims, from 0 to 1. A number above 1, or with a percent sign,
/// counts as a percentage.
///
/// # Errors
/// When the front matter is not valid YAML, or an accuracy is not a number.
pub fn claimed_accuracies(card: &str) -> Result<Vec<f64>, CardError> {
    let Some(yaml) = yaml_of(card) else {
        return Ok(Vec::new());
    };
    let wrong = |finding: String| CardError::FrontMatter { finding };
    let claims: Claims = serde_saphyr::from_str(yaml).map_err(|error| wrong(error.to_string()))?;
    let models = claims.model_index.unwrap_or_default();
    let metrics = models
        .into_iter()
        .flat_map(|model| model.results)
        .flat_map(|result| result.metrics)
        .filter(|metric| metric.r#type == ACCURACY);
    metrics
        .map(|metric| match metric.value {
            Some(Value::Number(number)) => Ok(as_share(number)),
            Some(Value::Text(text)) => {
                let (number, unit) = match text.trim().strip_suffix('%') {
                    Some(number) => (number.trim(), 100.0),
                    None => (text.trim(), 1.0),
                };
                let number: f64 = number
                    .parse()
                    .map_err(|_| wrong(format!("an accuracy of {text:?}")))?;
                Ok(if unit > 1.0 {
                    number / unit
                } else {
                    as_share(number)
                })
            }
            None => Err(wrong("an accuracy without a value".to_string())),
        })
        .collect()
}

fn as_share(number: f64) -> f64 {
    if number > 1.0 { number / 100.0 } else { number }
}

/// Returns the text between the two `---` lines.
fn yaml_of(card: &str) -> Option<&str> {
    let card = card.trim_start_matches('\u{feff}');
    let first = card.lines().next()?;
    if first.trim_end() != "---" {
        return None;
    }
    let rest = card.split_once('\n')?.1;
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return rest.get(..at);
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(value: &str) -> Result<Vec<f64>, CardError> {
        claimed_accuracies(&format!(
            "---\nlicense: mit\nodd: [1, {{a: b}}]\nmodel-index:\n- name: x\n  results:\n  - task: {{type: t}}\n    metrics:\n    - {{type: accuracy, value: {value}}}\n    - {{type: loss, value: 3}}\n---\n# x\n---\n"
        ))
    }

    #[test]
    fn common_accuracy_formats_are_parsed() {
        assert_eq!(claimed("0.556").unwrap(), [0.556]);
        assert_eq!(claimed("55.6").unwrap(), [0.556]);
        assert_eq!(claimed("\"55.6 %\"").unwrap(), [0.556]);
        assert_eq!(claimed("1.0").unwrap(), [1.0]);
        assert!(claimed("high").is_err());
    }

    #[test]
    fn cards_without_results_have_no_metrics() {
        for card in [
            "# x",
            "",
            "---\nlicense: mit\n---\n# x",
            "---\nnever: closed\n",
        ] {
            assert_eq!(claimed_accuracies(card).unwrap(), [0.0; 0], "{card}");
        }
        assert!(claimed_accuracies("---\na: [\n---\n").is_err());
    }
}
