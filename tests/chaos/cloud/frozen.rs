//! An emulator that stands still: whoever listens at its address, and all that it started, stopped by SIGSTOP until this is dropped.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

/// What stands still.
#[derive(Debug)]
pub(super) struct Frozen(Vec<Pid>);

impl Frozen {
    /// Stops the emulator at this URL, which has this in its command line; `None` where it is no process of this machine's that can be
    /// seen and stopped, as in a container.
    pub(super) fn at(url: &str, name: &str) -> Result<Option<Self>> {
        let port = url.rsplit(':').next().context("a URL with a port")?;
        let Some(listener) = listener(port.trim_end_matches('/').parse()?)? else {
            return Ok(None);
        };
        let told = fs::read(format!("/proc/{listener}/cmdline"))?;
        let told = String::from_utf8_lossy(&told).replace('\0', " ");
        if !told.contains(name) {
            return Ok(None);
        }
        // Whoever stands in front goes first: nobody speaks to what is half asleep.
        let mut frozen = Self(Vec::new());
        for process in family(listener)? {
            let pid = Pid::from_raw(process).context("a process id is not 0")?;
            kill_process(pid, Signal::STOP)?;
            frozen.0.push(pid);
        }
        Ok(Some(frozen))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in self.0.iter().rev() {
            // One that is gone needs no waking.
            kill_process(*pid, Signal::CONT).unwrap_or(());
        }
    }
}

/// The process that listens on this port, if it can be seen.
fn listener(port: u16) -> Result<Option<i32>> {
    let mut sockets = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Local address, state (0A: it listens) and inode.
            let field = |at: usize| fields.get(at).copied().unwrap_or_default();
            if field(3) == "0A" && field(1).ends_with(&format!(":{port:04X}")) {
                sockets.insert(format!("socket:[{}]", field(9)));
            }
        }
    }
    for process in processes()? {
        let descriptors = fs::read_dir(format!("/proc/{process}/fd"));
        let mut descriptors = descriptors.into_iter().flatten().flatten();
        let listens = descriptors.any(|descriptor| {
            let link = fs::read_link(descriptor.path()).unwrap_or_default();
            sockets.contains(&*link.to_string_lossy())
        });
        if listens {
            return Ok(Some(process));
        }
    }
    Ok(None)
}

/// A process and all that descend from it, parents first.
fn family(root: i32) -> Result<Vec<i32>> {
    let mut family = vec![root];
    let mut at = 0;
    while let Some(&parent) = family.get(at) {
        for process in processes()? {
            if parent_of(process) == Some(parent) {
                family.push(process);
            }
        }
        at += 1;
    }
    Ok(family)
}

fn parent_of(process: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name, which may hold anything: the state, then the parent.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn processes() -> Result<Vec<i32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect())
}
