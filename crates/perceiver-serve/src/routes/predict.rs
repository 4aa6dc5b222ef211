//! `POST /predict`: images to class probabilities.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use futures_util::future::try_join_all;
use perceiver_train::ClassProbability;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::http::api_error::ApiError;
use crate::http::json::Json;
use crate::inference::attention::{AttentionMaps, ShownMap};
use crate::inference::decode::Prepared;
use crate::inference::queue::{Classified, gone};
use crate::state::AppState;
use crate::upload::{Form, body};

/// The query of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The number of classes in the answer.
    top_k: Option<usize>,
    /// Whether to answer with attention maps.
    #[serde(default)]
    attention: bool,
}

/// An answer, with its own copies of the names of classes.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    model: String,
    predictions: Vec<Prediction>,
}

/// The prediction for an image, in the form of `perceiver predict --json`.
#[derive(Debug, Serialize)]
struct Prediction {
    image: String,
    width: usize,
    height: usize,
    classes: Vec<Class>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<ShownAttention>,
}

#[derive(Debug, Serialize)]
struct Class {
    class: String,
    probability: f32,
}

#[derive(Debug, Serialize)]
struct ShownAttention {
    /// What the model sees of the image, as a `data:` URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    maps: Vec<ShownMap>,
}

/// Classifies the images of a request.
///
/// The steps: read the body, take a place in the queue, decode and preprocess beside the executor,
/// wait for the model.
pub(crate) async fn predict(
    State(state): State<Arc<AppState>>,
    options: Result<Query<Options>, QueryRejection>,
    request: Request,
) -> Result<Json<Answer>, ApiError> {
    let Query(options) = options.map_err(|error| ApiError::Query {
        finding: error.body_text(),
    })?;
    if options.top_k == Some(0) {
        let finding = "top_k: expected at least 1, found 0".to_string();
        return Err(ApiError::Query { finding });
    }
    let limit = state.config.limits.timeout;
    let answer = tokio::time::timeout(limit, classify(&state, &options, request)).await;
    answer
        .unwrap_or(Err(ApiError::Timeout {
            seconds: limit.as_secs(),
        }))
        .map(Json)
}

async fn classify(
    state: &Arc<AppState>,
    options: &Options,
    request: Request,
) -> Result<Answer, ApiError> {
    let (head, body) = request.into_parts();
    let form = Form::of(&head.headers)?;
    let body = body::read(&head.headers, body, &state.config.limits, &state.body_kib).await?;

    let first = state.queue.take_places(1)?;
    let (sender, places) = oneshot::channel();
    let admitting = Arc::clone(state);
    let admit = move |images: usize| {
        let mut places = first;
        if images > 1 {
            places.extend(admitting.queue.take_places(images - 1)?);
        }
        let _ = sender.send(places); // dropped with the request
        Ok(())
    };
    let prepared = state
        .decode
        .run(form, body, options.attention, admit)
        .await?;
    let places = places.await.map_err(|_| gone())?;

    let waiting = prepared
        .into_iter()
        .zip(places)
        .map(|(image, place)| async move {
            let result = state
                .queue
                .send(image.input.clone(), options.attention, place)?;
            let classified = result.await.map_err(|_| gone())??;
            Ok((image, classified))
        });
    let classified = try_join_all(waiting).await?;
    let with_attention = options.attention;
    let k = options.top_k.unwrap_or(state.config.top_k);
    let describing = Arc::clone(state);
    let describe = move || {
        let predictions = classified
            .into_iter()
            .map(|(image, found)| prediction(&describing, image, found, k));
        predictions.collect::<Result<Vec<_>, _>>()
    };
    // Maps are encoded as PNG, which is no work for the executor.
    let predictions = if with_attention {
        tokio::task::spawn_blocking(describe)
            .await
            .unwrap_or_else(|_| Err(gone()))?
    } else {
        describe()?
    };
    Ok(Answer {
        model: state.config.name.clone(),
        predictions,
    })
}

fn prediction(
    state: &AppState,
    image: Prepared,
    found: Classified,
    k: usize,
) -> Result<Prediction, ApiError> {
    let top = state.predictor.top_classes(&found.probabilities, k);
    let class = |ClassProbability { class, probability }: ClassProbability<'_>| Class {
        class: class.to_string(),
        probability,
    };
    let (height, width) = image.size;
    let maps = found.attention.map(AttentionMaps::shown).transpose()?;
    Ok(Prediction {
        image: image.name,
        width,
        height,
        classes: top.map(class).collect(),
        attention: maps.map(|maps| ShownAttention {
            image: image.thumbnail,
            maps,
        }),
    })
}
