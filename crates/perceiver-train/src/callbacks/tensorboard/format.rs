//! TensorBoard's event file format: records of protocol-buffer messages, each with checksums.
//!
//! A record is its length (u64), the length's checksum (u32), the message, and the message's
//! checksum (u32), all little-endian. A checksum is a masked CRC-32C. Of the messages
//! `tensorflow.Event` and `tensorflow.Summary`, only the fields for scalars, histograms and texts are
//! here.

use prost::Message;

use crate::diagnostics::histogram::Histogram;

/// The `file_version` in the first message of a file.
pub(crate) const FILE_VERSION: &str = "brain.Event:2";

/// `tensorflow.Event`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorBoardEvent {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub(crate) wall_time: f64,
    #[prost(int64, tag = "2")]
    pub(crate) step: i64,
    #[prost(string, optional, tag = "3")]
    pub(crate) file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    pub(crate) summary: Option<Summary>,
}

/// `tensorflow.Summary`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Summary {
    #[prost(message, repeated, tag = "1")]
    pub(crate) value: Vec<SummaryValue>,
}

/// `tensorflow.Summary.Value`: a scalar, a histogram or a text.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "5")]
    histo: Option<HistogramProto>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<TensorProto>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<SummaryMetadata>,
}

/// `tensorflow.HistogramProto`
#[derive(Clone, PartialEq, Message)]
struct HistogramProto {
    #[prost(double, tag = "1")]
    min: f64,
    #[prost(double, tag = "2")]
    max: f64,
    #[prost(double, tag = "3")]
    num: f64,
    #[prost(double, tag = "4")]
    sum: f64,
    #[prost(double, tag = "5")]
    sum_squares: f64,
    /// The upper limits of the buckets.
    #[prost(double, repeated, tag = "6")]
    bucket_limit: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    bucket: Vec<f64>,
}

/// `tensorflow.TensorProto` of one string.
#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    tensor_shape: Option<TensorShape>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    string_val: Vec<Vec<u8>>,
}

/// `tensorflow.TensorShapeProto` without dimensions: a scalar.
#[derive(Clone, PartialEq, Message)]
struct TensorShape {}

/// `tensorflow.SummaryMetadata`
#[derive(Clone, PartialEq, Message)]
struct SummaryMetadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

/// `tensorflow.SummaryMetadata.PluginData`
#[derive(Clone, PartialEq, Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
}

/// `tensorflow.DataType.DT_STRING`
const DT_STRING: i32 = 7;

impl SummaryValue {
    /// Creates a scalar: a point of a curve.
    pub(crate) fn scalar(tag: String, value: f32) -> Self {
        Self {
            tag,
            simple_value: Some(value),
            ..Self::default()
        }
    }

    /// Creates a histogram.
    pub(crate) fn histogram(tag: String, histogram: &Histogram) -> Self {
        let Histogram {
            min,
            max,
            count,
            sum,
            sum_of_squares,
            limits,
            counts,
        } = histogram;
        Self {
            tag,
            histo: Some(HistogramProto {
                min: *min,
                max: *max,
                num: *count as f64,
                sum: *sum,
                sum_squares: *sum_of_squares,
                bucket_limit: limits.clone(),
                bucket: counts.iter().map(|count| *count as f64).collect(),
            }),
            ..Self::default()
        }
    }

    /// Creates a Markdown text for TensorBoard's text page.
    pub(crate) fn text(tag: &str, text: String) -> Self {
        Self {
            tag: tag.to_string(),
            tensor: Some(TensorProto {
                dtype: DT_STRING,
                tensor_shape: Some(TensorShape {}),
                string_val: vec![text.into_bytes()],
            }),
            metadata: Some(SummaryMetadata {
                plugin_data: Some(PluginData {
                    plugin_name: "text".to_string(),
                }),
            }),
            ..Self::default()
        }
    }
}

/// Encodes a message as a record.
pub(crate) fn record(event: &TensorBoardEvent) -> Vec<u8> {
    let message = event.encode_to_vec();
    let length = (message.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(&message);
    record.extend(masked_crc(&message).to_le_bytes());
    record
}

/// Decodes the message of the first record in `bytes`, if it is complete.
pub(crate) fn first(bytes: &[u8]) -> Option<TensorBoardEvent> {
    split_first(bytes).map(|(event, _)| event)
}

/// Decodes the message of the first record in `bytes`, if it is complete, and returns the bytes
/// after it.
pub(crate) fn split_first(bytes: &[u8]) -> Option<(TensorBoardEvent, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    if masked_crc(length) != u32::from_le_bytes(*crc) {
        return None;
    }
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (message, rest) = rest.split_at_checked(length)?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    if masked_crc(message) != u32::from_le_bytes(*crc) {
        return None;
    }
    Some((TensorBoardEvent::decode(message).ok()?, rest))
}

/// Returns the masked CRC-32C. TensorBoard rotates and offsets stored checksums, because the CRC of
/// data that contains CRCs is weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}
