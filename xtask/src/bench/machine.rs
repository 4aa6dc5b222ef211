//! The machine of a benchmark: its CPU, the CPU's matrix extensions, and the time that a hypervisor
//! gave to others during the run.

use std::fmt;

use perceiver_ops::Bf16Kernel;
use serde::Serialize;

/// The extensions that decide how fast a CPU multiplies matrices, as Linux names them.
const EXTENSIONS: [&str; 4] = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"];

/// The machine that a benchmark ran on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The name of the CPU; `None` if the system does not report it.
    pub cpu: Option<String>,
    /// The number of hardware threads that this program may use.
    pub threads: usize,
    /// The CPU's matrix extensions: those of `avx2`, `avx512f`, `avx512_bf16` and `amx_bf16`;
    /// `None` if the system does not report them.
    pub extensions: Option<Vec<&'static str>>,
    /// The instructions with which our own products in bf16 are computed; `None` if they are
    /// computed in f32.
    pub bf16_kernel: Option<String>,
    /// The share of the CPU time of the run that a hypervisor gave to other machines; `None` if the
    /// system does not report it.
    pub steal_share: Option<f64>,
}

impl Machine {
    /// Describes this machine; `steal_share` is not known yet.
    pub fn here() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            cpu: field(&info, "model name").map(str::to_owned),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            extensions: extensions(&info),
            bf16_kernel: Bf16Kernel::fastest().map(|kernel| kernel.to_string()),
            steal_share: None,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.cpu.as_deref().unwrap_or("unknown CPU");
        let extensions = match &self.extensions {
            None => "unknown".to_owned(),
            Some(extensions) => {
                let sign = |name| {
                    if extensions.contains(name) {
                        "yes"
                    } else {
                        "no"
                    }
                };
                let all = EXTENSIONS
                    .iter()
                    .map(|name| format!("{name} {}", sign(name)));
                all.collect::<Vec<_>>().join(", ")
            }
        };
        let kernel = self.bf16_kernel.as_deref();
        let kernel = kernel.unwrap_or("computed in f32, as the CPU has no instructions for them");
        let steal = match self.steal_share {
            None => "not reported by this system".to_owned(),
            Some(share) => format!("{:.1} % of the CPU time of this run", 100.0 * share),
        };
        writeln!(f, "CPU                {cpu}, {} threads", self.threads)?;
        writeln!(f, "matrix extensions  {extensions}")?;
        writeln!(f, "products in bf16   {kernel}")?;
        write!(f, "steal time         {steal}")
    }
}

/// Returns a field of the first CPU in `/proc/cpuinfo`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// Returns the known extensions among the flags of the first CPU in `/proc/cpuinfo`.
fn extensions(info: &str) -> Option<Vec<&'static str>> {
    let flags: Vec<&str> = field(info, "flags")?.split(' ').collect();
    let has = |name: &&str| flags.contains(name);
    Some(EXTENSIONS.into_iter().filter(has).collect())
}

/// The CPU time of the machine since it started, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    total: u64,
    steal: u64,
}

impl CpuTime {
    /// Reads the time so far; `None` if the system does not report it.
    pub fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// Parses the first line of `/proc/stat`: `cpu`, then the times as user, nice, system, idle,
    /// iowait, irq, softirq and steal. Two more, for guests, are part of the first two.
    fn parse(text: &str) -> Option<Self> {
        let numbers = text.lines().next()?.strip_prefix("cpu ")?;
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map_while(|n| n.parse().ok())
            .collect();
        Some(Self {
            total: numbers.get(..8)?.iter().sum(),
            steal: numbers[7],
        })
    }

    /// Returns the share of steal time between `start` and this.
    pub fn steal_share_since(self, start: Self) -> Option<f64> {
        let total = self
            .total
            .checked_sub(start.total)
            .filter(|&total| total > 0)?;
        Some(self.steal.saturating_sub(start.steal) as f64 / total as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAPPHIRE: &str = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz\n\
         flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 amx_bf16 amx_tile\n\n\
         processor\t: 1\nmodel name\t: another\nflags\t\t: fpu\n";

    #[test]
    fn name_and_extensions_are_those_of_the_first_cpu() {
        let name = field(SAPPHIRE, "model name");
        assert_eq!(name, Some("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"));
        let all = vec!["avx2", "avx512f", "avx512_bf16", "amx_bf16"];
        assert_eq!(extensions(SAPPHIRE), Some(all));
        // A flag that only begins like an extension is another one.
        assert_eq!(
            extensions("flags : avx avx2 avx512fp16"),
            Some(vec!["avx2"])
        );
        assert_eq!(extensions("Features : fp asimd"), None);
        assert_eq!(field("", "model name"), None);
    }

    #[test]
    fn steal_is_the_eighth_time_of_the_first_line() {
        let start = CpuTime::parse("cpu  100 0 50 800 10 0 5 35 7 0\ncpu0 1 2 3\n").unwrap();
        assert_eq!(
            start,
            CpuTime {
                total: 1_000,
                steal: 35
            }
        );
        let end = CpuTime::parse("cpu  180 0 60 870 10 0 5 75 7 0\n").unwrap();
        assert_eq!(end.steal_share_since(start), Some(0.2));
        assert_eq!(start.steal_share_since(start), None);
        assert_eq!(start.steal_share_since(end), None);
        // A kernel without steal time, another line first, and no text at all.
        for text in [
            "cpu  1 2 3 4 5 6 7",
            "intr 1 2 3 4 5 6 7 8 9",
            "cpu  a b",
            "",
        ] {
            assert_eq!(CpuTime::parse(text), None, "{text}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_is_described() {
        assert!(CpuTime::now().unwrap().total > 0);
        let machine = Machine::here();
        assert!(machine.threads > 0);
        #[cfg(target_arch = "x86_64")]
        {
            let has = |name| machine.extensions.as_ref().unwrap().contains(&name);
            assert_eq!(has("avx2"), is_x86_feature_detected!("avx2"));
            assert_eq!(has("avx512f"), is_x86_feature_detected!("avx512f"));
            assert_eq!(has("avx512_bf16"), is_x86_feature_detected!("avx512bf16"));
        }
    }
}
