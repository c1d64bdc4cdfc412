//! A loopback proxy between a process and a server, to cut, hold up or answer its connections.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What S3 says when it is overloaded, and what every HTTP client reads as "later".
const SLOW_DOWN: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What happens to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes pass.
    Pass,
    /// Open connections break, new ones are closed at once.
    Cut,
    /// Connections stay and no byte passes, until they do again: as when a cable is out.
    Hold,
    /// Every piece of data takes its time.
    Slow(Duration),
    /// Open connections break, new ones get an HTTP 503.
    Refuse,
}

/// One proxy; it lives as long as the runtime.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
}

impl Proxy {
    /// Listens on a free port and passes connections on to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (mode, told) = watch::channel(Mode::Pass);
        tokio::spawn(async move {
            loop {
                // A failed accept concerns its connection alone.
                if let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(serve(client, target, told.clone()));
                }
            }
        });
        Ok(Self { address, mode })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

/// What goes wrong here breaks the connection, which is what proxies do.
async fn serve(mut client: TcpStream, target: SocketAddr, told: watch::Receiver<Mode>) {
    let mode = *told.borrow();
    match mode {
        Mode::Cut => return,
        Mode::Refuse => {
            let mut request = [0; 1024];
            let _ = client.read(&mut request).await;
            let _ = client.write_all(SLOW_DOWN).await;
            return;
        }
        Mode::Pass | Mode::Hold | Mode::Slow(_) => {}
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, told.clone()) => {}
        () = pump(from_server, to_client, told.clone()) => {}
        () = broken(told) => {}
    }
}

/// Ends when connections are to break.
async fn broken(mut told: watch::Receiver<Mode>) {
    let _ = told
        .wait_for(|mode| matches!(mode, Mode::Cut | Mode::Refuse))
        .await;
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut told: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let mode = told.wait_for(|mode| *mode != Mode::Hold).await;
        let mode = mode.map(|mode| *mode);
        if let Ok(Mode::Slow(pause)) = mode {
            tokio::time::sleep(pause).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
