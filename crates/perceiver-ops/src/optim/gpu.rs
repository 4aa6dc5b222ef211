//! Multi-tensor optimizer steps on CUDA: one or two kernels for all parameters of a model.

use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, Storage, Tensor, bail};
use half::bf16;

use crate::cuda::launch::{MODULE, WARP, compiled};
use crate::cuda::profiler::events::timed;
use crate::optim::ParameterStep;
use crate::{AdamStep, LambStep};

/// Number of values a block takes at a time.
const CHUNK: usize = 8_192;

/// Number of threads in a block.
const THREADS: u32 = 256;

/// Returns whether there are tensors, and all are contiguous, on a GPU and of type `dtype`.
pub(crate) fn are_there<'a>(tensors: impl IntoIterator<Item = &'a Tensor>, dtype: DType) -> bool {
    let mut tensors = tensors.into_iter().peekable();
    tensors.peek().is_some()
        && tensors.all(|tensor| {
            tensor.device().is_cuda() && tensor.dtype() == dtype && tensor.is_contiguous()
        })
}

/// Runs a step of Adam.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn adam(
    parameters: &[ParameterStep<2>],
    step: AdamStep,
    factor: Option<&Tensor>,
) -> Result<()> {
    let all = Table::new(parameters)?;
    let numbers = [
        step.first_rate,
        step.second_rate,
        step.step_size,
        step.epsilon,
    ];
    all.launch("adam_steps", Some(address_or_null(factor)?), None, &numbers)
}

/// Runs a step of LAMB.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn lamb(
    parameters: &[ParameterStep<2>],
    step: LambStep,
    factor: Option<&Tensor>,
) -> Result<()> {
    let all = Table::new(parameters)?;
    let sums = all.sums(2)?;
    let numbers = [
        step.first_rate,
        step.second_rate,
        step.first_correction,
        step.second_correction,
        step.epsilon,
        step.learning_rate,
    ];
    let factor = Some(address_or_null(factor)?);
    all.launch("lamb_moments", factor, Some(&sums), &numbers)?;
    all.launch("lamb_changes", None, Some(&sums), &numbers)
}

/// Updates moving averages, each towards the value in its pair.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn ema_updates(pairs: &[(&Tensor, &Tensor)], rate: f32) -> Result<()> {
    Table::of_pairs(pairs)?.launch("move_means", None, None, &[rate])
}

/// Adds the second tensor of every pair to the first, all of one type.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn add_all(pairs: &[(&Tensor, &Tensor)], dtype: DType) -> Result<()> {
    let kernel = match dtype {
        DType::BF16 => "add_all_bf16",
        _ => "add_all_f32",
    };
    Table::of_pairs(pairs)?.launch(kernel, None, None, &[])
}

/// Copies the second tensor of every pair into the first.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn narrow_all(pairs: &[(&Tensor, &Tensor)]) -> Result<()> {
    Table::of_pairs(pairs)?.launch("narrow_all", None, None, &[])
}

/// Converts tensors to `f32`, concatenated in one allocation.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn widen_all(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    let count = tensors.iter().map(Tensor::elem_count).sum::<usize>();
    let Device::Cuda(device) = tensors[0].device() else {
        bail!("widen: expected tensors on a GPU");
    };
    // SAFETY: any bits are an `f32`, and the kernel writes all of them.
    #[allow(unsafe_code)]
    let values = unsafe { device.alloc::<f32>(count) }?;
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(values, device.clone()));
    let all = Tensor::from_storage(storage, count, BackpropOp::none(), false);
    let mut start = 0;
    let parts = tensors.iter().map(|tensor| {
        let part = all.narrow(0, start, tensor.elem_count())?;
        start += tensor.elem_count();
        part.reshape(tensor.shape())
    });
    let parts = parts.collect::<Result<Vec<_>>>()?;
    let pairs: Vec<_> = parts.iter().zip(tensors).collect();
    Table::of_pairs(&pairs)?.launch("widen_all", None, None, &[])?;
    Ok(parts)
}

/// Computes the sum of squares over all tensors, a scalar on their device.
///
/// # Errors
/// When the kernels do not compile.
pub(crate) fn sum_of_squares(tensors: &[Tensor]) -> Result<Tensor> {
    let pairs: Vec<_> = tensors.iter().zip(tensors).collect();
    let all = Table::of_pairs(&pairs)?;
    let sums = all.sums(1)?;
    all.launch("squares", None, Some(&sums), &[])?;
    let count = sums.len();
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(sums, all.device.clone()));
    let sums = Tensor::from_storage(storage, (count, 1), BackpropOp::none(), false);
    crate::cuda::column_sums(&sums, DType::F32)?.squeeze(0)
}

