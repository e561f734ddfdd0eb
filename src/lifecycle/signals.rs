//! Signals: the first SIGTERM or SIGINT asks for a graceful stop, the second ends the process at once.
//!
//! Ending at once loses nothing that was accepted: the log makes an event durable, not the stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Tasks;

/// Whether a graceful stop was asked for. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// A stop that only [`Stop::request`] asks for.
    #[must_use]
    pub fn manual() -> Self {
        Self::default()
    }

    /// Listens to SIGTERM and SIGINT from now on. Must be called within the runtime.
    ///
    /// # Errors
    ///
    /// When the operating system refuses a handler.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        // Tasks of its own: nobody may wait for a listener that ends only with the process.
        drop(Tasks::default().spawn("signals", {
            let stop = stop.clone();
            async move {
                stop.request_by(signals.next().await);
                exit(signals.next().await);
            }
        }));
        Ok(stop)
    }

    /// Asks for a graceful stop.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Resolves when a graceful stop was asked for.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Whether a graceful stop was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// The token behind it; its children are cancelled with it.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.0
    }

    fn request_by(&self, received: Received) {
        tracing::info!(signal = received.name(), "stop_requested");
        self.request();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Received {
    Terminate,
    Interrupt,
}

impl Received {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }

    /// What a shell reports for a process that the signal ended.
    fn exit_code(self) -> i32 {
        match self {
            Self::Terminate => 143,
            Self::Interrupt => 130,
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// The next signal. Cancel-safe on both arms: a signal that was not taken stays pending in its stream.
    async fn next(&mut self) -> Received {
        tokio::select! {
            Some(()) = self.terminate.recv() => Received::Terminate,
            Some(()) = self.interrupt.recv() => Received::Interrupt,
            else => std::future::pending().await,
        }
    }
}

#[expect(
    clippy::exit,
    reason = "the one place where the process ends without stopping: it was told twice"
)]
fn exit(received: Received) -> ! {
    tracing::warn!(signal = received.name(), "stopped_at_once");
    std::process::exit(received.exit_code())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn the_first_signal_asks_for_a_stop() {
        let stop = Stop::on_signals().unwrap();
        assert!(!stop.is_requested());
        let this = rustix::process::getpid();
        rustix::process::kill_process(this, rustix::process::Signal::TERM).unwrap();
        stop.requested().await;
        assert!(stop.token().is_cancelled());
    }

    #[tokio::test]
    #[ignore = "runs in a process of its own, started by the test below"]
    async fn ignore_the_first_signal() {
        let stop = Stop::on_signals().unwrap();
        say("listening");
        stop.requested().await;
        say("stopping");
        std::future::pending::<()>().await;
    }

    fn say(word: &str) {
        writeln!(std::io::stderr(), "{word}").unwrap();
    }

    #[test]
    fn the_second_signal_ends_the_process_at_once() {
        use rustix::process::{Pid, Signal, kill_process};

        let name = "lifecycle::signals::tests::ignore_the_first_signal";
        for (second, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--ignored", "--nocapture"])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let pid = Pid::from_child(&child);
            let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
            let mut wait_for = |word: &str| assert!(lines.any(|line| line.unwrap() == word));
            wait_for("listening");
            kill_process(pid, Signal::TERM).unwrap();
            wait_for("stopping");
            kill_process(pid, second).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(code));
        }
    }

    #[tokio::test]
    async fn a_stop_can_be_asked_for_by_hand() {
        let stop = Stop::manual();
        stop.clone().request();
        stop.requested().await;
    }
}
