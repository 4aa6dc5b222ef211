//! A graph under construction: nodes are added in the order in which they are computed.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;

use candle_core::Tensor;

use crate::error::Result;
use crate::onnx::attribute;
use crate::onnx::proto::{
    AttributeProto, DataType, GraphProto, NodeProto, TensorProto, ValueInfoProto,
};
use crate::onnx::tensor::{self, length};
use crate::options::OnnxPrecision;

/// A value of a graph: an input, a constant, or the result of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value(String);

impl Value {
    /// Returns the name of the value.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// Creates the value of an input.
    pub(crate) fn input(name: &str) -> Self {
        Self(name.to_string())
    }
}

/// The nodes and constants so far.
#[derive(Debug)]
pub(crate) struct Graph {
    /// The precision of weights and activations.
    precision: OnnxPrecision,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    /// The names of the constants: each is added once.
    known: HashSet<String>,
    /// The layers that are being built, outermost first, for the names of nodes.
    scopes: Vec<String>,
    /// The number of results by the first part of their names.
    counts: HashMap<String, usize>,
}

impl Graph {
    pub(crate) fn new(precision: OnnxPrecision) -> Self {
        Self {
            precision,
            nodes: Vec::new(),
            constants: Vec::new(),
            known: HashSet::new(),
            scopes: Vec::new(),
            counts: HashMap::new(),
        }
    }

    /// Adds a node without options, and returns its result.
    pub(crate) fn op<const N: usize>(&mut self, operator: &str, inputs: [&Value; N]) -> Value {
        self.node(operator, inputs, Vec::new())
    }

