//! A line to a service that can be bad in every way: what a TCP proxy can do to those who talk through it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// As it should be.
    Good,
    /// Everything arrives so much later.
    Late(Duration),
    /// Nothing arrives, and nobody is told; what was under way arrives afterwards.
    BlackHole,
    /// Every connection is reset, and each new one as well.
    Reset,
    /// Every connection is dead for ever although it looks open, and each new one as well.
    HalfOpen,
}

impl Mode {
    /// Whether connections come to their end.
    fn ends(&self) -> bool {
        matches!(self, Self::Reset | Self::HalfOpen)
    }
}

/// The line. Its connections end when it is dropped.
#[derive(Debug)]
pub(super) struct Line {
    address: String,
    mode: watch::Sender<Mode>,
    _accepting: JoinSet<()>,
}

impl Line {
    /// A good line to this URL.
    pub(super) async fn to(url: &str) -> Result<Self> {
        let to: Arc<str> = url.trim_start_matches("http://").into();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (mode, modes) = watch::channel(Mode::Good);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                // How a connection ends is the affair of those who talk.
                connections.spawn(carry(near, Arc::clone(&to), modes.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            mode,
            _accepting: accepting,
        })
    }

    /// Where to talk to the service through it.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it is like this.
    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

/// One connection, to its end.
async fn carry(mut near: TcpStream, to: Arc<str>, mut modes: watch::Receiver<Mode>) -> Result<()> {
    near.set_nodelay(true)?;
    let mut mode = *modes.borrow();
    if !mode.ends() {
        let mut far = TcpStream::connect(&*to).await?;
        far.set_nodelay(true)?;
        let (near_in, near_out) = near.split();
        let (far_in, far_out) = far.split();
        let pumps = (modes.clone(), modes.clone());
        mode = tokio::select! {
            // The first direction that ends takes the other with it.
            ended = pump(near_in, far_out, pumps.0) => return ended,
            ended = pump(far_in, near_out, pumps.1) => return ended,
            mode = modes.wait_for(Mode::ends) => *mode?,
        };
    }
    if mode == Mode::HalfOpen {
        let mut bytes = [0; 4_096];
        while near.read(&mut bytes).await? > 0 {}
        return Ok(());
    }
    Ok(near.set_zero_linger()?)
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut modes: watch::Receiver<Mode>,
) -> Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes).await?;
        let Some(read @ [_, ..]) = bytes.get(..count) else {
            return Ok(());
        };
        let mode = *modes.wait_for(|mode| *mode != Mode::BlackHole).await?;
        if let Mode::Late(by) = mode {
            sleep(by).await;
        }
        to.write_all(read).await?;
    }
}
