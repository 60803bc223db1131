//! What a room says to a client, until the room has another owner.

use cluster::lease::Term;
use host::{Loss, ToClient};
use tokio::sync::{mpsc, watch};

/// What a room says to a client, in order.
#[derive(Debug)]
pub struct Messages {
    from: mpsc::Receiver<ToClient>,
    /// Under which term the session was opened, and the newest of the room.
    owner: Option<(Term, watch::Receiver<Term>)>,
}

impl Messages {
    pub(crate) fn alone(from: mpsc::Receiver<ToClient>) -> Self {
        Self { from, owner: None }
    }

    pub(crate) fn of(from: mpsc::Receiver<ToClient>, term: Term, newest: watch::Receiver<Term>) -> Self {
        Self { from, owner: Some((term, newest)) }
    }

    /// Waits for messages and adds up to `limit` of them to `batch`. 0: none will come, as the client did not read fast
    /// enough. A room that has another owner now ends the session with [`Loss::Superseded`], and nothing of the old owner
    /// comes after that.
    pub async fn recv_many(&mut self, batch: &mut Vec<ToClient>, limit: usize) -> usize {
        let Some((term, newest)) = &mut self.owner else {
            return self.from.recv_many(batch, limit).await;
        };
        tokio::select! {
            biased;
            Ok(_) = newest.wait_for(|newest| *newest > *term) => {
                batch.push(ToClient::Lost(Loss::Superseded));
                1
            }
            count = self.from.recv_many(batch, limit) => count,
        }
    }

    /// As [`Self::recv_many`], one message; `None` when none will come.
    pub async fn recv(&mut self) -> Option<ToClient> {
        let mut one = Vec::with_capacity(1);
        self.recv_many(&mut one, 1).await;
        one.pop()
    }
}
