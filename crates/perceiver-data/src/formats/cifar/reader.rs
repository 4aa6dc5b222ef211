//! Reads CIFAR's binary format.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use perceiver_files::open_regular;

use crate::dataset::image::Image;
use crate::dataset::labels::{Labels, class_indices};
use crate::dataset::{Dataset, Groups, Split};
use crate::error::{DataError, Result};
use crate::formats::cifar::{Cifar, CifarRecord, Names, PIXEL_BYTES, SIDE};

impl Cifar {
    /// Reads a split from `data_dir`, which contains [`Cifar::directory`].
    ///
    /// With fine labels, CIFAR-100 includes its coarse groups, unless a class occurs in no record,
    /// so that its group is unknown. Files with fewer records than the official ones are accepted
    /// with a warning.
    ///
    /// # Errors
    /// As [`Cifar::read_records`]; also for coarse labels of CIFAR-10, or when a fine class of
    /// CIFAR-100 appears in two coarse ones.
    pub fn read(self, data_dir: &Path, split: Split, labels: Labels) -> Result<Dataset> {
        if self == Self::Ten {
            labels.require_fine(self)?;
        }
        let names = self.read_names(data_dir)?;
        let records = self.read_named_records(data_dir, split, &names)?;
        let groups = match (self, labels) {
            (Self::Hundred, Labels::Fine) => self.groups(&records, &names)?,
            _ => None,
        };
        let (classes, label): (_, fn(&CifarRecord) -> u8) = match labels {
            Labels::Fine => (names.fine, |record| record.fine),
            Labels::Coarse => (names.coarse, |record| record.coarse),
        };
        let targets = records.iter().map(|record| label(record).into()).collect();
        let images = records.into_iter().map(|record| record.image).collect();
        let dataset = Dataset::new(self.to_string(), images, targets, classes)?;
        match groups {
            Some(groups) => dataset.with_groups(groups),
            None => Ok(dataset),
        }
    }

    /// Reads the labels of a split and their class names; reads only the label bytes of each
    /// record.
    ///
    /// # Errors
    /// As for [`Cifar::read`].
    pub(crate) fn labels(
        self,
        data_dir: &Path,
        split: Split,
        labels: Labels,
    ) -> Result<(Vec<u32>, Vec<String>)> {
        let names = self.read_names(data_dir)?;
        let classes = match labels {
            Labels::Fine => names.fine,
            Labels::Coarse => names.coarse,
        };
        // CIFAR-100 has the coarse label before the fine one.
        let skipped = match labels {
            Labels::Fine => self.label_bytes() - 1,
            Labels::Coarse => 0,
        };
        let mut all_labels = Vec::new();
        for name in self.files(split) {
            let path = self.path(data_dir, name);
            let count = self.count_records(&path, split)?;
            let read = || -> io::Result<Vec<i64>> {
                let (mut file, _) = open_regular(&path)?;
                let mut label = [0];
                let starts = (0..count).map(|record| record * self.record_bytes() + skipped);
                let labels = starts.map(|start| {
                    file.seek(SeekFrom::Start(start as u64))?;
                    file.read_exact(&mut label)?;
                    Ok(i64::from(label[0]))
                });
                labels.collect()
            };
            let labels = read().map_err(|error| self.unreadable(&path, error))?;
            all_labels.extend(class_indices(&path, &labels, classes.len())?);
        }
        Ok((all_labels, classes))
    }

    /// Reads the records of a split, with both labels, in the order of the files.
    ///
    /// # Errors
    /// When a file is missing, truncated or too long, or a label is not a valid class.
    pub fn read_records(self, data_dir: &Path, split: Split) -> Result<Vec<CifarRecord>> {
        let names = self.read_names(data_dir)?;
        self.read_named_records(data_dir, split, &names)
    }

    fn read_named_records(
        self,
        data_dir: &Path,
        split: Split,
        names: &Names,
    ) -> Result<Vec<CifarRecord>> {
        let mut records = Vec::new();
        for file in self.files(split) {
            self.read_file(&self.path(data_dir, file), split, names, &mut records)?;
        }
        Ok(records)
    }

    fn read_file(
        self,
        path: &Path,
        split: Split,
        names: &Names,
        records: &mut Vec<CifarRecord>,
    ) -> Result<()> {
        let count = self.count_records(path, split)?;
        tracing::debug!("reading {}: {count} records", path.display());
        let official = self.records_per_file(split);
        if count < official {
            tracing::warn!("{} has {count} of {official} records", path.display());
        }
        let (file, _) = open_regular(path).map_err(|error| self.unreadable(path, error))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        records.reserve(count);
        for index in 0..count {
            let record = self.read_record(&mut file);
            let record = record.map_err(|error| self.unreadable(path, error))?;
            let in_range = |label: u8, classes: usize| {
                let valid = usize::from(label) < classes;
                valid
                    .then_some(())
                    .ok_or_else(|| DataError::LabelOutOfRange {
                        path: path.to_owned(),
                        record: index,
                        label: label.into(),
                        classes,
                    })
            };
            in_range(record.fine, names.fine.len())?;
            if self == Self::Hundred {
                in_range(record.coarse, names.coarse.len())?;
            }
            records.push(record);
        }
        Ok(())
    }

