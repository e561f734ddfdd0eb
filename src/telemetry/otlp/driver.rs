//! What drives gRPC: a runtime and a thread of its own, so that an export takes no turn from the events', and so that it
//! goes on while the program's own runtime ends.

use std::io;

use opentelemetry::Context;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The hold on it; it ends with the last exporter that uses it.
#[derive(Debug)]
pub(super) struct Driver {
    handle: Handle,
    _ends: oneshot::Sender<()>,
}

impl Driver {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (ends, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("telemetry".into())
            .spawn(move || {
                // What the transport says about itself is no telemetry: it would be about itself for ever.
                let _silence = Context::enter_telemetry_suppressed_scope();
                runtime.block_on(async { ended.await.unwrap_or_default() });
                runtime.shutdown_background();
            })?;
        Ok(Self {
            handle,
            _ends: ends,
        })
    }

    /// Runs something that needs to be in the runtime when it begins.
    pub(super) fn within<T>(&self, make: impl FnOnce() -> T) -> T {
        let _entered = self.handle.enter();
        make()
    }
}
