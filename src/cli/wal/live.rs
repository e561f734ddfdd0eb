//! Is a log in use, by whom, and what does its owner say?

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::WalError;
use crate::cli::admin::{get, reachable};
use crate::wal::beside;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A full read of a large log takes its time; an owner that is silent for longer has gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// What the owner of a log writes into the lock file beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockFile {
    /// The process that uses the log.
    pub pid: u32,
    /// Its admin port.
    pub admin: SocketAddr,
}

/// Where the lock file of a log lies: beside it, under its name with a suffix.
#[must_use]
pub fn lock_path(log: &Path) -> PathBuf {
    beside(log, ".lock")
}

/// Who uses the log, if anyone does.
pub(super) fn lock_file(log: &Path) -> Result<Option<LockFile>, WalError> {
    let path = lock_path(log);
    let failed = |source| WalError::Lock {
        path: path.clone(),
        source,
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock_shared() {
        // Given back at once: a process that starts now must find it free. Closing is not enough where another one is being started,
        // which has a copy of the descriptor until it runs its own program.
        Ok(()) => file.unlock().map(|()| None).map_err(failed),
        Err(TryLockError::WouldBlock) => {
            let text = std::fs::read(&path).map_err(failed)?;
            match serde_json::from_slice(&text) {
                Ok(lock) => Ok(Some(lock)),
                Err(_) => Err(WalError::NoAdmin(log.to_owned())),
            }
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Asks the owner; `token` is what its admin port may ask for.
pub(super) fn ask(
    lock: &LockFile,
    token: Option<&str>,
    path_and_query: &str,
) -> Result<String, WalError> {
    let failed = |what: String| WalError::Admin {
        pid: lock.pid,
        admin: lock.admin,
        what,
    };
    let uri = format!("http://{}{path_and_query}", reachable(lock.admin))
        .parse()
        .map_err(|error| failed(format!("{error}")))?;
    match get(uri, token, CONNECT_TIMEOUT, ANSWER_TIMEOUT) {
        Ok((status, text)) if status.is_success() => Ok(text),
        Ok((status, text)) => Err(failed(format!("{status}: {}", text.trim()))),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_lies_beside_the_log() {
        for (log, expect) in [
            ("a/wal", "a/wal.lock"),
            ("a/wal/", "a/wal.lock"),
            ("x.db", "x.db.lock"),
        ] {
            assert_eq!(lock_path(Path::new(log)), Path::new(expect));
        }
    }

    #[test]
    fn a_log_is_in_use_exactly_while_its_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("wal");
        assert!(lock_file(&log).unwrap().is_none());

        let admin = "127.0.0.1:9090".parse().unwrap();
        let content = serde_json::to_string(&LockFile { pid: 7, admin }).unwrap();
        assert_eq!(content, r#"{"pid":7,"admin":"127.0.0.1:9090"}"#);
        std::fs::write(lock_path(&log), &content).unwrap();
        assert!(lock_file(&log).unwrap().is_none());

        let held = File::open(lock_path(&log)).unwrap();
        held.try_lock().unwrap();
        assert_eq!(lock_file(&log).unwrap(), Some(LockFile { pid: 7, admin }));
        std::fs::write(lock_path(&log), "").unwrap();
        assert!(matches!(lock_file(&log), Err(WalError::NoAdmin(_))));
        held.unlock().unwrap();
        assert!(lock_file(&log).unwrap().is_none());
    }

    #[test]
    fn an_owner_that_does_not_answer_is_named() {
        let lock = LockFile {
            pid: 7,
            // Bound and dropped: nobody listens there.
            admin: std::net::TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| listener.local_addr())
                .unwrap(),
        };
        let error = ask(&lock, None, "/admin/wal/stat").unwrap_err().to_string();
        assert!(error.contains("process 7"), "{error}");
        assert!(error.contains(&lock.admin.to_string()), "{error}");
    }
}
