//! A way to a TCP server that can be shut in the middle of a conversation: what is asked about a certain thing is held back, or the
//! answer to it is, for as long as a test likes. So a test does something exactly while one program waits for another.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a gate holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// What is asked: the server has not heard it. It hears it when the gate opens, even if whoever asked is gone by then.
    Questions,
    /// What is answered: the server has done it, and whoever asked does not know.
    Answers,
}

/// A way to a server. Lasts as long as the process. Clones share it.
#[derive(Debug, Clone)]
pub struct Gate {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Now {
    /// It shuts when a question has this in it.
    waits_for: Option<(Hold, Vec<u8>)>,
    shut: Option<Hold>,
}

impl Gate {
    /// Passes connections on to `target`.
    ///
    /// # Panics
    /// Where no port is free.
    pub fn new(target: String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A server that is away refuses; so does the way to it.
                if let Ok(server) = TcpStream::connect(&target) {
                    pass(&client, &server, &shared);
                }
            }
        });
        Self { address, state }
    }

    /// Where it takes connections.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next question with this word in it shuts the gate, for all connections.
    pub fn shut_at(&self, hold: Hold, word: &str) {
        self.state.now().waits_for = Some((hold, word.as_bytes().to_vec()));
    }

    /// Waits until it is shut. `false`: the time is over.
    pub fn is_shut_within(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut now = self.state.now();
        while now.shut.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.state.changed.wait_timeout(now, left);
            now = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Everything passes, what was held back first.
    pub fn open(&self) {
        *self.state.now() = Now::default();
        self.state.changed.notify_all();
    }
}

impl State {
    fn now(&self) -> MutexGuard<'_, Now> {
        // Plain values, whole at every instruction.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A question is to pass: waits while questions are held back.
    fn ask(&self, question: &[u8]) {
        let mut now = self.now();
        let has = |word: &[u8]| question.windows(word.len()).any(|part| part == word);
        if now.waits_for.as_ref().is_some_and(|(_, word)| has(word)) {
            now.shut = now.waits_for.take().map(|(hold, _)| hold);
            self.changed.notify_all();
        }
        drop(now);
        self.wait_while(Hold::Questions);
    }

    fn wait_while(&self, held: Hold) {
        let mut now = self.now();
        while now.shut == Some(held) {
            now = self.changed.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn pass(client: &TcpStream, server: &TcpStream, state: &Arc<State>) {
    let clones = || Some((client.try_clone().ok()?, server.try_clone().ok()?));
    let (Some((from_client, to_server)), Some((to_client, from_server))) = (clones(), clones()) else {
        return;
    };
    let asking = Arc::clone(state);
    std::thread::spawn(move || copy(from_client, to_server, |question| asking.ask(question)));
    let answering = Arc::clone(state);
    std::thread::spawn(move || copy(from_server, to_client, |_| answering.wait_while(Hold::Answers)));
}

fn copy(mut from: TcpStream, mut to: TcpStream, may_pass: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 * 1_024];
    // Either end may go at any time.
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        may_pass(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A server that answers each word with the same word.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let back = stream.try_clone().expect("a handle");
                std::thread::spawn(move || copy(stream, back, |_| {}));
            }
        });
        address
    }

    #[test]
    fn what_is_held_back_passes_when_the_gate_opens() {
        for hold in [Hold::Questions, Hold::Answers] {
            let gate = Gate::new(echo().to_string());
            let mut client = TcpStream::connect(gate.address()).expect("connected");
            client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let mut heard = [0; 3];
            gate.shut_at(hold, "two");
            client.write_all(b"one").expect("sent");
            client.read_exact(&mut heard).expect("answered");
            assert_eq!(&heard, b"one");
            client.write_all(b"two").expect("sent");
            assert!(gate.is_shut_within(PATIENCE), "{hold:?}");
            client.set_nonblocking(true).expect("set");
            assert!(client.read(&mut heard).is_err(), "{hold:?}: nothing comes while it is shut");
            client.set_nonblocking(false).expect("set");
            gate.open();
            client.read_exact(&mut heard).expect("answered");
            assert_eq!(&heard, b"two");
        }
    }
}
