//! What stands between an example and the gateway: it passes bytes on, keeps answers back, and leads elsewhere when the gateway does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A port of its own in front of a gateway. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) addr: SocketAddr,
    to: Arc<Mutex<String>>,
    answers: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Relay {
    pub(super) async fn to(gateway: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let to = Arc::new(Mutex::new(gateway.to_owned()));
        let answers = watch::Sender::new(true);
        let mut accepting = JoinSet::new();
        let (leads_to, passes) = (Arc::clone(&to), answers.subscribe());
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let to = leads_to
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                let passes = passes.clone();
                connections.spawn(async move {
                    // Where nobody listens, the connection ends.
                    let Ok(far) = TcpStream::connect(to).await else {
                        return;
                    };
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    // Either side's end is the end of both.
                    tokio::select! {
                        () = pass(near_read, far_write, None) => {}
                        () = pass(far_read, near_write, Some(passes)) => {}
                    }
                });
            }
        });
        Self {
            addr,
            to,
            answers,
            _accepting: accepting,
        }
    }

    /// New connections go to another gateway from now on, and answers arrive again.
    pub(super) fn lead_to(&self, gateway: &str) {
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = gateway.to_owned();
        self.answers.send_replace(true);
    }

    /// Nothing that the gateway says arrives any more.
    pub(super) fn keep_answers_back(&self) {
        self.answers.send_replace(false);
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    passes: Option<watch::Receiver<bool>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    // Once something was kept back, what comes later would make no sense.
    let mut kept_back = false;
    while let Ok(length) = from.read(&mut buffer).await {
        if length == 0 {
            return;
        }
        kept_back |= passes.as_ref().is_some_and(|passes| !*passes.borrow());
        if !kept_back && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
