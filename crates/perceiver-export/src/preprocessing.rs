//! Preprocessing as nodes of a graph: bytes of images of any size to the model's input.
//!
//! Resampling is one matrix product for each axis. The matrices are computed in the graph from height
//! and width, which are known when the model runs (see [`interpolation`]). `Resize` computes other
//! weights than Pillow and this project, and others in every engine.

mod fit;
mod interpolation;
mod kernel;
pub(crate) mod map;
mod transformers;

use crate::error::Result;
use crate::onnx::graph::{Graph, Value};
use crate::options::GraphPreprocessing;
use crate::preprocessing::map::Map;

/// Adds the preprocessing: `images`, u8 `[batch, height, width, 3]`, to f32 `[batch, 3, size, size]`.
pub(crate) fn preprocess(
    graph: &mut Graph,
    preprocessing: &GraphPreprocessing,
    images: &Value,
) -> Result<Value> {
    let steps = &preprocessing.steps;
    steps.validate()?;
    Ok(graph.scoped("preprocessing", |graph| {
        let map = Map::new(graph, images);
        match &steps.transformers {
            Some(steps) => transformers::apply(graph, steps, map),
            None => fit::apply(graph, steps, preprocessing.shorter_side, map),
        }
    }))
}

#[cfg(all(test, feature = "verify"))]
mod tests {
    use candle_core::{Device, Tensor};
    use perceiver_data::{
        CropOffset, Fit, Image, Normalization, PillowFilter, Preprocessing, Sides,
        TransformersPreprocessing,
    };
    use prost::Message;

    use super::*;
    use crate::onnx::proto::{DataType, Dimension, ModelProto, OperatorSetIdProto, ValueInfoProto};
    use crate::onnx::tensor::length as length_of;
    use crate::options::OnnxPrecision;
    use crate::run_in_tract;

    const SIZE: usize = 6;

    /// Height and width: single rows, columns and pixels; smaller and larger than the model's input.
    const SIDES: [(usize, usize); 8] = [
        (1, 23),
        (40, 1),
        (1, 1),
        (6, 6),
        (5, 9),
        (31, 17),
        (13, 90),
        (64, 64),
    ];

    /// Bytes of a random image `[height, width, 3]`.
    fn bytes(height: usize, width: usize) -> Vec<u8> {
        let value = |at: usize| (at * 2_654_435_761 % 4_294_967_291 / 16_777_216) as u8;
        (0..3 * height * width).map(value).collect()
    }

    fn image(height: usize, width: usize) -> Image {
        let bytes = bytes(height, width);
        let planes = (0..3).flat_map(|channel| bytes.iter().skip(channel).step_by(3));
        Image::new(height, width, planes.copied().collect()).unwrap()
    }

    fn steps(fit: Fit, antialias: bool) -> Preprocessing {
        Preprocessing {
            image_size: SIZE,
            antialias,
            fit,
            normalization: Normalization {
                mean: vec![120.0, 125.0, 130.0],
                variance: vec![4000.0, 4100.0, 4200.0],
            },
            transformers: None,
        }
    }

    /// Runs the preprocessing alone, on two images, the second of which is upside down.
    fn in_graph(preprocessing: &GraphPreprocessing, (height, width): (usize, usize)) -> Vec<f32> {
        let mut graph = Graph::new(OnnxPrecision::F32);
        let pixels = preprocess(&mut graph, preprocessing, &Value::input("images")).unwrap();
        let length = |name: &str| Dimension::Param(name.to_string());
        let three = Dimension::Value(3);
        let sides = vec![length("batch"), length("height"), length("width"), three];
        let input = ValueInfoProto::tensor("images", DataType::Uint8, sides);
        let size = || Dimension::Value(length_of(SIZE));
        let sides = vec![length("batch"), Dimension::Value(3), size(), size()];
        let output = ValueInfoProto::tensor("pixels", DataType::Float, sides);
        let opset = OperatorSetIdProto {
            domain: None,
            version: Some(crate::OnnxModel::OPSET),
        };
        let model = ModelProto {
            ir_version: Some(8),
            graph: Some(graph.finish(&pixels, vec![input], output)),
            opset_import: vec![opset],
            ..ModelProto::default()
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), model.encode_to_vec()).unwrap();
        let first = bytes(height, width);
        let second: Vec<u8> = first.iter().rev().copied().collect();
        let images = [first, second].concat();
        let images = Tensor::from_vec(images, (2, height, width, 3), &Device::Cpu).unwrap();
        let result = run_in_tract(file.path(), &images).unwrap();
        assert_eq!(result.dims(), [2, 3, SIZE, SIZE]);
        result
            .get(0)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    /// Compares values; `steps_off` of them may be those of another byte, since sums of products round
    /// in another order.
    fn assert_close(found: &[f32], expected: &Tensor, byte: f32, what: &str) {
        let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(found.len(), expected.len());
        let distances = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        let other_bytes = distances
            .clone()
            .filter(|distance| *distance > 1e-4)
            .count();
        assert!(other_bytes <= 2, "{what}: {other_bytes} values differ");
        let most = distances.fold(0.0, f32::max);
        assert!(most < 1.01 * byte, "{what}: {most}");
    }

