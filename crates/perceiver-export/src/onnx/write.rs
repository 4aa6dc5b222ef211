//! ONNX files, with the weights of large models in a second file (external data).
//!
//! A message of protobuf is at most 2 GiB long.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use crate::error::{ExportError, Result};
use crate::onnx::proto::{DataLocation, ModelProto, StringStringEntryProto, TensorProto};

/// The largest file without external data: the limit of protobuf, less than which some readers have.
pub(crate) const MAX_MESSAGE_BYTES: u64 = (1 << 31) - (1 << 20);

/// Constants of fewer bytes stay in the file: engines need shapes before they read other files.
const LEAST_EXTERNAL_BYTES: usize = 1024;

/// External constants begin at multiples of this, so that engines can map them into memory.
const ALIGNMENT: u64 = 4096;

/// Returns the path of the external data of a file: `model.onnx.data` for `model.onnx`.
pub(crate) fn data_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".data");
    path.with_file_name(name)
}

/// Writes a model, with its weights beside it if the file would have more than `limit` bytes.
/// Returns the paths of the files.
///
/// # Errors
/// [`ExportError::Exists`] when a file is there already, and when it cannot be written.
pub(crate) fn write(model: &ModelProto, path: &Path, limit: u64) -> Result<Vec<PathBuf>> {
    let data = data_path(path);
    let is_external = model.encoded_len() as u64 > limit;
    let mut paths = vec![path.to_path_buf()];
    if is_external {
        paths.push(data.clone());
    }
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        let path = path.clone();
        return Err(ExportError::Exists { path });
    }
    if is_external {
        let mut model = model.clone(); // the bytes of constants are shared
        let name = data.file_name().unwrap_or_default().to_string_lossy();
        let constants = model
            .graph
            .iter_mut()
            .flat_map(|graph| &mut graph.initializer);
        let constants = constants.filter(|constant| bytes(constant).len() >= LEAST_EXTERNAL_BYTES);
        replace(&data, |file| move_out(constants, &name, file))?;
        let written = replace(path, |file| file.write_all(&model.encode_to_vec()));
        if written.is_err() {
            drop(fs::remove_file(&data)); // of no use alone
        }
        written?;
    } else {
        replace(path, |file| file.write_all(&model.encode_to_vec()))?;
    }
    Ok(paths)
}

fn bytes(constant: &TensorProto) -> &[u8] {
    constant.raw_data.as_deref().unwrap_or_default()
}

/// Writes the values of constants to `file`, called `name`, and refers to them.
fn move_out<'a>(
    constants: impl Iterator<Item = &'a mut TensorProto>,
    name: &str,
    file: &mut impl Write,
) -> io::Result<()> {
    let mut offset = 0_u64;
    for constant in constants {
        let gap = offset.next_multiple_of(ALIGNMENT) - offset;
        file.write_all(&vec![0; gap as usize])?;
        offset += gap;
        let values = constant.raw_data.take().unwrap_or_default();
        file.write_all(&values)?;
        constant.data_location = Some(DataLocation::External.into());
        constant.external_data = [
            ("location", name.to_string()),
            ("offset", offset.to_string()),
            ("length", values.len().to_string()),
        ]
        .into_iter()
        .map(|(key, value)| StringStringEntryProto::new(key, value))
        .collect();
        offset += values.len() as u64;
    }
    Ok(())
}

/// Writes a file under a temporary name in its folder, then renames it, so that no part of one is
/// left.
fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create_new(&temporary).and_then(|file| {
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.into_inner()?.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.map_err(|source| {
        drop(fs::remove_file(&temporary)); // it may not be there
        ExportError::Io {
            action: "write",
            path: path.to_path_buf(),
            source,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{DataType, GraphProto};
    use crate::onnx::tensor;

    fn model() -> ModelProto {
        let constant = |name: &str, length: usize, fill: u8| {
            tensor::new(
                name,
                DataType::Uint8,
                vec![tensor::length(length)],
                vec![fill; length],
            )
        };
        let initializer = vec![
            constant("a", 5000, 1),
            constant("s", 8, 2),
            constant("b", 2000, 3),
        ];
        ModelProto {
            graph: Some(GraphProto {
                initializer,
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
    }

    #[test]
    fn large_constants_go_to_a_second_file_at_aligned_offsets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.onnx");
        let paths = write(&model(), &path, 4096).unwrap();
        assert_eq!(paths, [path.clone(), directory.path().join("m.onnx.data")]);
        let read = ModelProto::decode(&fs::read(&path).unwrap()[..]).unwrap();
        let data = fs::read(&paths[1]).unwrap();
        let constants = read.graph.unwrap().initializer;
        let place = |constant: &TensorProto| -> Vec<String> {
            let entries = constant.external_data.iter();
            entries.map(|entry| entry.value.clone().unwrap()).collect()
        };
        assert_eq!(place(&constants[0]), ["m.onnx.data", "0", "5000"]);
        assert_eq!(place(&constants[2]), ["m.onnx.data", "8192", "2000"]);
        assert_eq!(bytes(&constants[1]), [2; 8]);
        assert_eq!(data.len(), 10192);
        assert_eq!(data[8192..], [3; 2000]);
    }

    #[test]
    fn files_are_not_overwritten_and_leave_nothing_when_they_fail() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.onnx");
        assert_eq!(write(&model(), &path, 1 << 20).unwrap().len(), 1);
        let error = write(&model(), &path, 1 << 20).unwrap_err();
        assert!(matches!(error, ExportError::Exists { .. }), "{error}");
        let error = write(&model(), &directory.path().join("none/m.onnx"), 1).unwrap_err();
        assert!(matches!(error, ExportError::Io { .. }), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
