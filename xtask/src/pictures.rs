//! Writes images of a data set as PNG files, to view or to try `perceiver predict` on.

use std::fs;
use std::path::{Path, PathBuf};

use perceiver_data::{DataError, LoadOptions, Source, Split};

/// Writes the first `count` images of a split to `output` as `INDEX-CLASS.png`, and returns their
/// paths.
///
/// # Errors
/// When the data set cannot be read or a file cannot be written.
pub fn save(
    source: &Source,
    split: Split,
    count: usize,
    options: &LoadOptions,
    output: &Path,
) -> Result<Vec<PathBuf>, DataError> {
    let dataset = source.load(split, options)?;
    fs::create_dir_all(output).map_err(|source| DataError::Io {
        action: "create",
        path: output.to_path_buf(),
        source,
    })?;
    let samples = dataset.images().iter().zip(dataset.labels());
    let mut paths = Vec::new();
    for (index, (image, &label)) in samples.take(count).enumerate() {
        // Class names may contain any character; file names may not.
        let class = dataset.classes()[label as usize].replace(|c: char| !c.is_alphanumeric(), "_");
        let path = output.join(format!("{index:05}-{class}.png"));
        image.write_png(&path)?;
        paths.push(path);
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use perceiver_data::Image;

    #[test]
    fn saved_images_round_trip() {
        let directory = tempfile::tempdir().unwrap();
        let options = LoadOptions::default();
        let output = directory.path().join("pictures");
        let paths = save(&Source::Shapes, Split::Test, 3, &options, &output).unwrap();
        let dataset = Source::Shapes.load(Split::Test, &options).unwrap();
        assert_eq!(paths.len(), 3);
        for (path, image) in paths.iter().zip(dataset.images()) {
            assert_eq!(Image::open(path).unwrap(), *image);
        }
    }
}