    #[test]
    fn own_steps_give_the_values_of_the_loader() {
        for fit in [Fit::Stretch, Fit::Crop, Fit::Pad] {
            for antialias in [false, true] {
                for shorter_side in [None, Some(2 * SIZE)] {
                    let steps = steps(fit, antialias);
                    let preprocessing = GraphPreprocessing {
                        steps: steps.clone(),
                        shorter_side,
                    };
                    for (height, width) in SIDES {
                        let side = shorter_side.unwrap_or(usize::MAX);
                        let small = image(height, width).shrunk_to(side);
                        let expected = steps.tensor(&[small]).unwrap();
                        let found = in_graph(&preprocessing, (height, width));
                        let what = format!("{fit} {antialias} {shorter_side:?} {height} x {width}");
                        assert_close(&found, &expected, 1.0 / 63.0, &what);
                    }
                }
            }
        }
    }

    #[test]
    fn steps_of_transformers_give_the_values_of_pillow() {
        let rows =
            |resample, do_center_crop, crop_offset, crop: [usize; 2]| TransformersPreprocessing {
                size: Sides::square(SIZE),
                crop_size: Sides {
                    height: crop[0],
                    width: crop[1],
                },
                resample,
                do_center_crop,
                crop_offset,
                ..TransformersPreprocessing::default()
            };
        let bicubic = PillowFilter::Bicubic;
        let mut all: Vec<_> = PillowFilter::ALL
            .into_iter()
            .map(|filter| rows(filter, true, CropOffset::Floor, [7, 7]))
            .collect();
        all.push(rows(bicubic, true, CropOffset::Ceil, [9, 9]));
        all.push(rows(bicubic, false, CropOffset::Floor, [7, 7])); // height first, or width
        all.push(rows(
            PillowFilter::Nearest,
            false,
            CropOffset::Floor,
            [7, 7],
        ));
        all.push(rows(bicubic, true, CropOffset::Floor, [7, 12]));
        for steps in all {
            let expected = |image: Image| steps.tensor(&[image]).unwrap();
            let preprocessing = GraphPreprocessing {
                steps: Preprocessing::from_transformers(steps.clone()).unwrap(),
                shorter_side: None,
            };
            for (height, width) in SIDES {
                let found = in_graph(&preprocessing, (height, width));
                let what = format!("{steps:?} {height} x {width}");
                let byte = 1.0 / 255.0 / 0.224;
                assert_close(&found, &expected(image(height, width)), byte, &what);
            }
        }
    }

    #[test]
    fn steps_that_can_be_left_out_are() {
        let steps = TransformersPreprocessing {
            size: Sides::square(SIZE),
            do_center_crop: false,
            do_rescale: false,
            do_normalize: false,
            ..TransformersPreprocessing::default()
        };
        let preprocessing = GraphPreprocessing {
            steps: Preprocessing::from_transformers(steps).unwrap(),
            shorter_side: None,
        };
        let found = in_graph(&preprocessing, (SIZE, SIZE));
        let pixels = image(SIZE, SIZE);
        let expected: Vec<f32> = pixels.pixels().iter().map(|&byte| byte.into()).collect();
        assert_eq!(found, expected);
    }
}
