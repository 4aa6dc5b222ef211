//! Options of nodes.

use crate::onnx::proto::{AttributeProto, AttributeType, DataType, GraphProto};

/// Creates an option with an integer.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        i: Some(value),
        ..named(name, AttributeType::Int)
    }
}

/// Creates an option with a list of integers.
pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: values.to_vec(),
        ..named(name, AttributeType::Ints)
    }
}

/// Creates an option with a number.
pub(crate) fn float(name: &str, value: f64) -> AttributeProto {
    AttributeProto {
        f: Some(value as f32),
        ..named(name, AttributeType::Float)
    }
}

/// Creates an option with the type of a result.
pub(crate) fn data_type(name: &str, value: DataType) -> AttributeProto {
    int(name, i64::from(i32::from(value)))
}

/// Creates an option with a graph.
pub(crate) fn graph(name: &str, value: GraphProto) -> AttributeProto {
    AttributeProto {
        g: Some(value),
        ..named(name, AttributeType::Graph)
    }
}

fn named(name: &str, of: AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_string()),
        r#type: Some(of.into()),
        ..AttributeProto::default()
    }
}