    /// Adds a node, and returns its result.
    pub(crate) fn node<const N: usize>(
        &mut self,
        operator: &str,
        inputs: [&Value; N],
        attributes: Vec<AttributeProto>,
    ) -> Value {
        let name = self.fresh(operator);
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: vec![name.clone()],
            name: Some(name.clone()),
            op_type: Some(operator.to_string()),
            attribute: attributes,
        });
        Value(name)
    }

    /// Builds the nodes of a layer, whose names begin with that of the layer.
    pub(crate) fn scoped<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        self.scopes.push(name.to_string());
        let built = build(self);
        self.scopes.pop();
        built
    }

    /// Builds a graph for one of the branches of an `If`. It may use all values so far.
    pub(crate) fn branch(&mut self, build: impl FnOnce(&mut Self) -> Value) -> GraphProto {
        let outer = std::mem::take(&mut self.nodes);
        let result = build(self);
        // The result of a branch must be of its own nodes.
        let result = self.op("Identity", [&result]);
        GraphProto {
            node: std::mem::replace(&mut self.nodes, outer),
            name: Some(self.fresh("branch")),
            output: vec![ValueInfoProto::untyped(result.name())],
            ..GraphProto::default()
        }
    }

    /// Returns a name that no value has.
    fn fresh(&mut self, last: &str) -> String {
        let mut name = String::new();
        for scope in &self.scopes {
            name.push_str(scope);
            name.push('/');
        }
        name.push_str(last);
        let count = self.counts.entry(name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            let _ = write!(name, "_{count}"); // a String takes all
        }
        name
    }

    /// Returns the constant `name` with the values of a weight, in the precision of the graph. A
    /// constant of that name that is there already is used again.
    pub(crate) fn weight(
        &mut self,
        name: &str,
        tensor: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Value> {
        if !self.known.contains(name) {
            let constant = tensor::of_weight(name, &tensor()?, self.precision)?;
            self.known.insert(name.to_string());
            self.constants.push(constant);
        }
        Ok(Value(name.to_string()))
    }

    /// Returns a list of integers, such as the argument of a `Reshape`.
    pub(crate) fn ints(&mut self, values: &[i64]) -> Value {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let name = format!("ints{values:?}");
        self.constant(name, DataType::Int64, vec![length(values.len())], bytes)
    }

    /// Returns an integer without dimensions.
    pub(crate) fn int(&mut self, value: i64) -> Value {
        let bytes = value.to_le_bytes().to_vec();
        self.constant(format!("int({value})"), DataType::Int64, Vec::new(), bytes)
    }

    /// Returns a number without dimensions, in the precision of the graph.
    pub(crate) fn number(&mut self, value: f64) -> Result<Value> {
        let name = format!("number({value:?})");
        self.weight(&name, || {
            Ok(Tensor::new(value as f32, &candle_core::Device::Cpu)?)
        })
    }

    /// Returns a number without dimensions, of 32 bits.
    pub(crate) fn single(&mut self, value: f64) -> Value {
        let bytes = (value as f32).to_le_bytes().to_vec();
        self.constant(
            format!("f32({value:?})"),
            DataType::Float,
            Vec::new(),
            bytes,
        )
    }

    /// Returns a number without dimensions, of 64 bits.
    pub(crate) fn double(&mut self, value: f64) -> Value {
        let bytes = value.to_le_bytes().to_vec();
        self.constant(
            format!("f64({value:?})"),
            DataType::Double,
            Vec::new(),
            bytes,
        )
    }

    /// Returns numbers of 32 bits for the channels of images, `[count, 1, 1]`.
    pub(crate) fn channels(&mut self, name: &str, values: &[f32]) -> Value {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let dims = vec![length(values.len()), 1, 1];
        self.constant(name.to_string(), DataType::Float, dims, bytes)
    }

    fn constant(&mut self, name: String, of: DataType, dims: Vec<i64>, bytes: Vec<u8>) -> Value {
        if self.known.insert(name.clone()) {
            self.constants.push(tensor::new(&name, of, dims, bytes));
        }
        Value(name)
    }

    /// Converts a value to another type.
    pub(crate) fn cast(&mut self, x: &Value, to: DataType) -> Value {
        self.node("Cast", [x], vec![attribute::data_type("to", to)])
    }

    /// Converts a value of 32 bits to the precision of the graph.
    pub(crate) fn in_precision(&mut self, x: &Value) -> Value {
        match self.precision {
            OnnxPrecision::F32 => x.clone(),
            OnnxPrecision::F16 => self.cast(x, DataType::Float16),
        }
    }

    /// Converts a value in the precision of the graph to 32 bits.
    pub(crate) fn in_single(&mut self, x: &Value) -> Value {
        match self.precision {
            OnnxPrecision::F32 => x.clone(),
            OnnxPrecision::F16 => self.cast(x, DataType::Float),
        }
    }

    /// Changes the shape; 0 keeps a dimension and -1 is what remains.
    pub(crate) fn reshape(&mut self, x: &Value, shape: &[i64]) -> Value {
        let shape = self.ints(shape);
        self.op("Reshape", [x, &shape])
    }

    /// Changes the order of the dimensions.
    pub(crate) fn transpose(&mut self, x: &Value, order: &[i64]) -> Value {
        self.node("Transpose", [x], vec![attribute::ints("perm", order)])
    }

    /// Applies a softmax to the last dimension.
    pub(crate) fn softmax(&mut self, x: &Value) -> Value {
        self.node("Softmax", [x], vec![attribute::int("axis", -1)])
    }

    /// Returns the finished graph, whose output is a copy of `output` called `name`.
    pub(crate) fn finish(
        mut self,
        output: &Value,
        inputs: Vec<ValueInfoProto>,
        described: ValueInfoProto,
    ) -> GraphProto {
        let name = described.name.clone().unwrap_or_default();
        self.nodes.push(NodeProto {
            input: vec![output.0.clone()],
            output: vec![name],
            name: Some("output".to_string()),
            op_type: Some("Identity".to_string()),
            attribute: Vec::new(),
        });
        GraphProto {
            node: self.nodes,
            name: Some("perceiver".to_string()),
            initializer: self.constants,
            input: inputs,
            output: vec![described],
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn constants_are_kept_once_and_names_are_unique() {
        let mut graph = Graph::new(OnnxPrecision::F32);
        let x = Value::input("x");
        let weight = || Ok(Tensor::new(&[1f32, 2.0], &Device::Cpu)?);
        let [a, b] = [0, 1].map(|_| {
            let weight = graph.weight("w", weight).unwrap();
            graph.scoped("layer", |graph| graph.op("Add", [&x, &weight]))
        });
        assert_eq!([a.name(), b.name()], ["layer/Add", "layer/Add_2"]);
        let sum = graph.op("Mul", [&a, &b]);
        let described = ValueInfoProto::untyped("y");
        let graph = graph.finish(&sum, Vec::new(), described);
        assert_eq!(graph.initializer.len(), 1);
        assert_eq!(graph.node.len(), 4);
    }

    #[test]
    fn nodes_of_a_branch_are_not_of_the_graph() {
        let mut graph = Graph::new(OnnxPrecision::F32);
        let x = Value::input("x");
        let branch = graph.branch(|graph| graph.op("Neg", [&x]));
        assert_eq!((graph.nodes.len(), branch.node.len()), (0, 2));
        assert_eq!(
            branch.output[0].name,
            branch.node[1].output.first().cloned()
        );
    }
}
