//! What HTTP/2 is told to run on: a stream that remembers why TLS ended it, which HTTP/2 keeps only as text, and tasks that
//! end when they are told to.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use hyper::rt::Executor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::error::Policy;
use crate::security::refused_by_tls;

/// A stream, and what TLS said at its end.
#[derive(Debug)]
pub(crate) struct Remembering<S> {
    inner: S,
    refused: Arc<OnceLock<Policy>>,
}

impl<S> Remembering<S> {
    pub(crate) fn new(inner: S) -> (Self, Arc<OnceLock<Policy>>) {
        let refused = Arc::new(OnceLock::new());
        (Self { inner, refused: refused.clone() }, refused)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Remembering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, into);
        if let Poll::Ready(Err(error)) = &read
            && let Some(policy) = refused_by_tls(error)
        {
            // The first is the reason.
            let _ = self.refused.set(policy);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Remembering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Runs a connection's tasks until the sender says so or is gone.
#[derive(Debug, Clone)]
pub(crate) struct Tasks(watch::Receiver<bool>);

impl Tasks {
    pub(crate) fn new() -> (Self, Arc<watch::Sender<bool>>) {
        let (over, is_over) = watch::channel(false);
        (Self(is_over), Arc::new(over))
    }

    /// Runs one more.
    pub(crate) fn run(&self, task: impl Future<Output: Send> + Send + 'static) {
        let mut is_over = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = task => {}
                () = async { drop(is_over.wait_for(|over| *over).await) } => {}
            }
        });
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.run(task);
    }
}
