//! Sizes and checksums of files.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use md5::Md5;
use sha2::Sha256;
use sha2::digest::Digest;

use crate::error::{Result, XtaskError};
use crate::spec::{DatasetSpec, FileSpec};

/// Verifies that `directory` holds every file of the data set, byte by byte.
///
/// # Errors
/// The first file that is missing or wrong.
pub fn verify_directory(directory: &Path, spec: &DatasetSpec) -> Result<()> {
    spec.files
        .iter()
        .try_for_each(|file| verify_file(&directory.join(&file.name), file))
}

fn verify_file(path: &Path, spec: &FileSpec) -> Result<()> {
    verify_size(path, spec.size)?;
    match &spec.sha256 {
        Some(expected) => verify_sum::<Sha256>(path, "SHA-256", expected),
        None => Ok(()),
    }
}

/// Verifies that `archive` is the official one.
///
/// # Errors
/// When its size or MD5 differs.
pub fn verify_archive(archive: &Path, spec: &DatasetSpec) -> Result<()> {
    verify_size(archive, Some(spec.archive_size))?;
    verify_sum::<Md5>(archive, "MD5", &spec.archive_md5)
}

fn verify_size(path: &Path, expected: Option<u64>) -> Result<()> {
    let wrong = |expected: &str, found: String| XtaskError::WrongContent {
        path: path.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(wrong("a file", "nothing".into()));
        }
        Err(error) => return Err(XtaskError::io("read", path)(error)),
    };
    if !metadata.is_file() {
        return Err(wrong("a file", "something else".into()));
    }
    match expected {
        Some(size) if size != metadata.len() => Err(wrong(
            &format!("{size} bytes"),
            format!("{} bytes", metadata.len()),
        )),
        _ => Ok(()),
    }
}

fn verify_sum<D: Digest>(path: &Path, name: &str, expected: &str) -> Result<()> {
    let found = sum::<D>(path)?;
    if found == expected.to_ascii_lowercase() {
        return Ok(());
    }
    Err(XtaskError::WrongContent {
        path: path.to_owned(),
        expected: format!("{name} {expected}"),
        found,
    })
}

/// Computes the checksum of a file in lowercase hexadecimal.
fn sum<D: Digest>(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(XtaskError::io("read", path))?;
    let mut digest = D::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file
            .read(&mut buffer)
            .map_err(XtaskError::io("read", path))?
        {
            0 => break,
            count => digest.update(&buffer[..count]),
        }
    }
    let digest = digest.finalize();
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    Ok(digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_the_standards() {
        // RFC 1321, A.5, and FIPS 180-2, B.1.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        fs::write(&path, "abc").unwrap();
        verify_sum::<Md5>(&path, "MD5", "900150983cd24fb0d6963f7d28e17f72").unwrap();
        let sha256 = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
        verify_sum::<Sha256>(&path, "SHA-256", sha256).unwrap();
        let error = verify_sum::<Md5>(&path, "MD5", "00")
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("abc: expected MD5 00, found 900150983cd24fb0d6963f7d28e17f72"));
    }

    #[test]
    fn errors_name_missing_and_truncated_files() {
        let dir = tempfile::tempdir().unwrap();
        let spec = DatasetSpec::cifar100();
        let error = verify_directory(dir.path(), &spec).unwrap_err().to_string();
        assert!(
            error.ends_with("train.bin: expected a file, found nothing"),
            "{error}"
        );
        fs::write(dir.path().join("train.bin"), [0; 3074]).unwrap();
        let error = verify_directory(dir.path(), &spec).unwrap_err().to_string();
        assert!(
            error.ends_with("train.bin: expected 153700000 bytes, found 3074 bytes"),
            "{error}"
        );
    }
}
