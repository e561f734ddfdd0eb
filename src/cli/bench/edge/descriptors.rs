//! How many files, connections among them, this process and the servers that it starts may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit where it is lower, as far as the system lets us; says why if it does not.
pub(super) fn allow(wanted: u64) -> Result<(), String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(wanted),
        // Beyond it only someone privileged may go.
        maximum: maximum.map(|maximum| maximum.max(wanted)),
    };
    setrlimit(Resource::Nofile, raised).map_err(|error| {
        let current = current.unwrap_or_default();
        format!(
            "it needs {wanted} open files, this process may have {current} and may not raise that ({error}): `ulimit -n {wanted}` first"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_already_stays_and_what_cannot_be_is_said() {
        let before = getrlimit(Resource::Nofile).current;
        assert_eq!(allow(8), Ok(()));
        assert_eq!(getrlimit(Resource::Nofile).current, before);
        // More than any kernel's `fs.nr_open`.
        let why = allow(1 << 40).unwrap_err();
        assert!(why.contains("ulimit -n 1099511627776"), "{why}");
    }
}