/// A row of the table: values, moments and gradient of a parameter, decoupled and inner decay.
struct Row<'a> {
    tensors: [&'a Tensor; 4],
    decays: [f32; 2],
}

/// The parameters and chunks of `kernels.cu`, on the GPU.
struct Table {
    device: CudaDevice,
    parameters: CudaSlice<u64>,
    chunks: CudaSlice<u64>,
}

impl Table {
    fn new(parameters: &[ParameterStep<2>]) -> Result<Self> {
        let rows: Vec<Row> = parameters
            .iter()
            .map(|step| {
                let [first, second] = step.moments;
                Row {
                    tensors: [step.parameter, first, second, step.gradient],
                    decays: [step.decay, step.weight_decay],
                }
            })
            .collect();
        Self::of_rows(&rows)
    }

    /// Creates a table from destinations and sources, the latter in place of gradients, without
    /// decay.
    fn of_pairs(pairs: &[(&Tensor, &Tensor)]) -> Result<Self> {
        let rows = pairs.iter().map(|&(to, from)| Row {
            tensors: [to, to, to, from],
            decays: [0.0; 2],
        });
        Self::of_rows(&rows.collect::<Vec<_>>())
    }

    fn of_rows(rows: &[Row]) -> Result<Self> {
        let Some(Device::Cuda(device)) = rows.first().map(|row| row.tensors[0].device()) else {
            bail!("optimizer step: expected parameters on the GPU, found none");
        };
        let (mut parameters, mut chunks) = (Vec::new(), Vec::new());
        for (number, row) in rows.iter().enumerate() {
            let count = row.tensors[0].elem_count();
            for tensor in row.tensors {
                if tensor.elem_count() != count {
                    let dims = row.tensors.map(Tensor::dims);
                    bail!("optimizer step: expected tensors of one shape, found {dims:?}");
                }
                parameters.push(address(tensor)?);
            }
            let decays = row.decays.map(|decay| u64::from(decay.to_bits()));
            parameters.extend([
                count as u64,
                chunks.len() as u64,
                decays[0] | decays[1] << 32,
            ]);
            let indices = 0..count.div_ceil(CHUNK) as u64;
            chunks.extend(indices.map(|index| number as u64 | index << 32));
        }
        Ok(Self {
            device: device.clone(),
            parameters: device.clone_htod(&parameters)?,
            chunks: device.clone_htod(&chunks)?,
        })
    }

    /// Allocates `of_a_warp` sums for every warp of every chunk.
    fn sums(&self, of_a_warp: usize) -> Result<CudaSlice<f32>> {
        let warps = self.chunks.len() * (THREADS / WARP) as usize;
        // SAFETY: any bits are an `f32`, and the kernels write all of them.
        #[allow(unsafe_code)]
        unsafe {
            self.device.alloc(warps * of_a_warp)
        }
    }

    fn launch(
        &self,
        kernel: &str,
        factor: Option<u64>,
        sums: Option<&CudaSlice<f32>>,
        numbers: &[f32],
    ) -> Result<()> {
        let function = self
            .device
            .get_or_load_custom_func(kernel, MODULE, compiled()?)?;
        let (count, length) = (self.chunks.len() as u64, CHUNK as u64);
        let mut arguments = function.builder();
        arguments.arg(&self.parameters).arg(&self.chunks);
        arguments.arg(&count).arg(&length);
        if let Some(factor) = &factor {
            arguments.arg(factor);
        }
        if let Some(sums) = sums {
            arguments.arg(sums);
        }
        for number in numbers {
            arguments.arg(number);
        }
        let threads = LaunchConfig {
            grid_dim: (self.chunks.len().max(1) as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        timed(
            &self.device,
            || kernel.to_owned(),
            || {
                // SAFETY: the arguments are those that `kernels.cu` declares; the tensors whose
                // addresses are in the table live until the caller is done with them, after which
                // their memory is freed in stream order, and nobody reads one meanwhile.
                #[allow(unsafe_code)]
                unsafe { arguments.launch(threads) }.w()?;
                Ok(())
            },
        )
    }
}

/// Returns the address of the first value of a contiguous tensor.
fn address(tensor: &Tensor) -> Result<u64> {
    match tensor.dtype() {
        DType::BF16 => address_of::<bf16>(tensor),
        _ => address_of::<f32>(tensor),
    }
}

fn address_of<T: CudaDType>(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        let found = tensor.device();
        bail!("optimizer step: expected a tensor on the GPU, found one on {found:?}");
    };
    let values = storage.as_cuda_slice::<T>()?;
    let stream = storage.device.cuda_stream();
    let (start, _guard) = values.device_ptr(&stream);
    Ok(start + (layout.start_offset() * size_of::<T>()) as u64)
}

fn address_or_null(tensor: Option<&Tensor>) -> Result<u64> {
    tensor.map_or(Ok(0), address)
}
