//! The example images of a report. The choice depends on the predictions alone.

use perceiver_data::Samples;
use perceiver_train::{Checkpoint, Prediction};

use crate::attention::overlay::map_address;
use crate::attention::{Attention, Latents, Show};
use crate::data_url::data_address;
use crate::error::Result;
use crate::text::percent;

/// The number of images each of correct and wrong predictions.
const OF_EACH_KIND: usize = 12;

/// The number of images of each kind with attention maps.
const ATTENTION_EXAMPLES: usize = 3;

/// The number of single latents shown beside the mean.
const SINGLE_LATENTS: usize = 3;

/// An image with its prediction.
pub(crate) struct Shown {
    /// The image as a `data:` URL; none where there is no room for it.
    pub(crate) address: Option<String>,
    /// The cell of the confusion matrix: `LABEL-PREDICTED`, in numbers of classes.
    pub(crate) cell: String,
    /// The identifier: the name, or the index in the test images.
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) predicted: String,
    pub(crate) right: bool,
    pub(crate) percent: String,
    pub(crate) label_percent: String,
}

/// The attention maps of an image.
pub(crate) struct AttentionExample {
    pub(crate) picture: Shown,
    pub(crate) iterations: Vec<CrossAttentionMaps>,
}

/// The maps of one cross-attention, counted from 1.
pub(crate) struct CrossAttentionMaps {
    pub(crate) number: usize,
    pub(crate) maps: Vec<NamedMap>,
    /// Why there are fewer single latents than usual; empty if there are not.
    pub(crate) missing: String,
}

/// A map to overlay on the image.
pub(crate) struct NamedMap {
    pub(crate) name: String,
    /// The highest attention weight of a patch, in percent.
    pub(crate) peak: String,
    pub(crate) address: String,
}

/// The test images and their names.
pub(crate) struct Test<'a> {
    images: &'a Samples,
    names: Option<Vec<String>>,
}

impl<'a> Test<'a> {
    pub(crate) fn new(images: &'a Samples) -> Result<Self> {
        let names = images.image_names()?;
        Ok(Self { images, names })
    }

    fn name_of(&self, image: usize) -> String {
        let name = self.names.as_ref().and_then(|names| names.get(image));
        name.cloned()
            .unwrap_or_else(|| format!("test image {image}"))
    }
}

impl Shown {
    pub(crate) fn new(
        prediction: &Prediction,
        test: &Test<'_>,
        classes: &[String],
    ) -> Result<Self> {
        Ok(Self {
            address: Some(data_address(&test.images.image(prediction.image)?)?),
            ..Self::name_only(prediction, test, classes)
        })
    }

    /// The prediction without its image.
    pub(crate) fn name_only(prediction: &Prediction, test: &Test<'_>, classes: &[String]) -> Self {
        let name = |class: u32| classes[class as usize].clone();
        Self {
            address: None,
            cell: format!("{}-{}", prediction.label, prediction.predicted),
            name: test.name_of(prediction.image),
            label: name(prediction.label),
            predicted: name(prediction.predicted),
            right: prediction.is_right(),
            percent: percent(f64::from(prediction.probability)),
            label_percent: percent(f64::from(prediction.label_probability)),
        }
    }
}

/// Selects the most confident wrong predictions, and correct ones spread over the test images.
pub(crate) fn wrong_and_right(
    predictions: &[Prediction],
    test: &Test<'_>,
    classes: &[String],
) -> Result<(Vec<Shown>, Vec<Shown>)> {
    let shown = |chosen: Vec<&Prediction>| -> Result<Vec<Shown>> {
        let chosen = chosen.into_iter();
        chosen
            .map(|prediction| Shown::new(prediction, test, classes))
            .collect()
    };
    Ok((
        shown(wrong(predictions, OF_EACH_KIND))?,
        shown(right(predictions, OF_EACH_KIND))?,
    ))
}

/// Returns the wrong predictions in descending order of confidence; ties in order of images.
fn wrong(predictions: &[Prediction], most: usize) -> Vec<&Prediction> {
    let mut wrong: Vec<_> = predictions
        .iter()
        .filter(|prediction| !prediction.is_right())
        .collect();
    wrong.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    wrong.truncate(most);
    wrong
}

/// Returns evenly spaced correct predictions.
fn right(predictions: &[Prediction], most: usize) -> Vec<&Prediction> {
    let right: Vec<_> = predictions
        .iter()
        .filter(|prediction| prediction.is_right())
        .collect();
    let count = most.min(right.len());
    (0..count)
        .map(|at| right[at * right.len() / count])
        .collect()
}

/// Computes attention maps for correct and wrong predictions.
pub(crate) fn attention_examples(
    predictions: &[Prediction],
    test: &Test<'_>,
    checkpoint: &Checkpoint,
) -> Result<Vec<AttentionExample>> {
    let chosen = [
        right(predictions, ATTENTION_EXAMPLES),
        wrong(predictions, ATTENTION_EXAMPLES),
    ]
    .concat();
    chosen
        .into_iter()
        .map(|prediction| {
            let image = test.images.image(prediction.image)?;
            let attention = Attention::of(checkpoint, &image)?;
            let mut picture = Shown::name_only(prediction, test, &checkpoint.config.classes);
            // CrossAttentionMaps overlay the preprocessed image, which is what the model sees.
            let framed = checkpoint.config.preprocessing.framed(&image)?;
            picture.address = Some(data_address(&framed)?);
            Ok(AttentionExample {
                picture,
                iterations: (1..=attention.iterations())
                    .map(|number| maps(&attention, number))
                    .collect::<Result<_>>()?,
            })
        })
        .collect()
}

fn maps(attention: &Attention, number: usize) -> Result<CrossAttentionMaps> {
    let named = |name: String, latents: Latents| -> Result<NamedMap> {
        let map = attention.map(number, latents, Show::Probabilities)?;
        Ok(NamedMap {
            name,
            peak: percent(f64::from(map.peak().1)),
            address: map_address(&map)?,
        })
    };
    let mut maps = vec![named("mean".to_string(), Latents::Mean)?];
    for latent in attention.sharpest(number, SINGLE_LATENTS)? {
        maps.push(named(format!("latent {latent}"), Latents::One(latent))?);
    }
    let shown = maps.len() - 1;
    let missing = match attention.latents() {
        latents if shown == SINGLE_LATENTS.min(latents) => String::new(),
        _ if shown == 1 => "All latents attend most to the same patch as this one.".to_string(),
        _ => format!("All other latents attend most to the same patch as one of these {shown}."),
    };
    Ok(CrossAttentionMaps {
        number,
        maps,
        missing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::prediction;

    #[test]
    fn errors_are_sorted_by_confidence_and_correct_ones_are_spread_out() {
        let mut predictions: Vec<Prediction> = (0..40)
            .map(|image| Prediction {
                image,
                ..prediction((0, u32::from(image % 4 == 0)))
            })
            .collect();
        predictions[8].probability = 0.9;
        let images = |chosen: Vec<&Prediction>| -> Vec<usize> {
            chosen.iter().map(|prediction| prediction.image).collect()
        };
        assert_eq!(images(wrong(&predictions, 3)), [8, 0, 4]);
        assert_eq!(images(right(&predictions, 3)), [1, 14, 27]);
        assert!(right(&[], 3).is_empty());
        assert_eq!(right(&predictions, 99).len(), 30);
    }
}
