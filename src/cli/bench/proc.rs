//! What the kernel says about a process: CPU time and memory, from `/proc`.

use std::io;

/// Seconds of CPU time that a process has used, in user mode and in the kernel, all its threads.
pub(super) fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| unreadable("stat"))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Seconds of CPU time that all processes of the machine have used together.
pub(super) fn machine_cpu_seconds() -> io::Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let ticks = machine_ticks(&stat).ok_or_else(|| unreadable("stat"))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Now, in bytes.
    pub(super) resident: u64,
    /// The most it ever was, in bytes.
    pub(super) peak: u64,
}

pub(super) fn memory(pid: u32) -> io::Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    read_memory(&status).ok_or_else(|| unreadable("status"))
}

fn unreadable(file: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a file {file} of /proc is not as expected"),
    )
}

/// `utime` and `stime`. The second field, the name, may hold anything, so fields are counted from behind it.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The first line's user, nice and system, interrupts included, without idle, waiting for a disk, and guests (they are in user).
fn machine_ticks(stat: &str) -> Option<u64> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    let all: Vec<u64> = all
        .split_ascii_whitespace()
        .map_while(|ticks| ticks.parse().ok())
        .collect();
    let at = |field: usize| all.get(field).copied();
    Some(at(0)? + at(1)? + at(2)? + at(5)? + at(6)?)
}

fn read_memory(status: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    };
    Some(Memory {
        resident: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "17 (a) b) (c) S 1 17 17 0 -1 4194560 1 0 0 0 250 50 9 9 20 0 4 0 100";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("17 (x) S 1"), None);
        let stat = "cpu  100 20 30 4000 500 6 7 8 9 10\ncpu0 1 2 3\n";
        assert_eq!(machine_ticks(stat), Some(163));
        assert_eq!(machine_ticks("intr 1"), None);
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let memory = read_memory(status).unwrap();
        assert_eq!((memory.resident, memory.peak), (1 << 20, 2 << 20));
    }

    #[test]
    fn this_process_has_figures() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() >= 0.0);
        assert!(machine_cpu_seconds().unwrap() > 0.0);
        let memory = memory(pid).unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
    }
}
