//! Recognizes the `config.json` of other programs, since users name Hub models that other programs
//! made.

use serde_json::{Map, Value};

/// The `model_type` in this project's `config.json`.
pub const MODEL_TYPE: &str = "perceiver-image-classification";

/// The maximum number of fields listed for a file that does not name its origin.
const MOST_FIELDS: usize = 8;

/// Describes the content of a foreign `config.json`, and what can be loaded instead; `None` if it
/// is no JSON object or belongs to a model of this project.
///
/// ```
/// use perceiver_model::foreign_config;
///
/// let message = foreign_config(br#"{"model_type": "vit", "architectures": ["ViTForImageClassification"]}"#).unwrap();
/// assert!(message.starts_with("a transformers model (model_type \"vit\", architectures ViTForImageClassification)"));
/// assert_eq!(foreign_config(br#"{"model_type": "perceiver-image-classification"}"#), None);
/// ```
pub fn foreign_config(content: &[u8]) -> Option<String> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(content) else {
        return None;
    };
    if fields.get("model_type").and_then(Value::as_str) == Some(MODEL_TYPE) {
        return None;
    }
    let what = what_it_is(&fields);
    Some(format!(
        "{what}; this program loads model_type {MODEL_TYPE:?} with one model.safetensors, as `perceiver train` and `perceiver import-keras` \
         write them"
    ))
}

fn what_it_is(fields: &Map<String, Value>) -> String {
    let text = |field: &str| fields.get(field).and_then(Value::as_str);
    let architectures = names(fields.get("architectures"));
    match (text("model_type"), architectures) {
        (Some(kind), None) => return format!("a transformers model (model_type {kind:?})"),
        (Some(kind), Some(names)) => {
            return format!("a transformers model (model_type {kind:?}, architectures {names})");
        }
        (None, Some(names)) => return format!("a transformers model (architectures {names})"),
        (None, None) => {}
    }
    if let Some(architecture) = text("architecture") {
        return format!("a timm model (architecture {architecture:?})");
    }
    if let Some(class) = text("class_name") {
        return format!("a Keras model (class_name {class:?})");
    }
    if fields.contains_key("weight_map") {
        return "an index of weights in several files".to_string();
    }
    if fields.is_empty() {
        return "an empty JSON object".to_string();
    }
    let mut names: Vec<String> = fields.keys().take(MOST_FIELDS).cloned().collect();
    if fields.len() > MOST_FIELDS {
        names.push("...".to_string());
    }
    format!(
        "a JSON object without model_type, with fields {}",
        names.join(", ")
    )
}

/// Joins a list of strings with commas; `None` if it is no list of strings.
fn names(list: Option<&Value>) -> Option<String> {
    let texts = list?.as_array()?.iter().map(Value::as_str);
    let texts: Vec<&str> = texts.collect::<Option<_>>()?;
    (!texts.is_empty()).then(|| texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_configs_are_identified_by_their_fields() {
        for (content, expected) in [
            (
                r#"{"model_type": "vit"}"#,
                "a transformers model (model_type \"vit\")",
            ),
            (
                r#"{"architectures": ["A", "B"]}"#,
                "a transformers model (architectures A, B)",
            ),
            (
                r#"{"architecture": "vit_base_patch16_224", "num_classes": 1000}"#,
                "a timm model (architecture \"vit_base_patch16_224\")",
            ),
            (
                r#"{"module": "keras", "class_name": "Functional"}"#,
                "a Keras model (class_name \"Functional\")",
            ),
            (
                r#"{"weight_map": {}}"#,
                "an index of weights in several files",
            ),
            ("{}", "an empty JSON object"),
            (
                r#"{"x": 1, "y": 2}"#,
                "a JSON object without model_type, with fields x, y",
            ),
            (
                r#"{"model_type": 3}"#,
                "a JSON object without model_type, with fields model_type",
            ),
        ] {
            let message = foreign_config(content.as_bytes()).unwrap();
            assert!(message.starts_with(&format!("{expected};")), "{message}");
        }
    }

    #[test]
    fn own_and_non_object_configs_are_left_to_the_parser() {
        for content in [
            "",
            "[]",
            "{",
            r#"{"model_type": "perceiver-image-classification"}"#,
        ] {
            assert_eq!(foreign_config(content.as_bytes()), None, "{content}");
        }
    }
}
