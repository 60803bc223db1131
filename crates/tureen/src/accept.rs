//! What is taken in at the HTTP port, below TLS and HTTP: so many connections at once, and none on which nothing moves.
//! The HTTP library has deadlines only from the first byte on, so that a socket that sends none would stay for ever.

use std::future::{Future, Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Takes connections in, on top of another acceptor. Clones share the count.
#[derive(Debug, Clone)]
pub(crate) struct Door<A> {
    inner: A,
    places: Arc<Semaphore>,
    idle: Duration,
}

impl<A> Door<A> {
    /// Takes in `connections` at once, each of which ends when nothing was received or sent on it for `idle`.
    pub(crate) fn new(inner: A, connections: usize, idle: Duration) -> Self {
        let places = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        Self { inner, places, idle }
    }
}

impl<A, I, S> Accept<I, S> for Door<A>
where
    A: Accept<I, S, Service = S, Stream = I, Future = Ready<io::Result<(I, S)>>>,
{
    type Stream = Watched<I>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            metrics::counter!("tureen_http_connections_refused_total").increment(1);
            return ready(Err(io::Error::other("too many connections")));
        };
        let idle = self.idle;
        let accepted = self.inner.accept(stream, service).into_inner();
        ready(accepted.map(|(stream, service)| (Watched::new(stream, idle, place), service)))
    }
}

/// A connection that fails when nothing moves on it.
#[derive(Debug)]
pub(crate) struct Watched<I> {
    inner: I,
    idle: Duration,
    deadline: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<I> Watched<I> {
    fn new(inner: I, idle: Duration, place: OwnedSemaphorePermit) -> Self {
        Self { inner, idle, deadline: Box::pin(tokio::time::sleep(idle)), _place: place }
    }

    /// Passes on what came of reading or writing, or that nothing did for too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, came: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if came.is_ready() {
            self.deadline.as_mut().reset(Instant::now() + self.idle);
            return came;
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let came = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.watch(cx, came)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let came = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch(cx, came)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let came = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.watch(cx, came)
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

#[cfg(test)]
mod tests {
    use axum_server::accept::DefaultAcceptor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const IDLE: Duration = Duration::from_millis(200);

    fn take(door: &Door<DefaultAcceptor>) -> io::Result<(Watched<DuplexStream>, DuplexStream)> {
        let (near, far) = duplex(64);
        let (watched, ()) = door.accept(near, ()).into_inner()?;
        Ok((watched, far))
    }

    #[tokio::test]
    async fn a_silent_connection_ends_and_one_that_speaks_now_and_then_does_not() {
        let door = Door::new(DefaultAcceptor::new(), 2, IDLE);
        let (mut watched, mut far) = take(&door).expect("a place");
        let began = Instant::now();
        let mut pulse = tokio::time::interval(IDLE / 4);
        for _ in 0..6 {
            pulse.tick().await;
            far.write_all(b"x").await.expect("written");
            assert_eq!(watched.read_u8().await.expect("read"), b'x');
        }
        assert!(began.elapsed() > IDLE);
        let error = watched.read_u8().await.expect_err("nothing came");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn there_are_so_many_places_and_an_ended_connection_frees_its_own() {
        let door = Door::new(DefaultAcceptor::new(), 2, IDLE);
        let first = take(&door).expect("a place");
        let _second = take(&door).expect("a place");
        assert!(take(&door).is_err());
        drop(first);
        assert!(take(&door).is_ok());
    }
}
