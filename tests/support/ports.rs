//! Ports that are known before anybody listens on them.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A port of the loopback that is nobody's by chance for as long as the socket is kept, which is bound and does not listen: whoever
/// connects is refused, until somebody who is told of the port listens there.
pub(crate) fn held() -> (TcpSocket, SocketAddr) {
    let bound = || {
        let socket = TcpSocket::new_v4()?;
        // Several sockets may share an address so, as long as one of them listens at most.
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = socket.local_addr()?;
        std::io::Result::Ok((socket, address))
    };
    bound().expect("a free port")
}