    fn read_record(self, file: &mut impl Read) -> io::Result<CifarRecord> {
        let mut labels = [0; 2];
        let own = 2 - self.label_bytes(); // CIFAR-10 has no coarse label: 0
        file.read_exact(&mut labels[own..])?;
        let mut pixels = vec![0; PIXEL_BYTES];
        file.read_exact(&mut pixels)?;
        Ok(CifarRecord {
            coarse: labels[0],
            fine: labels[1],
            image: Image::new(SIDE, SIDE, pixels).map_err(io::Error::other)?,
        })
    }

    /// Finds the group of every class in the records; `None` if a class appears in no record.
    fn groups(self, records: &[CifarRecord], names: &Names) -> Result<Option<Groups>> {
        let mut of_class = vec![None; names.fine.len()];
        for record in records {
            let group = *of_class[usize::from(record.fine)].get_or_insert(record.coarse);
            if group != record.coarse {
                return Err(DataError::Inconsistent {
                    name: self.to_string(),
                    expected: format!(
                        "every {:?} in one coarse class",
                        names.fine[usize::from(record.fine)]
                    ),
                    found: format!("coarse labels {group} and {}", record.coarse),
                });
            }
        }
        let of_class: Option<Vec<u32>> = of_class.into_iter().map(|g| g.map(u32::from)).collect();
        Ok(of_class.map(|of_class| Groups {
            names: names.coarse.clone(),
            of_class,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn record(coarse: u8, fine: u8, pixel: u8) -> CifarRecord {
        CifarRecord {
            coarse,
            fine,
            image: Image::new(SIDE, SIDE, vec![pixel; PIXEL_BYTES]).unwrap(),
        }
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("class {n}")).collect()
    }

    /// Creates a data directory with 3 classes in 2 groups, five training records and one test
    /// record.
    fn small(cifar: Cifar) -> TempDir {
        let data = tempfile::tempdir().unwrap();
        let coarse = |coarse| if cifar == Cifar::Ten { 0 } else { coarse };
        let train = [(1, 0), (0, 1), (0, 2), (1, 0), (0, 1)];
        let train = train.map(|(group, class)| record(coarse(group), class, 10 * class));
        cifar
            .write_names(data.path(), &names(3), &names(2))
            .unwrap();
        cifar.write(data.path(), Split::Train, &train).unwrap();
        cifar
            .write(data.path(), Split::Test, &[record(coarse(0), 2, 9)])
            .unwrap();
        data
    }

    fn read_error(cifar: Cifar, data: &TempDir, split: Split) -> DataError {
        cifar.read(data.path(), split, Labels::Fine).unwrap_err()
    }

    #[test]
    fn labels_select_the_classes() {
        let data = small(Cifar::Hundred);
        let fine = Cifar::Hundred
            .read(data.path(), Split::Train, Labels::Fine)
            .unwrap();
        assert_eq!(
            (fine.labels(), fine.name()),
            (&[0, 1, 2, 0, 1][..], "cifar100")
        );
        let labels = |labels| {
            Cifar::Hundred
                .labels(data.path(), Split::Train, labels)
                .unwrap()
        };
        assert_eq!(labels(Labels::Fine), (vec![0, 1, 2, 0, 1], names(3)));
        assert_eq!(labels(Labels::Coarse), (vec![1, 0, 0, 1, 0], names(2)));
        assert_eq!(fine.groups().unwrap().of_class, [1, 0, 0]);
        assert_eq!(fine.groups().unwrap().names, names(2));
        let coarse = Cifar::Hundred
            .read(data.path(), Split::Train, Labels::Coarse)
            .unwrap();
        assert_eq!(
            (coarse.labels(), coarse.classes()),
            (&[1, 0, 0, 1, 0][..], &names(2)[..])
        );
        assert!(coarse.groups().is_none());
        let ten = small(Cifar::Ten);
        let ten = Cifar::Ten
            .read(ten.path(), Split::Train, Labels::Fine)
            .unwrap();
        assert_eq!(
            (ten.labels(), ten.classes()),
            (&[0, 1, 2, 0, 1][..], &names(3)[..])
        );
        assert!(ten.groups().is_none());
    }

    #[test]
    fn groups_are_omitted_if_a_class_has_no_image() {
        let data = small(Cifar::Hundred);
        let test = Cifar::Hundred
            .read(data.path(), Split::Test, Labels::Fine)
            .unwrap();
        assert!(test.groups().is_none());
    }

    #[test]
    fn trailing_blank_lines_are_ignored() {
        let data = small(Cifar::Ten);
        let file = Cifar::Ten.path(data.path(), "batches.meta.txt");
        fs::write(file, "airplane\r\nbird\r\ncat\r\n\r\n").unwrap();
        let train = Cifar::Ten
            .read(data.path(), Split::Train, Labels::Fine)
            .unwrap();
        assert_eq!(train.classes(), ["airplane", "bird", "cat"]);
    }

    #[test]
    fn empty_and_duplicate_names_are_rejected() {
        let data = small(Cifar::Hundred);
        let file = Cifar::Hundred.path(data.path(), "fine_label_names.txt");
        for (text, expected) in [
            ("\n", "found none"),
            ("ant\nbee\nant\n", "\"ant\" in line 3"),
        ] {
            fs::write(&file, text).unwrap();
            let error = Cifar::Hundred.check(data.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("fine_label_names.txt"), "{error}");
        }
    }

    #[test]
    fn errors_for_missing_files_name_the_download_command() {
        for (cifar, file) in [
            (Cifar::Hundred, "train.bin"),
            (Cifar::Hundred, "coarse_label_names.txt"),
            (Cifar::Ten, "data_batch_3.bin"),
            (Cifar::Ten, "batches.meta.txt"),
        ] {
            let data = small(cifar);
            assert!(cifar.is_present(data.path()));
            cifar.check(data.path()).unwrap();
            fs::remove_file(cifar.path(data.path(), file)).unwrap();
            assert!(!cifar.is_present(data.path()));
            for error in [
                read_error(cifar, &data, Split::Train),
                cifar.check(data.path()).unwrap_err(),
            ] {
                let message = error.to_string();
                assert!(matches!(error, DataError::Missing { .. }));
                assert!(message.contains(file), "{message}");
                assert!(
                    message.contains(&format!("fetch-data --dataset {cifar}")),
                    "{message}"
                );
            }
        }
    }

    #[test]
    fn truncated_and_overlong_files_are_rejected() {
        let data = small(Cifar::Hundred);
        let path = Cifar::Hundred.path(data.path(), "test.bin");
        for size in [0, 1, 3_073, 3_075, 10_001 * 3_074] {
            // A sparse file: only the size matters.
            fs::File::create(&path).unwrap().set_len(size).unwrap();
            for error in [
                read_error(Cifar::Hundred, &data, Split::Test),
                Cifar::Hundred.check(data.path()).unwrap_err(),
            ] {
                assert_eq!(
                    error.to_string(),
                    format!(
                        "{} has {size} bytes: expected a whole number of 3074-byte records, from 1 to 10000",
                        path.display()
                    )
                );
            }
        }
    }

    #[test]
    fn labels_out_of_range_are_rejected() {
        let data = small(Cifar::Hundred);
        for (bad, label, classes) in [(record(0, 3, 0), 3, 3), (record(2, 0, 0), 2, 2)] {
            let records = [record(0, 1, 0), bad];
            Cifar::Hundred
                .write(data.path(), Split::Train, &records)
                .unwrap();
            let error = read_error(Cifar::Hundred, &data, Split::Train).to_string();
            let path = Cifar::Hundred.path(data.path(), "train.bin");
            let expected = format!(
                "{}: record 1 has label {label}: expected 0 to {}",
                path.display(),
                classes - 1
            );
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_class_in_two_groups_is_rejected() {
        let data = small(Cifar::Hundred);
        let records = [record(0, 1, 0), record(1, 1, 0)];
        Cifar::Hundred
            .write(data.path(), Split::Train, &records)
            .unwrap();
        let error = read_error(Cifar::Hundred, &data, Split::Train).to_string();
        assert_eq!(
            error,
            "data set cifar100: expected every \"class 1\" in one coarse class, found coarse labels 0 and 1"
        );
    }

    #[test]
    fn layout_is_the_official_one() {
        // From the CIFAR web page: 30,730,000 bytes per CIFAR-10 batch.
        assert_eq!(
            Cifar::Ten.record_bytes() * Cifar::Ten.records_per_file(Split::Train),
            30_730_000
        );
        assert_eq!(Cifar::Hundred.record_bytes(), 3_074);
        let data = small(Cifar::Hundred);
        let bytes = fs::read(data.path().join("cifar-100-binary/train.bin")).unwrap();
        assert_eq!(bytes[..4], [1, 0, 0, 0]);
        assert_eq!(bytes[3_074..3_078], [0, 1, 10, 10]);
        let data = small(Cifar::Ten);
        let bytes = fs::read(data.path().join("cifar-10-batches-bin/data_batch_2.bin")).unwrap();
        assert_eq!((bytes.len(), &bytes[..3]), (3_073, &[1, 10, 10][..]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn write_and_read_round_trip(
            labels in prop::collection::vec((0..20u8, 0..100u8), 5..12),
            pixels in prop::collection::vec(any::<u8>(), PIXEL_BYTES),
            hundred: bool,
        ) {
            let cifar = if hundred { Cifar::Hundred } else { Cifar::Ten };
            let mut records: Vec<_> = labels.iter().map(|&(c, f)| record(if hundred { c } else { 0 }, f, c)).collect();
            records[0].image = Image::new(SIDE, SIDE, pixels).unwrap();
            let data = tempfile::tempdir().unwrap();
            cifar.write_names(data.path(), &names(100), &names(20)).unwrap();
            cifar.write(data.path(), Split::Train, &records).unwrap();
            prop_assert_eq!(cifar.read_records(data.path(), Split::Train).unwrap(), records);
        }
    }
}
