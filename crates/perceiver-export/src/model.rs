//! An exported model: builds the graph of a configuration and weights, and writes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use perceiver_data::CHANNELS;
use perceiver_model::{Architecture, ModelConfig, Parameters};
use prost::Message;

use crate::error::{ExportError, Result};
use crate::metadata::OnnxMetadata;
use crate::onnx::attribute;
use crate::onnx::graph::{Graph, Value};
use crate::onnx::proto::{
    DataType, Dimension, GraphProto, ModelProto, OperatorSetIdProto, ValueInfoProto,
};
use crate::onnx::tensor::length;
use crate::onnx::write::{self, MAX_MESSAGE_BYTES};
use crate::options::ExportOptions;
use crate::perceiver::perceiver;
use crate::perceiver_io::perceiver_io;
use crate::preprocessing::{map, preprocess};
use crate::weights::Weights;

/// The version of the format that belongs to [`OnnxModel::OPSET`].
const IR_VERSION: i64 = 8;

/// A model as ONNX.
#[derive(Clone, Debug)]
pub struct OnnxModel(ModelProto);

impl OnnxModel {
    /// The version of the standard operators that files need: the first with `LayerNormalization`.
    pub const OPSET: i64 = 17;

    /// Exports a model.
    ///
    /// # Errors
    /// [`ExportError::UnknownModel`] for a model of another program; when the weights or the
    /// preprocessing do not fit the configuration; and when a weight is too large for the precision.
    pub fn new(
        model: &ModelConfig,
        parameters: &Parameters,
        options: &ExportOptions,
        metadata: &OnnxMetadata,
    ) -> Result<Self> {
        Ok(Self(ModelProto {
            ir_version: Some(IR_VERSION),
            producer_name: Some("perceiver".to_string()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_string()),
            graph: Some(graph(model, parameters, options)?),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(Self::OPSET),
            }],
            metadata_props: metadata.entries(model)?,
        }))
    }

    /// Encodes the model as one file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// Writes the model to `path`, and if it takes more than 2 GB, the weights to a second file with
    /// the ending `.data`, which belongs beside it. Returns the paths of the files.
    ///
    /// # Errors
    /// [`ExportError::Exists`] when there is such a file already, and when it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        self.write_within(path, MAX_MESSAGE_BYTES)
    }

    /// [`OnnxModel::write`] with another limit of the size of the first file, in bytes.
    ///
    /// # Errors
    /// As for [`OnnxModel::write`].
    pub fn write_within(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<PathBuf>> {
        write::write(&self.0, path.as_ref(), limit)
    }

    /// Returns the number of nodes by operator, those in branches included.
    pub fn operators(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        self.0
            .graph
            .iter()
            .for_each(|graph| count(graph, &mut counts));
        counts
    }
}

fn count<'a>(graph: &'a GraphProto, counts: &mut BTreeMap<&'a str, usize>) {
    for node in &graph.node {
        *counts
            .entry(node.op_type.as_deref().unwrap_or_default())
            .or_default() += 1;
        let branches = node
            .attribute
            .iter()
            .filter_map(|attribute| attribute.g.as_ref());
        branches.for_each(|branch| count(branch, counts));
    }
}

/// Builds the graph.
fn graph(
    model: &ModelConfig,
    parameters: &Parameters,
    options: &ExportOptions,
) -> Result<GraphProto> {
    if let ModelConfig::Custom(custom) = model {
        let found = custom.name().to_string();
        return Err(ExportError::UnknownModel { found });
    }
    model.validate()?;
    let weights = Weights::new(parameters)?;
    let mut graph = Graph::new(options.precision);
    let (input, images) = input(&mut graph, model, options)?;
    let images = if options.flip_average {
        let mirrored = map::mirrored(&mut graph, &images);
        map::one_batch(&mut graph, &images, &mirrored)
    } else {
        images
    };
    let images = graph.in_precision(&images);
    let logits = match model {
        ModelConfig::Perceiver(config) => perceiver(&mut graph, config, &weights, &images)?,
        ModelConfig::PerceiverIo(config) => perceiver_io(&mut graph, config, &weights, &images)?,
        ModelConfig::Custom(_) => images, // rejected above
    };
    let logits = graph.in_single(&logits);
    let result = result(&mut graph, options, model.num_classes(), &logits);
    let name = if options.softmax {
        "probabilities"
    } else {
        "logits"
    };
    let dims = vec![batch(), Dimension::Value(length(model.num_classes()))];
    let output = ValueInfoProto::tensor(name, DataType::Float, dims);
    Ok(graph.finish(&result, vec![input], output))
}

fn batch() -> Dimension {
    Dimension::Param("batch".to_string())
}

/// Returns the input of the graph, and adds the images that the model takes, f32
/// `[batch, channels, size, size]`.
fn input(
    graph: &mut Graph,
    model: &ModelConfig,
    options: &ExportOptions,
) -> Result<(ValueInfoProto, Value)> {
    let (size, channels) = (model.image_size(), model.channels());
    let Some(preprocessing) = &options.preprocessing else {
        let sides = [channels, size, size].map(|side| Dimension::Value(length(side)));
        let dims = std::iter::once(batch()).chain(sides).collect();
        let input = ValueInfoProto::tensor("input", DataType::Float, dims);
        return Ok((input, Value::input("input")));
    };
    let found = preprocessing.steps.image_size;
    if found != size {
        let expected = size;
        return Err(ExportError::ImageSize { expected, found });
    }
    if channels != CHANNELS {
        return Err(ExportError::Channels { found: channels });
    }
    let sides = ["height", "width"].map(|side| Dimension::Param(side.to_string()));
    let [height, width] = sides;
    let dims = vec![batch(), height, width, Dimension::Value(3)];
    let input = ValueInfoProto::tensor("images", DataType::Uint8, dims);
    let images = preprocess(graph, preprocessing, &Value::input("images"))?;
    Ok((input, images))
}

/// Adds the result: logits or probabilities, or those of images and mirror images together.
fn result(graph: &mut Graph, options: &ExportOptions, classes: usize, logits: &Value) -> Value {
    if !options.flip_average {
        return if options.softmax {
            graph.softmax(logits)
        } else {
            logits.clone()
        };
    }
    let both = graph.reshape(logits, &[2, -1, length(classes)]); // [2, batch, classes]
    if options.softmax {
        let both = graph.softmax(&both);
        let attributes = vec![attribute::ints("axes", &[0]), attribute::int("keepdims", 0)];
        return graph.node("ReduceMean", [&both], attributes);
    }
    // The logarithm of the mean, with the higher of the two factored out.
    let both = graph.node("LogSoftmax", [&both], vec![attribute::int("axis", -1)]);
    let [first, second] = [0, 1].map(|view| {
        let view = graph.int(view);
        graph.node("Gather", [&both, &view], vec![attribute::int("axis", 0)])
    });
    let higher = graph.op("Max", [&first, &second]);
    let [first, second] = [first, second].map(|view| {
        let less = graph.op("Sub", [&view, &higher]);
        graph.op("Exp", [&less])
    });
    let (sum, half) = (graph.op("Add", [&first, &second]), graph.single(0.5));
    let mean = graph.op("Mul", [&sum, &half]);
    let mean = graph.op("Log", [&mean]);
    graph.op("Add", [&higher, &mean])
}
