//! Writes CIFAR's binary format: for data from other formats, such as the Hub's Parquet, and for
//! small data sets in tests.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::dataset::Split;
use crate::dataset::labels::Labels;
use crate::error::{DataError, Result};
use crate::formats::cifar::{Cifar, CifarRecord, SIDE};

impl Cifar {
    /// Writes the records of a split under `data_dir`, in order and evenly distributed over the
    /// split's files: the official number of records gives the official files. Directories are
    /// created as needed, and existing files are replaced.
    ///
    /// # Errors
    /// When an image is not 32 x 32 pixels, there are fewer records than files or more than the
    /// official number, or a file cannot be written.
    pub fn write(self, data_dir: &Path, split: Split, records: &[CifarRecord]) -> Result<()> {
        let files = self.files(split);
        let most = files.len() * self.records_per_file(split);
        if !(files.len()..=most).contains(&records.len()) {
            return Err(DataError::Inconsistent {
                name: self.to_string(),
                expected: format!("{} to {most} records", files.len()),
                found: format!("{} records", records.len()),
            });
        }
        let size = |record: &CifarRecord| (record.image.height(), record.image.width());
        if let Some((height, width)) = records.iter().map(size).find(|&s| s != (SIDE, SIDE)) {
            return Err(DataError::Inconsistent {
                name: self.to_string(),
                expected: format!("images of {SIDE} x {SIDE} pixels"),
                found: format!("one of {height} x {width}"),
            });
        }
        for (index, file) in files.iter().enumerate() {
            let bound = |index: usize| records.len() * index / files.len();
            let part = &records[bound(index)..bound(index + 1)];
            self.write_file(data_dir, file, |out| {
                part.iter()
                    .try_for_each(|record| self.write_record(out, record))
            })?;
        }
        Ok(())
    }

    /// Writes the class name files, `coarse` for CIFAR-100 only.
    pub fn write_names(self, data_dir: &Path, fine: &[String], coarse: &[String]) -> Result<()> {
        let write = |labels: Labels, names: &[String]| {
            self.write_file(data_dir, self.names_file(labels), |out| {
                names.iter().try_for_each(|name| writeln!(out, "{name}"))
            })
        };
        write(Labels::Fine, fine)?;
        match self {
            Self::Ten => Ok(()),
            Self::Hundred => write(Labels::Coarse, coarse),
        }
    }

    fn write_record(self, out: &mut impl Write, record: &CifarRecord) -> io::Result<()> {
        let labels = [record.coarse, record.fine];
        out.write_all(&labels[2 - self.label_bytes()..])?;
        out.write_all(record.image.pixels())
    }

    fn write_file(
        self,
        data_dir: &Path,
        file: &str,
        fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<()> {
        let path = self.path(data_dir, file);
        let write = || {
            fs::create_dir_all(data_dir.join(self.directory()))?;
            let mut out = BufWriter::new(File::create(&path)?);
            fill(&mut out)?;
            out.flush()
        };
        write().map_err(|source| DataError::Io {
            action: "write",
            path: path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::image::Image;

    fn record(height: usize, width: usize) -> CifarRecord {
        CifarRecord {
            coarse: 0,
            fine: 0,
            image: Image::new(height, width, vec![0; 3 * height * width]).unwrap(),
        }
    }

    #[test]
    fn other_sizes_are_rejected_before_writing() {
        let data = tempfile::tempdir().unwrap();
        let records = [record(32, 32), record(16, 64)];
        let error = Cifar::Hundred
            .write(data.path(), Split::Test, &records)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "data set cifar100: expected images of 32 x 32 pixels, found one of 16 x 64"
        );
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_file_gets_a_record() {
        let data = tempfile::tempdir().unwrap();
        let records = vec![record(32, 32); 4];
        let error = Cifar::Ten
            .write(data.path(), Split::Train, &records)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "data set cifar10: expected 5 to 50000 records, found 4 records"
        );
    }

    #[test]
    fn errors_name_the_unwritable_path() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Cifar::Ten
            .write(&file, Split::Test, &[record(32, 32)])
            .unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
    }
}
