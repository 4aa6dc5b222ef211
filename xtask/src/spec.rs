//! The specification of a data set: its source, and the size and checksum of every file.

use perceiver_data::Cifar;

/// A file of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// The name in the data set's directory.
    pub name: String,
    /// The size in bytes; `None` for lists of names, whose trailing blank lines vary.
    pub size: Option<u64>,
    /// The SHA-256 in hexadecimal, if known.
    pub sha256: Option<String>,
}

/// A data set: one archive that unpacks to one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetSpec {
    /// The name, as in `--dataset`.
    pub name: String,
    /// The directory, both in the archive and in the data directory.
    pub directory: String,
    /// The URL of the archive.
    pub archive_url: String,
    /// The size of the archive in bytes.
    pub archive_size: u64,
    /// The MD5 of the archive in hexadecimal, as published by its authors.
    pub archive_md5: String,
    /// The required files; others in the archive are skipped.
    pub files: Vec<FileSpec>,
}

impl DatasetSpec {
    /// Returns CIFAR-100, binary version. The archive's size and MD5 are those on
    /// <https://www.cs.toronto.edu/~kriz/cifar.html>.
    pub fn cifar100() -> Self {
        let file = |name: &str, size, sha256: &str| FileSpec {
            name: name.into(),
            size: Some(size),
            sha256: Some(sha256.into()),
        };
        Self {
            name: "cifar100".into(),
            directory: Cifar::Hundred.directory().into(),
            archive_url: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz".into(),
            archive_size: 168_513_733,
            archive_md5: "03b5dce01913d631647c71ecec9e9cb8".into(),
            files: vec![
                file(
                    "train.bin",
                    153_700_000,
                    "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
                ),
                file(
                    "test.bin",
                    30_740_000,
                    "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
                ),
                file(
                    "fine_label_names.txt",
                    725,
                    "4a53f81a8af29bb6aa646bfe2c455db1b061edfde82a39c0cfc313ef536c681b",
                ),
                file(
                    "coarse_label_names.txt",
                    328,
                    "14e28b5b70e3d8a29704b0d9f8c5985cca5f3c3d08ea043dcc87a036df37a2b3",
                ),
            ],
        }
    }

    /// Returns CIFAR-10, binary version, from the same page. Its authors publish no checksums of
    /// the files in the archive.
    pub fn cifar10() -> Self {
        let file = |name: String, size| FileSpec {
            name,
            size,
            sha256: None,
        };
        let batches = (1..=5).map(|number| format!("data_batch_{number}.bin"));
        let mut files: Vec<FileSpec> = batches
            .chain(["test_batch.bin".to_owned()])
            .map(|name| file(name, Some(30_730_000)))
            .collect();
        files.push(file("batches.meta.txt".into(), None));
        Self {
            name: "cifar10".into(),
            directory: Cifar::Ten.directory().into(),
            archive_url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz".into(),
            archive_size: 170_052_171,
            archive_md5: "c32a1d4ab5d03f1284b67883e8d87530".into(),
            files,
        }
    }

    /// Returns the file name of the archive.
    pub fn archive_name(&self) -> &str {
        self.archive_url
            .rsplit('/')
            .next()
            .unwrap_or(&self.archive_url)
    }

    /// Whether the checksums of the files cover all content, so that a repacked archive is as good
    /// as the official one.
    pub fn has_all_sums(&self) -> bool {
        self.files.iter().all(|file| file.sha256.is_some())
    }
}
