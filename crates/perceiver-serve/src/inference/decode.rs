//! The decode stage: encoded images to the model's input, on a few threads beside the executor.

use std::sync::Arc;

use bytes::Bytes;
use candle_core::Tensor;
use perceiver_data::Image;
use perceiver_report::data_address;
use perceiver_train::{Predictor, TrainError};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::http::api_error::ApiError;
use crate::limits::Limits;
use crate::upload::body::Buffered;
use crate::upload::{Form, Upload};

/// The pixels of a unit of the limit on all images that are being decoded.
const UNIT: u64 = 1024;

/// Decodes and preprocesses images.
pub(crate) struct DecodeStage {
    predictor: Arc<Predictor>,
    /// One permit per thread.
    threads: Arc<Semaphore>,
    /// The pixels of images that are being decoded.
    pixels: Arc<Semaphore>,
    max_pixels: u64,
    max_images: usize,
}

/// An image that is ready for the model.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) name: String,
    /// Height and width in pixels.
    pub(crate) size: (usize, usize),
    /// `[1, 3, side, side]` on the CPU.
    pub(crate) input: Tensor,
    /// What the model sees, as a `data:` URL; only for attention maps.
    pub(crate) thumbnail: Option<String>,
}

impl DecodeStage {
    pub(crate) fn new(predictor: Arc<Predictor>, limits: &Limits, threads: usize) -> Self {
        Self {
            predictor,
            threads: Arc::new(Semaphore::new(threads)),
            pixels: Arc::new(Semaphore::new(limits.max_pixels.div_ceil(UNIT) as usize)),
            max_pixels: limits.max_pixels,
            max_images: limits.max_images,
        }
    }

    /// Returns the number of threads.
    pub(crate) async fn run(
        self: &Arc<Self>,
        form: Form,
        body: Buffered,
        with_thumbnails: bool,
        admit: impl FnOnce(usize) -> Result<(), ApiError> + Send + 'static,
    ) -> Result<Vec<Prepared>, ApiError> {
        let failed = |finding: String| ApiError::Model { finding };
        let thread = Arc::clone(&self.threads).acquire_owned().await;
        let thread = thread.map_err(|error| failed(error.to_string()))?;
        let stage = Arc::clone(self);
        let runtime = Handle::current();
        let decoding = tokio::task::spawn_blocking(move || {
            let _thread = thread;
            let images = form.images(body.bytes.clone(), stage.max_images)?;
            admit(images.len())?;
            let prepare = |image| stage.prepare(image, with_thumbnails, &runtime);
            let prepared = images.into_iter().map(prepare).collect();
            drop(body.memory);
            prepared
        });
        let finding = "decoding: expected an image or an error, found a panic".to_string();
        decoding.await.unwrap_or(Err(failed(finding)))
    }

    fn prepare(
        &self,
        upload: Upload,
        with_thumbnail: bool,
        runtime: &Handle,
    ) -> Result<Prepared, ApiError> {
        let Upload { name, bytes } = upload;
        let pixels = self.pixels_of(&name, &bytes)?;
        let units = pixels.div_ceil(UNIT) as u32;
        let reserved = runtime.block_on(self.pixels.acquire_many(units));
        let image = self.predictor.decode(&bytes, &name);
        let image = image.map_err(|error| ApiError::of_image(&error))?;
        let prepared = self.preprocess(name, &image, with_thumbnail);
        drop(reserved);
        prepared.map_err(|error| ApiError::Model {
            finding: error.to_string(),
        })
    }

    /// Returns the number of pixels by the header of an image, if they are not too many.
    fn pixels_of(&self, name: &str, bytes: &Bytes) -> Result<u64, ApiError> {
        let size = Image::size_of(bytes, name);
        let (height, width) = size.map_err(|error| ApiError::of_image(&error.into()))?;
        let pixels = height as u64 * width as u64;
        if pixels > self.max_pixels {
            let (name, most) = (name.to_string(), self.max_pixels);
            return Err(ApiError::TooManyPixels {
                name,
                most,
                width,
                height,
            });
        }
        Ok(pixels)
    }

    fn preprocess(
        &self,
        name: String,
        image: &Image,
        with_thumbnail: bool,
    ) -> Result<Prepared, TrainError> {
        let checkpoint = self.predictor.checkpoint();
        let thumbnail = if with_thumbnail {
            let framed = checkpoint.config.preprocessing.framed(image)?;
            data_address(&framed).ok()
        } else {
            None
        };
        Ok(Prepared {
            name,
            size: image.original_size(),
            input: checkpoint.input_on_cpu(std::slice::from_ref(image))?,
            thumbnail,
        })
    }
}
